"""Locks by key: they exclude, they do not leak."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from ovs_daemon.control import snapshots, volumes
from ovs_daemon.control.host import Host
from ovs_daemon.control.locks import Locks
from ovs_daemon.control.moves import move_volume
from ovs_daemon.control.volumes import Source
from tests.support.refusal import refused
from tests.support.town import Town

GIB = 1 << 30


def test_one_at_a_time_by_key() -> None:
    locks, inside, worst = Locks(), {"a": 0, "b": 0}, []

    def work(key: str) -> None:
        for _ in range(200):
            with locks.holding(key), locks.holding(key):
                inside[key] += 1
                worst.append(inside[key])
                inside[key] -= 1

    workers = [threading.Thread(target=work, args=(key,)) for key in "aabb"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert max(worst) == 1
    assert locks._locks == {}


def test_different_keys_do_not_wait() -> None:
    locks, entered = Locks(), threading.Event()

    def other() -> None:
        with locks.holding("b"):
            entered.set()

    with locks.holding("a"):
        worker = threading.Thread(target=other)
        worker.start()
        assert entered.wait(60)
        worker.join()


def test_who_does_not_want_to_wait_goes_without() -> None:
    locks, tried = Locks(), []

    def other() -> None:
        with locks.trying("a", 0.0) as held:
            tried.append(held)

    def attempt() -> bool:
        worker = threading.Thread(target=other)
        worker.start()
        worker.join()
        return bool(tried.pop())

    with locks.holding("a"):
        assert not attempt()
        with locks.trying("a", 0.0) as held:
            assert held, "it is this thread's own"
        assert not attempt()
    assert attempt()
    assert locks._locks == {}


class Watch:
    """What one thread of a host waits for, with the locks that it holds by then."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[tuple[tuple[str, ...], str]] = []
        self._held: list[str] = []
        self._holding = host.locks.holding
        monkeypatch.setattr(host.locks, "holding", self._watched)

    @contextlib.contextmanager
    def _watched(self, key: str) -> Iterator[None]:
        if key not in self._held:
            self.waits.append((tuple(self._held), key))
        with self._holding(key):
            self._held.append(key)
            try:
                yield
            finally:
                self._held.remove(key)


class TestFamilies:
    """Whoever holds several locks has taken them in one order."""

    @pytest.fixture
    def town(self) -> Town:
        return Town({"a1": ("a", "b"), "a2": ("a", "b"), "b1": ("b", "a")})

    def test_a_move_and_a_group_of_snapshots(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = town["a1"].host
        uuids = [f"00000000-0000-4000-8000-{number:012x}" for number in (1, 2, 3)]
        # The parent's comes last in the order of UUIDs.
        host.new_uuid = iter((uuids[2], uuids[1], uuids[0])).__next__
        parent = volumes.create_volume(host, "parent", GIB, None)
        clone = volumes.create_volume(host, "clone", None, Source("parent", None))
        assert parent.uuid > clone.uuid
        watch = Watch(host, monkeypatch)
        host.new_uuid = (f"00000000-0000-4000-8000-{n:012x}" for n in (4, 5)).__next__
        snapshots.create_snapshots(host, [("parent", "s"), ("clone", "s")])
        move_volume(host, "parent", "a2")
        assert [held for held in watch.waits if held[0]] == [((clone.uuid,), parent.uuid)] * 2

    def test_a_clone_that_is_taken_back(self, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
        host, engine = town["a1"].host, town["a1"].engine
        parent = volumes.create_volume(host, "parent", GIB, None)
        watch, open_volume = Watch(host, monkeypatch), engine.open_volume

        def fail(spec: str, /) -> str:
            # From now on others know it.
            watch.waits.clear()
            engine.fail.add("open_volume")
            return open_volume(spec)

        monkeypatch.setattr(engine, "open_volume", fail)
        refused(lambda: volumes.create_volume(host, "clone", None, Source("parent", None)), "io")
        assert [one.uuid for one in host.store.volumes()] == [parent.uuid]
        assert host.store.snapshots() == []
        assert [held for held, _ in watch.waits] == [()] * len(watch.waits)
        assert parent.uuid in [key for _, key in watch.waits]
