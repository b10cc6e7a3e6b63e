"""A revert that was begun is finished before anybody can write, and never done again later."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovs_daemon.control import attachments, snapshots, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Attachment, Mode, Volume
from ovs_daemon.control.store import put
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.registry import Operation, Update
from tests.support.house import House
from tests.support.refusal import refused
from tests.support.town import Town

GIB = 1 << 30


@pytest.fixture
def town() -> Town:
    return Town({"a1": ("a", "b"), "a2": ("a", "b"), "b1": ("b", "a"), "b2": ("b", "a")})


def begun(town: Town) -> Volume:
    """A volume of a1 in sync, as a verb that was killed leaves it: content 8, of its snapshot 7."""
    host = town["a1"].host
    volume = volumes.create_volume(host, "web1", GIB, None)
    town["a1"].steward.tend()
    volume = town.in_sync(town.volume(volume.uuid))
    town.disk.volumes[volume.uuid].content = 7
    snapshot = snapshots.create_snapshot(host, "web1", "s1")
    town.disk.volumes[volume.uuid].content = 8
    host.store.commit(put(replace(town.volume(volume.uuid), reverting=snapshot.uuid)))
    return town.volume(volume.uuid)


def forgetful(host: Host, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The registry is away when it is to be told that a revert is over, so often."""
    commit, left = host.store.commit, iter(range(times))

    def lose(*operations: Operation) -> int:
        over = [
            one
            for one in operations
            if isinstance(one, Update) and one.kind == "volume" and one.body["reverting"] is None
        ]
        if over and next(left, None) is not None:
            raise VStorageError(Code.REGISTRY, "write", "it is away", "start it")
        return commit(*operations)

    monkeypatch.setattr(host.store, "commit", lose)


def test_what_is_written_after_a_revert_stays(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry did not hear that the revert was over; a restart must not do it again."""
    volume = volumes.create_volume(house.host, "web1", GIB, None)
    disk = house.disk.volumes[volume.uuid]
    disk.content = 7
    snapshots.create_snapshot(house.host, "web1", "s1")
    disk.content = 8
    forgetful(house.host, monkeypatch, times=2)
    refused(
        lambda: volumes.revert_volume(house.host, "web1", "s1"), "registry", "before the volume is"
    )
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    assert disk.content == 7
    disk.content = 9
    house.start()
    assert house.disk.volumes[volume.uuid].content == 9


def test_a_revert_that_failed_is_not_done_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine refused, and the registry did not hear that it is off."""
    volume = volumes.create_volume(house.host, "web1", GIB, None)
    disk = house.disk.volumes[volume.uuid]
    snapshots.create_snapshot(house.host, "web1", "s1")
    house.engine.fail = {"revert_volume"}
    forgetful(house.host, monkeypatch, times=1)
    refused(
        lambda: volumes.revert_volume(house.host, "web1", "s1"), "registry", "before the volume is"
    )
    house.engine.fail = set()
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    disk.content = 9
    house.start()
    assert house.disk.volumes[volume.uuid].content == 9


def test_who_takes_over_finishes_it_at_once(town: Town) -> None:
    volume = begun(town)
    town["a1"].kill()
    town.pass_time()
    town.tend()
    taken = town.volume(volume.uuid)
    assert (taken.node, taken.reverting) == ("a2", None)
    assert town.disk.volumes[volume.uuid].content == 7
    town.disk.volumes[volume.uuid].content = 9
    town["a2"].kill()
    town["a2"].start()
    assert town.disk.volumes[volume.uuid].content == 9


def test_the_steward_finishes_what_a_verb_could_not(town: Town) -> None:
    volume = begun(town)
    town["a1"].steward.tend()
    assert town.volume(volume.uuid).reverting is None
    assert town.disk.volumes[volume.uuid].content == 7


def test_nobody_attaches_while_it_is_not_finished(town: Town) -> None:
    begun(town)
    refused(
        lambda: attachments.attach(town["b2"].host, "web1", Wish(Mode.EDGE)),
        "busy",
        "is being reverted",
    )


def test_who_attaches_elsewhere_meanwhile_keeps_it_from_beginning(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """b2 attaches when a1 has seen that nobody has the volume, and has not begun yet."""
    host = town["a1"].host
    volume = volumes.create_volume(host, "web1", GIB, None)
    snapshots.create_snapshot(host, "web1", "s1")
    town.disk.volumes[volume.uuid].content = 8
    commit = host.store.commit

    def attach_first(*operations: Operation) -> int:
        monkeypatch.setattr(host.store, "commit", commit)
        attachments.attach(town["b2"].host, "web1", Wish(Mode.EDGE))
        return commit(*operations)

    monkeypatch.setattr(host.store, "commit", attach_first)
    refused(lambda: volumes.revert_volume(host, "web1", "s1"), "in_use")
    assert town.volume(volume.uuid).reverting is None
    assert town.disk.volumes[volume.uuid].content == 8


def test_what_is_in_use_is_not_reverted_late(town: Town) -> None:
    """A release that did not look let somebody attach it."""
    volume = begun(town)
    attachment = Attachment(Mode.EDGE, False, "/run/vstorage/nbd/x.sock", "nova@b2", node="b2")
    current = town.volume(volume.uuid)
    town["a1"].host.store.commit(put(replace(current, attachments=(attachment,))))
    town["a1"].steward.tend()
    assert town.volume(volume.uuid).reverting is None
    assert town.disk.volumes[volume.uuid].content == 8


def test_a_snapshot_that_is_gone_holds_nothing_up(town: Town) -> None:
    """It was deleted by hand before the volume could be opened again."""
    volume = begun(town)
    store = town["a1"].host.store
    town["a1"].kill()
    gone = "00000000-0000-4000-8000-00000000dead"
    store.commit(put(replace(town.volume(volume.uuid), reverting=gone)))
    town["a1"].start()
    town.tend()
    assert town.volume(volume.uuid).reverting is None
    assert town.disk.volumes[volume.uuid].content == 8
