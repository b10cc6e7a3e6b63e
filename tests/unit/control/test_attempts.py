"""What fails is tried again, later each time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovs_daemon.control import volumes
from ovs_daemon.control.attempts import Attempts
from ovs_daemon.control.records import Volume
from ovs_daemon.errors import VStorageError
from tests.support.town import Town


class Work:
    """What may fail; with a clock."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.tried = 0
        self.failure: Exception | None = VStorageError("io", "open it", "it is away", "wait")
        self.attempts = Attempts(lambda: self.time_s)

    def __call__(self, volume: Volume) -> None:
        self.tried += 1
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def volume() -> Volume:
    town = Town({"a1": ("a", None)})
    return volumes.create_volume(town["a1"].host, "web1", 1 << 30, None)


def test_pauses_grow_until_it_is_done(volume: Volume) -> None:
    work = Work()
    for pause_s in (0.5, 1, 2, 4):
        assert not work.attempts.attempt(volume, work)
        assert not work.attempts.attempt(volume, work), "it has just failed"
        work.time_s += pause_s / 2
        assert not work.attempts.due()
        work.time_s += pause_s / 2
        assert work.attempts.due()
    assert work.tried == 4
    work.failure = None
    assert work.attempts.attempt(volume, work)
    assert not work.attempts.due()
    assert work.attempts.attempt(volume, work), "what is done may be done again"


def test_what_fails_for_days_is_tried_every_minute(volume: Volume) -> None:
    work = Work()
    for _ in range(1100):
        assert not work.attempts.attempt(volume, work)
        work.time_s += 59.9
        assert work.tried < 8 or not work.attempts.due()
        work.time_s += 0.1
        assert work.attempts.due()
    assert work.tried == 1100


def test_a_bug_is_tried_again_in_a_while(volume: Volume) -> None:
    work = Work()
    work.failure = KeyError("a bug")
    assert not work.attempts.attempt(volume, work)
    work.time_s = 59.9
    assert not work.attempts.due()
    work.time_s = 60
    assert work.attempts.due()


def test_relatives_are_tried_at_once(volume: Volume) -> None:
    work = Work()
    clone = replace(volume, uuid="clone", ancestors=(volume.uuid,))
    stranger = replace(volume, uuid="stranger")
    for one in (clone, stranger):
        work.attempts.attempt(one, work)
    work.attempts.attempt(clone, work, "give it")
    assert work.attempts.forget(volume)
    assert not work.attempts.forget(volume)
    before = work.tried
    work.attempts.attempt(clone, work)
    work.attempts.attempt(clone, work, "give it")
    work.attempts.attempt(stranger, work)
    assert work.tried == before + 2
    assert work.attempts.forget()
