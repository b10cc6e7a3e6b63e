"""The orderly end of a node with many volumes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait

import pytest

from ovs_daemon.control import stopping, volumes
from ovs_daemon.control.records import Dtl, Volume
from ovs_daemon.control.stopping import put_away
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.policy.model import DtlMode
from tests.support.town import Town
from tests.support.waiting import SECONDS_MAX

AT_ONCE = 3


@pytest.fixture
def town() -> Town:
    return Town({"a1": ("a", "b"), "b1": ("b", "a")})


def make(town: Town, count: int) -> list[Volume]:
    """Volumes of a1 that nobody else has a log of."""
    host = town["a1"].host
    made = [volumes.create_volume(host, f"web{n}", 1 << 30, None) for n in range(count)]
    for volume in made:
        town.set_dtl(town.volume(volume.uuid), Dtl(DtlMode.NONE))
    return made


class Closings:
    """Has something happen in the middle of each closing, and counts them."""

    def __init__(
        self, town: Town, patch: pytest.MonkeyPatch, during: Callable[[str], object]
    ) -> None:
        self._close = town["a1"].engine.close_volume
        self._during = during
        self._guard = threading.Lock()
        self._now = 0
        self.most = 0
        patch.setattr(town["a1"].engine, "close_volume", self._closing)

    def _closing(self, uuid: str, moved_to: str | None = None, /) -> bool:
        with self._guard:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self._during(uuid)
            with self._guard:
                return self._close(uuid, moved_to)
        finally:
            with self._guard:
                self._now -= 1


@contextlib.contextmanager
def waiting_for_word(town: Town, patch: pytest.MonkeyPatch, slow: str) -> Iterator[None]:
    """The closing of a volume takes until somebody is told that it does."""
    told = threading.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if slow in record.getMessage():
                told.set()

    def wait_for_word(uuid: str) -> None:
        if uuid == slow:
            assert told.wait(SECONDS_MAX), "nobody says what the stop waits for"

    logger, handler = logging.getLogger("ovs_daemon.control.stopping"), Told()
    Closings(town, patch, wait_for_word)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def test_volumes_are_closed_beside_each_other_and_not_too_many(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(town, 2 * AT_ONCE)
    # None of them passes before so many are there.
    together = threading.Barrier(AT_ONCE, timeout=SECONDS_MAX)
    closings = Closings(town, monkeypatch, lambda _: together.wait())
    put_away(town["a1"].host, AT_ONCE)
    assert closings.most == AT_ONCE
    assert town["a1"].host.opened() == []
    assert all(town.volume(volume.uuid).saved for volume in made)


def test_one_that_takes_long_keeps_no_other_and_is_named(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow, *others = make(town, 2 * AT_ONCE)
    with waiting_for_word(town, monkeypatch, slow.uuid):
        put_away(town["a1"].host, AT_ONCE, patience_s=0.01)
    assert all(town.volume(volume.uuid).saved for volume in (slow, *others))
    (first, *_) = (r.getMessage() for r in caplog.records if slow.uuid in r.getMessage())
    assert "wait, or end the daemon" in first
    assert "stays in the write buffer" in first


def test_one_that_takes_long_is_named_while_others_are_done_all_the_time(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, *others = make(town, 4 * AT_ONCE)
    hours = itertools.count(0, 3600)
    monkeypatch.setattr("ovs_daemon.control.stopping.time.monotonic", lambda: float(next(hours)))
    # However long it is ready to wait, something has been closed by then.
    monkeypatch.setattr(stopping, "wait", lambda left, _, when: wait(left, return_when=when))
    with waiting_for_word(town, monkeypatch, slow.uuid):
        put_away(town["a1"].host, AT_ONCE)
    assert all(town.volume(volume.uuid).saved for volume in (slow, *others))


def test_one_that_fails_keeps_no_other(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, *others = make(town, 2 * AT_ONCE)

    def fail(uuid: str) -> None:
        if uuid == bad.uuid:
            raise RuntimeError("a fault that nobody thought of")

    Closings(town, monkeypatch, fail)
    put_away(town["a1"].host, AT_ONCE)
    assert town["a1"].host.opened() == [bad.uuid]
    assert not town.volume(bad.uuid).saved
    assert all(town.volume(volume.uuid).saved for volume in others)
    assert f"volume {bad.uuid} cannot be closed" in caplog.text


def test_a_registry_that_is_away_keeps_no_volume_open(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(town, 2 * AT_ONCE)
    host, asked = town["a1"].host, []

    def away(uuid: str) -> Volume | None:
        asked.append(uuid)
        raise VStorageError(Code.REGISTRY, "the registry", "it is away", "start it")

    monkeypatch.setattr(host.store, "volume", away)
    put_away(host, AT_ONCE)
    assert host.opened() == []
    assert len(asked) <= AT_ONCE, "each thread may have begun before it was known"
    assert caplog.text.count("records are not brought up to date") == 1
    monkeypatch.undo()
    assert not any(town.volume(volume.uuid).saved for volume in made)
