"""What a node had begun when it died: no other one waits for it, and no half of it stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovs_daemon.control import snapshots, volumes
from ovs_daemon.control.records import State, Volume
from ovs_daemon.control.store import Store, drop, put
from ovs_daemon.control.topology import Node
from ovs_daemon.control.volumes import Source
from ovs_daemon.errors import VStorageError
from tests.support.town import Town

GIB = 1 << 30


@pytest.fixture
def town() -> Town:
    return Town({"a1": ("a", "b"), "a2": ("a", "b"), "b1": ("b", "a")})


def make(town: Town, name: str = "web1") -> Volume:
    """A volume of a1 whose log is in sync."""
    made = volumes.create_volume(town["a1"].host, name, GIB, None)
    town["a1"].steward.tend()
    return town.in_sync(town.volume(made.uuid))


def leave(town: Town, volume: Volume, state: State) -> None:
    """The record as a1 leaves it that dies in the middle."""
    Store(town.registry).commit(put(replace(town.volume(volume.uuid), state=state)))
    town["a1"].kill()


def others_see_to_it(town: Town) -> Store:
    """The lease of the dead is over, and everybody else looks."""
    town.pass_time()
    town.tend()
    return Store(town.registry)


@pytest.mark.parametrize("state", [State.CREATING, State.DELETING])
def test_a_half_volume_is_deleted_and_its_name_is_free(town: Town, state: State) -> None:
    volume = make(town)
    leave(town, volume, state)
    assert others_see_to_it(town).volume(volume.uuid) is None
    assert town.disk.volumes == {}
    again = volumes.create_volume(town["b1"].host, "web1", GIB, None)
    # Whose it was finds nothing to do.
    town["a1"].start()
    town.tend()
    assert town.volume(again.uuid).node == "b1"


def test_a_half_clone_is_deleted_where_its_parent_goes_on(town: Town) -> None:
    parent = make(town)
    snapshots.create_snapshot(town["a1"].host, "web1", "first")
    clone = volumes.create_volume(town["a1"].host, "clone", None, Source("web1", "first"))
    leave(town, clone, State.CREATING)
    store = others_see_to_it(town)
    assert town.volume(parent.uuid).node == "a2"
    assert store.volume(clone.uuid) is None
    assert [one.clones for one in store.snapshots(parent.uuid)] == [0]


def test_a_half_snapshot_is_deleted_by_who_takes_its_volume_over(town: Town) -> None:
    volume = make(town)
    made = snapshots.create_snapshot(town["a1"].host, "web1", "first")
    Store(town.registry).commit(put(replace(made, state=State.CREATING)))
    town["a1"].kill()
    store = others_see_to_it(town)
    assert town.volume(volume.uuid).node == "a2"
    assert store.snapshots(volume.uuid) == []


def test_what_cannot_be_deleted_now_is_deleted_later(town: Town) -> None:
    volume = make(town)
    leave(town, volume, State.DELETING)
    for name in ("a2", "b1"):
        town[name].engine.fail.add("delete_volume")
    assert others_see_to_it(town).volume(volume.uuid) is not None
    for name in ("a2", "b1"):
        town[name].engine.fail.clear()
    assert others_see_to_it(town).volume(volume.uuid) is None


def test_a_node_without_a_lease_may_be_alive_and_is_waited_for(town: Town) -> None:
    volume = make(town)
    leave(town, volume, State.CREATING)
    store = Store(town.registry)
    node = store.node("a1")
    assert isinstance(node, Node)
    store.commit(put(replace(node, addresses={})))
    assert others_see_to_it(town).volume(volume.uuid) is not None


def test_one_that_stood_still_while_it_made_a_volume_leaves_nothing(town: Town) -> None:
    """Its lease was over in the middle of the engine's call: another node has undone it by then."""
    engine, create = town["a1"].engine, town["a1"].engine.create_volume

    def create_slowly(spec: str, /) -> None:
        town["a1"].up = False
        others_see_to_it(town)
        assert Store(town.registry).volumes() == []
        town["a1"].up = True
        town["a1"].liveness.beat()
        create(spec)

    engine.create_volume = create_slowly  # type: ignore[method-assign]
    with pytest.raises(VStorageError):
        volumes.create_volume(town["a1"].host, "web1", GIB, None)
    assert Store(town.registry).volumes() == []
    assert town.disk.volumes == {}


def test_one_that_stood_still_while_it_deleted_a_volume_has_deleted_it(town: Town) -> None:
    volume = make(town)
    engine, delete = town["a1"].engine, town["a1"].engine.delete_volume

    def delete_slowly(uuid: str, /) -> None:
        delete(uuid)
        store = Store(town.registry)
        store.commit(drop(town.volume(uuid)), *store.release_name(volume))

    engine.delete_volume = delete_slowly  # type: ignore[method-assign]
    assert volumes.delete_volume(town["a1"].host, "web1", False)
    assert Store(town.registry).volumes() == []
