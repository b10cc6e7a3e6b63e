"""Nodes that come back without power, or with another disk: what they have may be too little."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovs_daemon.control import volumes
from ovs_daemon.control.moves import move_volume, take_over
from ovs_daemon.control.records import Dtl, Volume
from ovs_daemon.control.status import status
from ovs_daemon.control.stopping import put_away
from ovs_daemon.control.store import put
from ovs_daemon.policy.model import DtlMode, DtlState
from ovs_daemon.policy.ownership import Home
from tests.support.refusal import refused
from tests.support.town import Town

IN_SYNC, DEGRADED = DtlState.IN_SYNC, DtlState.DEGRADED


@pytest.fixture
def town() -> Town:
    return Town({"a1": ("a", "b"), "a2": ("a", "b"), "b1": ("b", "a"), "b2": ("b", "a")})


def make(town: Town) -> Volume:
    """A volume of a1 whose log is on b1."""
    made = volumes.create_volume(town["a1"].host, "web1", 1 << 30, None)
    town["a1"].steward.tend()
    return town.in_sync(town.volume(made.uuid))


def restart(town: Town, name: str, home: Home) -> None:
    """The node comes back, before anybody has missed it."""
    node = town[name]
    node.kill()
    node.settings = replace(node.settings, home=home)
    node.start()


def is_open(town: Town, name: str, volume: Volume) -> bool:
    return volume.uuid in town[name].engine.open


def test_a_node_that_lost_power_waits_for_the_log(town: Town) -> None:
    volume = make(town)
    town.keepers.up.discard("b1:1")
    restart(town, "a1", Home("second"))
    assert not is_open(town, "a1", volume)
    assert town.volume(volume.uuid).dtl.state is IN_SYNC
    told = status(town["a1"].host, edge_connected=True)["findings"]
    (found,) = (one for one in told if one["object"] == "volume web1")
    assert (found["code"], found["severity"]) == ("not_in_sync", "critical")
    assert "lost power after it served it" in found["why"]
    assert "start node b1" in found["fix"]
    assert "vstorage volume takeover web1" in found["fix"]
    # Neither does another node go on: its owner lives.
    town.pass_time()
    town["a2"].steward.tend()
    assert town.volume(volume.uuid).node == "a1"
    town.keepers.up.add("b1:1")
    town.time_s += 60
    town["a1"].steward.tend()
    assert is_open(town, "a1", volume)
    opened = town.volume(volume.uuid)
    assert (opened.dtl.state, opened.home) == (IN_SYNC, Home("second"))
    assert town["a1"].host.failures() == {}


def test_without_a_loss_of_power_an_owner_goes_on_alone(town: Town) -> None:
    volume = make(town)
    town.keepers.up.discard("b1:1")
    restart(town, "a1", Home())
    assert is_open(town, "a1", volume)
    assert town.volume(volume.uuid).dtl.state is DEGRADED


def test_a_volume_without_a_log_is_opened_after_a_loss_of_power(town: Town) -> None:
    volume = make(town)
    town.set_dtl(volume, Dtl(DtlMode.NONE))
    restart(town, "a1", Home("second"))
    assert is_open(town, "a1", volume)
    assert town.volume(volume.uuid).home == Home("second")


def test_a_person_may_go_on_with_what_power_loss_left(town: Town) -> None:
    volume = make(town)
    town.keepers.up.discard("b1:1")
    restart(town, "a1", Home("second"))
    host = town["a1"].host
    refused(
        lambda: take_over(host, "web1", accept_loss=False),
        "not_in_sync",
        "not flushed would be lost, unless node b1",
        "--accept-loss web1",
    )
    taken = take_over(host, "web1", accept_loss=True)
    assert is_open(town, "a1", volume)
    assert (taken.node, taken.home, taken.saved) == ("a1", Home("second"), False)
    assert taken.forced is not None
    assert "not flushed would be lost" in taken.forced["may_be_lost"]
    assert town["a1"].engine.cleared == []


def test_another_node_says_what_only_the_owner_has(town: Town) -> None:
    volume = make(town)
    town.set_dtl(volume, Dtl(DtlMode.SYNC, "b1", DEGRADED))
    town["a1"].kill()
    town.pass_time()
    other = town["a2"]
    other.settings = replace(other.settings, home=Home("second", "its own disk"))
    other.kill()
    other.start()
    refused(
        lambda: take_over(other.host, "web1", accept_loss=False),
        "not_in_sync",
        "acknowledged writes are on node a1 only",
        "bring node a1 back",
    )


def test_who_waits_for_nothing_is_not_forced(town: Town) -> None:
    make(town)
    assert take_over(town["a1"].host, "web1", accept_loss=True).forced is None


def test_a_node_with_an_empty_disk_gets_everything_from_the_log(town: Town) -> None:
    volume = make(town)
    restart(town, "a1", Home("second", "new disk"))
    assert is_open(town, "a1", volume)
    assert town.volume(volume.uuid).home == Home("second", "new disk")


@pytest.mark.parametrize(
    "dtl",
    [Dtl(DtlMode.NONE), Dtl(DtlMode.SYNC, "b1", DEGRADED), Dtl(DtlMode.ASYNC, "b1", IN_SYNC)],
)
def test_what_only_the_former_disk_had_is_waited_for(town: Town, dtl: Dtl) -> None:
    volume = make(town)
    town.set_dtl(volume, dtl)
    restart(town, "a1", Home("second", "new disk"))
    assert not is_open(town, "a1", volume)
    refused(
        lambda: take_over(town["a1"].host, "web1", accept_loss=False),
        "not_in_sync",
        "its disk is new or not mounted",
        "flushed writes among it",
        "mount the disk",
    )
    restart(town, "a1", Home("third"))
    assert is_open(town, "a1", volume)


def test_a_log_that_lost_power_does_not_make_up_for_a_disk(town: Town) -> None:
    volume = make(town)
    town.keepers.tails["b1:1", volume.uuid].suspect = True
    restart(town, "a1", Home("second", "new disk"))
    assert not is_open(town, "a1", volume)
    taken = take_over(town["a1"].host, "web1", accept_loss=True)
    assert taken.forced is not None
    assert "All that was acknowledged and is not on the backend" in taken.forced["may_be_lost"]


def test_a_volume_given_back_waits_for_the_log_where_power_was_lost(town: Town) -> None:
    volume = make(town)
    town["a1"].kill()
    town.keepers.up.discard("b1:1")
    town.pass_time()
    town["a2"].steward.tend()
    assert town.volume(volume.uuid).node == "a2"
    restart(town, "a1", Home("second"))
    town["a2"].steward.tend()
    town["a1"].steward.tend()
    back = town.volume(volume.uuid)
    assert (back.node, back.dtl.state) == ("a1", IN_SYNC)
    assert not is_open(town, "a1", volume)


def test_leftovers_are_removed_where_all_is_on_the_backend(town: Town) -> None:
    volume = make(town)
    moved = move_volume(town["a1"].host, "web1", "b2")
    assert (moved.saved, moved.home) == (True, None)
    town["b2"].engine.fail.add("clear_buffer")
    town["b2"].steward.tend()
    assert not is_open(town, "b2", volume)
    town["b2"].engine.fail.clear()
    town.time_s += 60
    town["b2"].steward.tend()
    assert is_open(town, "b2", volume)
    assert town["b2"].engine.cleared == [volume.uuid]
    opened = town.volume(volume.uuid)
    assert (opened.saved, opened.home) == (False, Home())
    # What it has written since is its own.
    restart(town, "b2", Home())
    assert town["b2"].engine.cleared == []
    assert is_open(town, "b2", volume)


@pytest.mark.parametrize("dtl", [Dtl(DtlMode.NONE), Dtl(DtlMode.SYNC, "b1", DEGRADED)])
def test_after_an_orderly_end_the_former_disk_is_not_asked_for(town: Town, dtl: Dtl) -> None:
    volume = make(town)
    town.set_dtl(volume, dtl)
    put_away(town["a1"].host, 4)
    assert not is_open(town, "a1", volume)
    assert town.volume(volume.uuid).saved
    restart(town, "a1", Home("second", "new disk"))
    assert is_open(town, "a1", volume)
    assert town["a1"].engine.cleared == [volume.uuid]
    opened = town.volume(volume.uuid)
    assert (opened.saved, opened.home) == (False, Home("second", "new disk"))


def test_an_end_that_leaves_something_behind_says_nothing(town: Town) -> None:
    volume = make(town)
    town.set_dtl(volume, Dtl(DtlMode.NONE))
    town["a1"].engine.fail.add("close_volume")
    put_away(town["a1"].host, 4)
    assert not town.volume(volume.uuid).saved
    town["a1"].engine.fail.clear()
    town["a1"].engine.stopped.add(volume.uuid)
    put_away(town["a1"].host, 4)
    assert not is_open(town, "a1", volume)
    assert not town.volume(volume.uuid).saved


def test_a_log_on_another_node_is_asked_after_an_orderly_end_too(town: Town) -> None:
    volume = make(town)
    put_away(town["a1"].host, 4)
    assert not town.volume(volume.uuid).saved
    restart(town, "a1", Home("second", "new disk"))
    assert is_open(town, "a1", volume)


def test_leftovers_are_removed_where_a_person_forces_a_volume(town: Town) -> None:
    volume = make(town)
    town.set_dtl(volume, Dtl(DtlMode.NONE))
    town["a1"].kill()
    town.pass_time()
    take_over(town["a2"].host, "web1", accept_loss=True)
    assert town["a2"].engine.cleared == [volume.uuid]


def test_a_record_of_an_earlier_release_says_nothing_of_homes(town: Town) -> None:
    volume = make(town)
    body = {key: one for key, one in volume.body().items() if key not in ("home", "saved")}
    town["a1"].host.store.commit(put(Volume.from_body(body, volume.version)))
    town.keepers.up.discard("b1:1")
    restart(town, "a1", Home("second"))
    assert is_open(town, "a1", volume)
    assert town.volume(volume.uuid).home == Home("second")
