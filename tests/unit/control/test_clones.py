"""Clones of volumes, snapshots, templates and clones; hiding and purging."""

from __future__ import annotations

import itertools

import pytest

from ovs_daemon.control import snapshots, volumes
from ovs_daemon.control.records import State
from ovs_daemon.control.volumes import Source
from tests.support.house import House
from tests.unit.control.test_volumes import GIB, refused


def test_clone_of_a_snapshot(house: House) -> None:
    parent = volumes.create_volume(house.host, "base", GIB, None)
    house.disk.volumes[parent.uuid].content = 7
    snapshot = snapshots.create_snapshot(house.host, "base", "s1")
    house.disk.volumes[parent.uuid].content = 8
    clone = volumes.create_volume(house.host, "c1", None, Source("base", "s1"))
    assert clone.parent is not None
    assert (clone.parent.volume, clone.parent.snapshot) == (parent.uuid, snapshot.uuid)
    assert (clone.ancestors, clone.size) == ((parent.uuid,), GIB)
    assert house.disk.volumes[clone.uuid].content == 7


def test_clone_of_a_volume_as_it_is(house: House) -> None:
    parent = volumes.create_volume(house.host, "base", GIB, None)
    house.disk.volumes[parent.uuid].content = 7
    clone = volumes.create_volume(house.host, "c1", 2 * GIB, Source("base", None))
    assert (house.disk.volumes[clone.uuid].content, clone.size) == (7, 2 * GIB)
    assert [one.listed for one in house.host.store.snapshots()] == [False]
    # Nobody asked for that snapshot, so it stops nobody and goes with the clone.
    assert volumes.delete_volume(house.host, "c1", cascade=False)
    assert house.host.store.snapshots() == []


def test_clones_of_clones_to_any_depth(house: House) -> None:
    volumes.create_volume(house.host, "v0", GIB, None)
    for depth in range(1, 9):
        source = Source(f"v{depth - 1}", None)
        if depth % 2:
            snapshots.create_snapshot(house.host, f"v{depth - 1}", "s")
            source = Source(f"v{depth - 1}", "s")
        clone = volumes.create_volume(house.host, f"v{depth}", None, source)
        assert len(clone.ancestors) == depth
    house.start()
    assert len(house.engine.open) == 9, "parents were opened before their clones"


def test_clone_is_not_smaller_than_its_source(house: House) -> None:
    volumes.create_volume(house.host, "base", 2 * GIB, None)
    with refused("bad_size"):
        volumes.create_volume(house.host, "c1", GIB, Source("base", None))
    assert house.host.store.snapshots() == [], "the snapshot taken for it is gone"


def test_clone_of_an_unknown_snapshot(house: House) -> None:
    volumes.create_volume(house.host, "base", GIB, None)
    with refused("unknown_snapshot"):
        volumes.create_volume(house.host, "c1", None, Source("base", "nope"))


@pytest.mark.parametrize("failing", ["create_volume", "open_volume", "create_snapshot"])
@pytest.mark.parametrize("snapshot", [None, "s1"])
def test_failed_clone_leaves_nothing(house: House, failing: str, snapshot: str | None) -> None:
    volumes.create_volume(house.host, "base", GIB, None)
    kept = snapshots.create_snapshot(house.host, "base", "s1")
    if failing == "create_snapshot" and snapshot is not None:
        return  # it takes none
    house.engine.fail = {failing}
    with refused("io"):
        volumes.create_volume(house.host, "c1", None, Source("base", snapshot))
    house.engine.fail = set()
    assert [one.uuid for one in house.host.store.snapshots()] == [kept.uuid]
    assert len(house.host.store.volumes()) == 1


def test_deleted_snapshot_with_clones_is_hidden(house: House) -> None:
    volumes.create_volume(house.host, "base", GIB, None)
    first = snapshots.create_snapshot(house.host, "base", "s1")
    volumes.create_volume(house.host, "c1", None, Source("base", "s1"))
    volumes.create_volume(house.host, "c2", None, Source("base", "s1"))
    assert snapshots.delete_snapshot(house.host, "base", "s1")
    hidden = house.host.store.snapshot(first.uuid)
    assert hidden is not None
    assert (hidden.state, hidden.clones, hidden.listed) == (State.HIDDEN, 2, False)
    with refused("unknown_snapshot"):
        volumes.create_volume(house.host, "c3", None, Source("base", first.uuid))
    again = snapshots.create_snapshot(house.host, "base", "s1")
    volumes.delete_volume(house.host, "c1", cascade=False)
    assert house.host.store.snapshot(first.uuid) is not None
    volumes.delete_volume(house.host, "c2", cascade=False)
    assert [one.uuid for one in house.host.store.snapshots()] == [again.uuid]


def test_deleted_volume_with_clones_is_hidden(house: House) -> None:
    base = volumes.create_volume(house.host, "base", GIB, None)
    snapshots.create_snapshot(house.host, "base", "s1")
    snapshots.create_snapshot(house.host, "base", "unused")
    volumes.create_volume(house.host, "c1", None, Source("base", "s1"))
    with refused("in_use"):
        volumes.delete_volume(house.host, "base", cascade=False)
    assert volumes.delete_volume(house.host, "base", cascade=True)
    hidden = house.host.store.volume(base.uuid)
    assert hidden is not None
    assert hidden.state is State.HIDDEN
    assert len(house.host.store.snapshots()) == 1
    with refused("unknown_volume"):
        house.host.require("show volume 'base'", "base")
    assert not volumes.delete_volume(house.host, base.uuid, cascade=False)
    volumes.create_volume(house.host, "base", GIB, None)
    house.start()
    house.check()
    volumes.delete_volume(house.host, "c1", cascade=False)
    assert [one.name for one in house.host.store.volumes()] == ["base"]
    assert base.uuid not in house.disk.volumes


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_chain_deleted_in_any_order(house: House, order: tuple[int, ...]) -> None:
    volumes.create_volume(house.host, "v0", GIB, None)
    for depth in range(1, 4):
        volumes.create_volume(house.host, f"v{depth}", None, Source(f"v{depth - 1}", None))
    for depth in order:
        assert volumes.delete_volume(house.host, f"v{depth}", cascade=False)
        house.check()
        house.start()
    assert house.host.store.volumes() == []
    assert house.disk.volumes == {}
    assert house.registry.list("name") == []


def test_template(house: House) -> None:
    base = volumes.create_volume(house.host, "gold", GIB, None)
    house.disk.volumes[base.uuid].content = 7
    template = volumes.set_template(house.host, "gold", True)
    assert template.template
    assert house.engine.open[base.uuid].read_only
    assert volumes.set_template(house.host, "gold", True) == template
    clones = [volumes.create_volume(house.host, f"c{n}", None, Source("gold", None)) for n in "123"]
    assert {clone.parent.snapshot for clone in clones if clone.parent} == {template.base}
    assert {house.disk.volumes[clone.uuid].content for clone in clones} == {7}
    assert not house.engine.open[clones[0].uuid].read_only
    with refused("read_only"):
        volumes.resize_volume(house.host, "gold", 2 * GIB)
    with refused("read_only"):
        volumes.revert_volume(house.host, "gold", "s")
    house.start()
    assert house.engine.open[base.uuid].read_only, "still after a restart"
    for clone in clones:
        volumes.delete_volume(house.host, clone.name, cascade=False)
    assert len(house.host.store.snapshots()) == 1, "its base stays"
    volumes.create_volume(house.host, "c4", None, Source("gold", None))


@pytest.mark.parametrize("clones", [0, 1])
def test_template_becomes_writable_again(house: House, clones: int) -> None:
    base = volumes.create_volume(house.host, "gold", GIB, None)
    volumes.set_template(house.host, "gold", True)
    for number in range(clones):
        volumes.create_volume(house.host, f"c{number}", None, Source("gold", None))
    volumes.set_template(house.host, "gold", False)
    assert not house.engine.open[base.uuid].read_only
    assert len(house.host.store.snapshots()) == clones
    house.disk.volumes[base.uuid].content = 9
    volumes.set_template(house.host, "gold", True)
    fresh = volumes.create_volume(house.host, "fresh", None, Source("gold", None))
    assert house.disk.volumes[fresh.uuid].content == 9, "not the base of before"


@pytest.mark.parametrize("clones", [0, 1])
def test_deleted_template(house: House, clones: int) -> None:
    volumes.create_volume(house.host, "gold", GIB, None)
    volumes.set_template(house.host, "gold", True)
    for number in range(clones):
        volumes.create_volume(house.host, f"c{number}", None, Source("gold", None))
    volumes.delete_volume(house.host, "gold", cascade=False)
    assert len(house.host.store.volumes()) == 2 * clones
    for number in range(clones):
        volumes.delete_volume(house.host, f"c{number}", cascade=False)
    assert house.host.store.volumes() == []


def test_failed_template_stays_ordinary(house: House) -> None:
    volumes.create_volume(house.host, "gold", GIB, None)
    house.engine.fail = {"create_snapshot"}
    with refused("io"):
        volumes.set_template(house.host, "gold", True)
    house.engine.fail = set()
    assert not house.host.require("", "gold").template
    assert house.host.store.snapshots() == []
