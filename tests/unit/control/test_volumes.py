"""Verbs on volumes: what they do, what they refuse, and that they leave nothing behind."""

from __future__ import annotations

import pytest

from ovs_daemon.control import snapshots, volumes
from ovs_daemon.control.records import State
from ovs_daemon.control.recovery import recover
from ovs_daemon.control.status import describe_volume
from ovs_daemon.control.volumes import Source
from ovs_daemon.errors import VStorageError
from tests.support.fake_engine import FakeEngine
from tests.support.house import MIB, House

GIB = 1 << 30


def refused(code: str) -> pytest.RaisesExc[VStorageError]:
    """The block fails with this code, and says what, why and what to do."""
    return pytest.RaisesExc(
        VStorageError,
        check=lambda error: error.code == code and all((error.what, error.why, error.fix)),
    )


def test_create_opens_under_a_raised_epoch(house: House) -> None:
    volume = volumes.create_volume(house.host, "web1", GIB, None)
    assert (volume.name, volume.size, volume.state) == ("web1", GIB, State.AVAILABLE)
    assert volume.epoch == 2, "one for the creation, one for the opening"
    assert volume.uuid in house.engine.open
    assert house.host.store.find_volume("web1") == volume
    assert house.host.store.find_volume(volume.uuid) == volume


@pytest.mark.parametrize("size", [0, -4096, 1, 4097, GIB + 512, (64 << 40) + 4096])
def test_bad_sizes(house: House, size: int) -> None:
    with refused("bad_size"):
        volumes.create_volume(house.host, "web1", size, None)
    assert house.disk.volumes == {}


def test_smallest_and_largest(house: House) -> None:
    volumes.create_volume(house.host, "small", 4096, None)
    volumes.create_volume(house.host, "large", 64 << 40, None)


def test_size_is_needed_without_a_source(house: House) -> None:
    with refused("bad_size"):
        volumes.create_volume(house.host, "web1", None, None)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".x",
        "-x",
        "a/b",
        "a@b",
        "a b",
        "x" * 256,
        "é",
        "a\n",
        "0" * 8 + "-0000" * 3 + "-" + "0" * 12,
    ],
)
def test_bad_names(house: House, name: str) -> None:
    with refused("bad_request"):
        volumes.create_volume(house.host, name, GIB, None)


def test_duplicate_name(house: House) -> None:
    first = volumes.create_volume(house.host, "web1", GIB, None)
    with refused("duplicate_name"):
        volumes.create_volume(house.host, "web1", 2 * GIB, None)
    assert house.host.store.volumes() == [first]


def test_a_name_lost_at_the_last_moment(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    with monkeypatch.context() as patch:
        # As if the other one came between looking and claiming.
        patch.setattr(house.host.store, "find_volume", lambda reference: None)
        with refused("duplicate_name"):
            volumes.create_volume(house.host, "web1", GIB, None)


def test_engine_failure_undoes_a_create(house: House) -> None:
    house.engine.fail = {"create_volume"}
    with refused("io"):
        volumes.create_volume(house.host, "web1", GIB, None)
    house.engine.fail = {"open_volume"}
    with refused("io"):
        volumes.create_volume(house.host, "web1", GIB, None)
    house.engine.fail = set()
    assert volumes.create_volume(house.host, "web1", GIB, None).state is State.AVAILABLE


def test_delete_frees_the_name(house: House) -> None:
    first = volumes.create_volume(house.host, "web1", GIB, None)
    assert volumes.delete_volume(house.host, "web1", cascade=False)
    assert house.disk.volumes == {}
    assert volumes.create_volume(house.host, "web1", GIB, None).uuid != first.uuid


def test_delete_by_uuid_is_idempotent(house: House) -> None:
    volume = volumes.create_volume(house.host, "web1", GIB, None)
    assert volumes.delete_volume(house.host, volume.uuid, cascade=False)
    assert not volumes.delete_volume(house.host, volume.uuid, cascade=False)


@pytest.mark.parametrize(
    "verb",
    [
        lambda host: volumes.delete_volume(host, "nope", cascade=False),
        lambda host: volumes.resize_volume(host, "nope", GIB),
        lambda host: volumes.revert_volume(host, "nope", "s"),
        lambda host: volumes.set_template(host, "nope", True),
        lambda host: volumes.create_volume(host, "new", None, Source("nope", None)),
        lambda host: snapshots.create_snapshot(host, "nope", "s"),
        lambda host: snapshots.delete_snapshot(host, "nope", "s"),
    ],
)
def test_unknown_volume(house: House, verb: object) -> None:
    assert callable(verb)
    with refused("unknown_volume"):
        verb(house.host)


def test_failed_delete_is_repeated(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    house.engine.fail = {"delete_volume"}
    with refused("io"):
        volumes.delete_volume(house.host, "web1", cascade=False)
    with refused("busy"):
        volumes.resize_volume(house.host, "web1", 2 * GIB)
    house.engine.fail = set()
    assert volumes.delete_volume(house.host, "web1", cascade=False)
    assert house.host.store.volumes() == []


def test_delete_with_snapshots_needs_cascade(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    snapshots.create_snapshot(house.host, "web1", "s1")
    with refused("in_use"):
        volumes.delete_volume(house.host, "web1", cascade=False)
    assert volumes.delete_volume(house.host, "web1", cascade=True)
    assert house.host.store.snapshots() == []


def test_resize_grows_only(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    assert volumes.resize_volume(house.host, "web1", 2 * GIB).size == 2 * GIB
    assert volumes.resize_volume(house.host, "web1", 2 * GIB).size == 2 * GIB
    for size in (GIB, 0, 2 * GIB + 1, 65 << 40):
        with refused("bad_size"):
            volumes.resize_volume(house.host, "web1", size)


def test_failed_resize_leaves_the_size(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    house.engine.fail = {"resize_volume"}
    with refused("io"):
        volumes.resize_volume(house.host, "web1", 2 * GIB)
    assert house.host.require("", "web1").size == GIB


def test_snapshot_and_revert(house: House) -> None:
    volume = volumes.create_volume(house.host, "web1", GIB, None)
    house.disk.volumes[volume.uuid].content = 7
    snapshots.create_snapshot(house.host, "web1", "s1")
    house.disk.volumes[volume.uuid].content = 8
    volumes.resize_volume(house.host, "web1", 2 * GIB)
    assert volumes.revert_volume(house.host, "web1", "s1").size == 2 * GIB
    assert house.disk.volumes[volume.uuid].content == 7
    with refused("unknown_snapshot"):
        volumes.revert_volume(house.host, "web1", "s2")
    house.engine.fail = {"revert_volume"}
    with refused("io"):
        volumes.revert_volume(house.host, "web1", "s1")


def test_snapshot_names_are_unique_within_a_volume(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    volumes.create_volume(house.host, "web2", GIB, None)
    snapshots.create_snapshot(house.host, "web1", "s1")
    snapshots.create_snapshot(house.host, "web2", "s1")
    with refused("duplicate_name"):
        snapshots.create_snapshot(house.host, "web1", "s1")
    with refused("bad_request"):
        snapshots.create_snapshot(house.host, "web1", "a@b")


def test_failed_snapshot_leaves_nothing(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    house.engine.fail = {"create_snapshot"}
    with refused("io"):
        snapshots.create_snapshot(house.host, "web1", "s1")
    assert house.host.store.snapshots() == []
    house.engine.fail = set()
    snapshots.create_snapshot(house.host, "web1", "s1")


def test_delete_snapshot(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    snapshot = snapshots.create_snapshot(house.host, "web1", "s1")
    assert snapshots.delete_snapshot(house.host, "web1", "s1")
    assert not snapshots.delete_snapshot(house.host, "web1", snapshot.uuid)
    with refused("unknown_snapshot"):
        snapshots.delete_snapshot(house.host, "web1", "s1")


def test_a_snapshot_of_another_volume_is_unknown(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    volumes.create_volume(house.host, "web2", GIB, None)
    snapshot = snapshots.create_snapshot(house.host, "web1", "s1")
    with refused("unknown_snapshot"):
        volumes.revert_volume(house.host, "web2", snapshot.uuid)


def test_verbs_on_a_volume_that_does_not_open(house: House) -> None:
    volume = volumes.create_volume(house.host, "web1", GIB, None)
    other = volumes.create_volume(house.host, "web2", GIB, None)
    house.disk.volumes[volume.uuid].corrupt = True
    house.start()
    assert list(house.host.failures()) == [volume.uuid]
    assert other.uuid in house.engine.open, "its trouble is its own"
    with refused("corrupt"):
        volumes.resize_volume(house.host, "web1", 2 * GIB)
    house.disk.volumes[volume.uuid].corrupt = False
    volumes.resize_volume(house.host, "web1", 2 * GIB)
    assert house.host.failures() == {}, "tried again, and it works"


def test_a_deletion_that_fails_at_the_start_is_shown_until_it_succeeds(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    snapshots.create_snapshot(house.host, "web1", "s1")
    house.engine.fail = {"delete_snapshot"}
    with refused("io"):
        snapshots.delete_snapshot(house.host, "web1", "s1")
    engine = FakeEngine(house.disk)
    engine.fail = {"delete_snapshot"}
    house.host = house.make_host(house.registry, engine)
    recover(house.host)
    (failure,) = house.host.failures().values()
    assert failure.code == "io"
    volume = house.host.require("", "web1")
    assert describe_volume(house.host, volume)["state"] == "available", (
        "it can be used all the same"
    )
    engine.fail = set()
    assert snapshots.delete_snapshot(house.host, "web1", "s1")
    assert house.host.failures() == {}


def test_sco_size_is_the_parents(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    clone = volumes.create_volume(house.host, "c", None, Source("web1", None))
    assert clone.sco_size == 64 * MIB
