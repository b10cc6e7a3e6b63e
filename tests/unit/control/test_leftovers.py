"""What a node had begun when it died: no other one waits for it, and no half of it stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ovs_daemon.control import snapshots, volumes
from ovs_daemon.control.family import open_taken
from ovs_daemon.control.moves import take_over
from ovs_daemon.control.records import Snapshot, State, Volume
from ovs_daemon.control.store import Store, drop, put
from ovs_daemon.control.topology import Node
from ovs_daemon.control.volumes import Source
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.model import DtlState
from ovs_daemon.registry import Operation, Update
from tests.support.refusal import refused
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


def when_called_made(town: Town, then: Callable[[], None]) -> None:
    """Have something happen while a1 waits for the registry, which is to call snapshots made."""
    store, commit = town["a1"].host.store, town["a1"].host.store.commit

    def commit_late(*operations: Operation) -> int:
        if any(isinstance(one, Update) and one.kind == "snapshot" for one in operations):
            store.commit = commit  # type: ignore[method-assign]
            then()
        return commit(*operations)

    store.commit = commit_late  # type: ignore[method-assign]


def stand_still(town: Town) -> None:
    """The lease of a1 is over; it goes on later as if nothing were."""
    town["a1"].up = False
    town.pass_time()
    town["a1"].up = True


@pytest.mark.parametrize("group", [False, True])
def test_a_snapshot_that_a_new_owner_does_not_know_is_never_called_made(
    town: Town, group: bool
) -> None:
    volume, other = make(town), make(town, "web2")
    taken = []

    def taken_over() -> None:
        stand_still(town)
        # Opened, and nothing else yet.
        host = town["a2"].host
        for one in host.opener.take_over([town.volume(volume.uuid)]):
            open_taken(host, one)
        taken.append(volume.uuid)

    def take() -> None:
        host = town["a1"].host
        if group:
            snapshots.create_snapshots(host, [("web1", "first"), ("web2", "first")])
        else:
            snapshots.create_snapshot(host, "web1", "first")

    when_called_made(town, taken_over)
    refused(take, "busy", "another one went on")
    assert taken
    store = Store(town.registry)
    assert all(one.state is State.DELETING for one in store.snapshots())
    assert town["a2"].steward._due()
    town["a2"].steward.tend()
    assert store.snapshots(volume.uuid) == []
    assert store.snapshots(other.uuid) == []
    assert not town["a2"].steward._due()
    again = snapshots.create_snapshot(town["a2"].host, "web1", "first")
    assert list(town.disk.volumes[volume.uuid].snapshots) == [again.uuid]


def test_a_snapshot_that_is_called_made_in_time_stays(town: Town) -> None:
    """The new owner has seen it half made, and looks again."""
    volume = make(town)
    store, found = town["a2"].host.store, town["a2"].host.store.snapshots
    made = snapshots.create_snapshot(town["a1"].host, "web1", "first")
    half = replace(made, state=State.CREATING)
    half = replace(half, version=Store(town.registry).commit(put(half)))
    town["a1"].kill()
    town.pass_time()

    def look_early(volume: str | None = None) -> list[Snapshot]:
        seen = found(volume)
        if [one.version for one in seen] == [half.version]:
            Store(town.registry).commit(put(replace(half, state=State.AVAILABLE)))
        return seen

    store.snapshots = look_early  # type: ignore[method-assign]
    town["a2"].steward.tend()
    assert town.volume(volume.uuid).node == "a2"
    assert [one.state for one in found(volume.uuid)] == [State.AVAILABLE]
    assert list(town.disk.volumes[volume.uuid].snapshots) == [made.uuid]


@pytest.mark.parametrize("state", [State.CREATING, State.DELETING])
def test_a_half_snapshot_is_deleted_when_a_person_has_its_volume_taken_over(
    town: Town, state: State
) -> None:
    volume = make(town)
    made = snapshots.create_snapshot(town["a1"].host, "web1", "first")
    Store(town.registry).commit(put(replace(made, state=state)))
    assert town["a1"].says(volume, DtlState.IN_SYNC, DtlState.DEGRADED)
    town["a1"].kill()
    town.pass_time()
    take_over(town["a2"].host, "web1", accept_loss=True)
    town["a2"].steward.tend()
    assert Store(town.registry).snapshots(volume.uuid) == []


@pytest.mark.parametrize("verb", ["delete_volume", "delete_snapshot"])
def test_what_could_not_be_deleted_at_once_is_deleted_later(town: Town, verb: str) -> None:
    a1 = town["a1"]
    make(town)
    snapshots.create_snapshot(a1.host, "web1", "monday")
    a1.engine.fail.add(verb)
    delete: dict[str, Callable[[], bool]] = {
        "delete_volume": lambda: volumes.delete_volume(a1.host, "web1", cascade=True),
        "delete_snapshot": lambda: snapshots.delete_snapshot(a1.host, "web1", "monday"),
    }
    with pytest.raises(VStorageError, match=verb):
        delete[verb]()
    assert a1.steward._due()
    a1.steward.tend()
    assert a1.host.store.snapshots(), "it is still decided"
    assert not a1.steward._due(), "it waits"
    a1.engine.fail.clear()
    town.pass_time()
    assert a1.steward._due()
    a1.steward.tend()
    assert a1.host.store.snapshots() == []
    assert len(a1.host.store.volumes()) == (verb == "delete_snapshot")
    assert not a1.host.unpurged()


def test_what_nobody_tries_any_more_makes_no_pass_after_pass(town: Town) -> None:
    a1 = town["a1"]
    make(town)
    clone = volumes.create_volume(a1.host, "clone", None, Source("web1", None))
    a1.engine.fail.add("delete_snapshot")
    with pytest.raises(VStorageError, match="delete_snapshot"):
        volumes.delete_volume(a1.host, "clone", cascade=False)
    a1.steward.tend()
    # The snapshot that the clone had of its parent is left, and no clone to speak of.
    a1.engine.fail.clear()
    assert a1.host.store.volume(clone.uuid) is None
    for _ in range(2):
        town.pass_time()
        a1.steward.tend()
    assert a1.host.store.snapshots() == []
    assert not a1.steward._due()
    assert not a1.steward._attempts.failing()


def test_a_failed_deletion_that_a_user_repeats_is_no_longer_tried(town: Town) -> None:
    a1 = town["a1"]
    make(town)
    snapshots.create_snapshot(a1.host, "web1", "monday")
    a1.engine.fail.add("delete_snapshot")
    with pytest.raises(VStorageError, match="delete_snapshot"):
        snapshots.delete_snapshot(a1.host, "web1", "monday")
    a1.steward.tend()
    assert a1.steward._attempts.failing()
    a1.engine.fail.clear()
    snapshots.delete_snapshot(a1.host, "web1", "monday")
    town.pass_time()
    a1.steward.tend()
    assert not a1.steward._due()
