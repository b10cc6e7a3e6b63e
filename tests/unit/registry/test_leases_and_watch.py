"""Leases and watches, for every registry driver: the part of the contract that a cluster needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_daemon.registry import (
    Changes,
    Create,
    Delete,
    Lapsed,
    LeaseLost,
    Record,
    Registry,
    Unchanged,
    Update,
    open_registry,
)
from ovs_daemon.registry.memory import MemoryRegistry
from tests.support.etcd import Etcd
from tests.unit.registry.test_contract import DRIVERS, url

TTL_S = 1.0
LONG_S = 60.0


@pytest.fixture(params=DRIVERS)
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    opened = open_registry(url(request.param, request, tmp_path))
    yield opened
    opened.close()


def stored(registry: Registry, kind: str, ident: str) -> Record:
    record = registry.get(kind, ident)
    assert record is not None
    return record


def await_change(registry: Registry, after: int) -> Changes:
    """The next changes; a failed test ends at LONG_S."""
    changes = registry.watch(after, LONG_S)
    assert changes.keys, "nothing changed"
    return changes


def test_a_lease_takes_its_records_with_it(registry: Registry) -> None:
    lease = registry.grant(TTL_S)
    assert lease.ttl_s >= TTL_S
    kept = registry.commit([Create("node", "stays", {}), Create("node", "n2", {})])
    begun = registry.commit(
        [
            Create("alive", "n1", {"since": 1}, lease),
            Update("node", "n2", kept, {"bound": True}, lease),
        ]
    )
    assert [one.ident for one in registry.list("alive")] == ["n1"]
    gone = await_change(registry, begun)
    while not {("alive", "n1"), ("node", "n2")} <= gone.keys:
        gone = Changes(0, gone.keys | await_change(registry, gone.revision).keys)
    assert registry.get("alive", "n1") is None
    assert [one.ident for one in registry.list("node")] == ["stays"]
    assert registry.keep_alive(lease) is False
    # What went can be made again, and its old version does not come back.
    assert registry.commit([Create("alive", "n1", {})]) > begun


def test_a_lease_that_is_kept_alive_lasts(registry: Registry) -> None:
    lease, other = registry.grant(TTL_S), registry.grant(TTL_S)
    begun = registry.commit(
        [Create("alive", "kept", {}, lease), Create("alive", "let go", {}, other)]
    )
    stop = threading.Event()
    alive: list[bool] = []

    def keep() -> None:
        while not stop.wait(TTL_S / 5):
            alive.append(registry.keep_alive(lease))

    keeper = threading.Thread(target=keep)
    keeper.start()
    # The other lease's end is the clock of this test.
    gone = await_change(registry, begun)
    stop.set()
    keeper.join()
    assert ("alive", "let go") in gone.keys
    assert all(alive)
    assert registry.keep_alive(lease)
    assert [one.ident for one in registry.list("alive")] == ["kept"]


def test_revoke_removes_at_once_and_may_be_repeated(registry: Registry) -> None:
    lease = registry.grant(LONG_S)
    registry.commit([Create("alive", "n1", {}, lease)])
    registry.revoke(lease)
    assert registry.get("alive", "n1") is None
    registry.revoke(lease)
    assert registry.keep_alive(lease) is False


def test_nothing_is_bound_to_a_lease_that_is_over(registry: Registry) -> None:
    lease = registry.grant(LONG_S)
    registry.revoke(lease)
    seen = registry.commit([Create("node", "n", {"keep": 1})])
    with pytest.raises(LeaseLost):
        registry.commit([Update("node", "n", seen, {"keep": 2}), Create("alive", "n1", {}, lease)])
    assert stored(registry, "node", "n").body == {"keep": 1}
    assert registry.get("alive", "n1") is None
    # The registry itself goes on.
    assert registry.commit([Update("node", "n", seen, {"keep": 3})]) > seen


def test_an_update_without_the_lease_sets_a_record_free(registry: Registry) -> None:
    lease = registry.grant(LONG_S)
    seen = registry.commit([Create("node", "n", {}, lease)])
    registry.commit([Update("node", "n", seen, {"free": True})])
    registry.revoke(lease)
    assert stored(registry, "node", "n").body == {"free": True}


def test_a_record_made_again_is_not_bound_to_the_old_lease(registry: Registry) -> None:
    lease = registry.grant(LONG_S)
    seen = registry.commit([Create("node", "n", {}, lease)])
    registry.commit([Delete("node", "n", seen)])
    registry.commit([Create("node", "n", {})])
    registry.revoke(lease)
    assert stored(registry, "node", "n").body == {}


def test_watch_names_what_changed(registry: Registry) -> None:
    start = registry.revision()
    first = registry.commit([Create("node", "a", {}), Create("volume", "b/c", {})])
    assert await_change(registry, start).keys == {("node", "a"), ("volume", "b/c")}
    registry.commit([Delete("node", "a", first)])
    last = registry.commit([Update("volume", "b/c", first, {"x": 1})])
    seen: frozenset[tuple[str, str]] = frozenset()
    place = first
    while place < last:
        changes = await_change(registry, place)
        seen, place = seen | changes.keys, changes.revision
    assert seen == {("node", "a"), ("volume", "b/c")}
    assert place == last


def test_a_watch_resumed_from_the_start_misses_nothing(registry: Registry) -> None:
    start = registry.revision()
    for number in range(20):
        registry.commit([Create("node", str(number), {})])
    seen: set[str] = set()
    place = start
    while len(seen) < 20:
        changes = await_change(registry, place)
        seen |= {ident for _, ident in changes.keys}
        place = changes.revision
    assert seen == {str(number) for number in range(20)}


def test_watch_returns_when_nothing_changes(registry: Registry) -> None:
    seen = registry.commit([Create("node", "a", {})])
    registry.commit([Unchanged("node", "a", seen)])
    changes = registry.watch(registry.revision(), 0.05)
    assert changes.keys == frozenset()
    assert changes.revision >= seen


def test_a_watch_wakes_up(registry: Registry) -> None:
    start = registry.revision()
    found: list[Changes] = []
    watching = threading.Thread(target=lambda: found.append(registry.watch(start, LONG_S)))
    watching.start()
    registry.commit([Create("node", "a", {})])
    watching.join(LONG_S)
    assert [changes.keys for changes in found] == [{("node", "a")}]


@pytest.mark.parametrize("driver", ["memory", "sqlite"])
def test_a_history_that_was_dropped_is_no_silence(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    registry = open_registry(url(driver, request, tmp_path))
    start = registry.revision()
    lease = registry.commit([Create("node", "a", {})])
    for _ in range(4100 if driver == "memory" else 0):
        lease = registry.commit([Update("node", "a", lease, {})])
    if driver == "sqlite":
        # As if 4096 changes had come after it; making them would take seconds.
        import sqlite3

        with sqlite3.connect(tmp_path / "sub" / "registry.sqlite") as connection:
            connection.execute("UPDATE change SET revision = revision + 4096")
            connection.execute("UPDATE revision SET value = value + 4096")
        connection.close()
    with pytest.raises(Lapsed):
        registry.watch(start, 0)
    assert registry.watch(registry.revision(), 0).keys == frozenset()
    registry.close()


def test_a_compacted_history_is_no_silence(etcd: Etcd, tmp_path: Path) -> None:
    registry = open_registry(etcd.url(str(tmp_path)))
    start = registry.revision()
    registry.commit([Create("node", "a", {})])
    etcd.compact(registry.revision())
    with pytest.raises(Lapsed):
        registry.watch(start, LONG_S)
    registry.close()


def test_another_process_of_the_host_shares_leases(tmp_path: Path) -> None:
    first, second = (open_registry(f"sqlite://{tmp_path}/r.sqlite") for _ in range(2))
    lease = first.grant(LONG_S)
    start = second.revision()
    first.commit([Create("alive", "n1", {}, lease)])
    assert await_change(second, start).keys == {("alive", "n1")}
    second.revoke(lease)
    assert first.get("alive", "n1") is None
    first.close()
    second.close()


def test_leases_of_an_earlier_start_of_the_host_are_over(tmp_path: Path) -> None:
    registry = open_registry(f"sqlite://{tmp_path}/r.sqlite")
    lease = registry.grant(LONG_S)
    registry.commit([Create("alive", "n1", {}, lease)])
    registry._boot = "another one"  # type: ignore[attr-defined]
    assert registry.keep_alive(lease) is False
    assert registry.get("alive", "n1") is None
    registry.close()


def test_the_clock_alone_ends_a_lease() -> None:
    now = [0.0]
    registry = MemoryRegistry(clock=lambda: now[0])
    lease = registry.grant(3.0)
    registry.commit([Create("alive", "n1", {}, lease)])
    now[0] = 2.9
    assert registry.keep_alive(lease)
    now[0] = 5.8
    assert registry.get("alive", "n1") is not None
    now[0] = 5.9
    assert registry.get("alive", "n1") is None


def test_a_registry_of_the_first_schema_gains_leases(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "r.sqlite") as connection:
        connection.executescript(
            """
            CREATE TABLE revision (id INTEGER PRIMARY KEY CHECK (id = 0), value INTEGER NOT NULL);
            INSERT INTO revision VALUES (0, 7);
            CREATE TABLE record (kind TEXT NOT NULL, ident TEXT NOT NULL,
                version INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, ident)
            ) WITHOUT ROWID;
            INSERT INTO record VALUES ('node', 'old', 7, '{"a": 1}');
            PRAGMA user_version = 1;
            """
        )
    connection.close()
    registry = open_registry(f"sqlite://{tmp_path}/r.sqlite")
    assert stored(registry, "node", "old").body == {"a": 1}
    with pytest.raises(Lapsed):
        registry.watch(3, 0)
    registry.commit([Create("alive", "n1", {}, registry.grant(LONG_S))])
    assert registry.watch(7, 0).keys == {("alive", "n1")}
    registry.close()
