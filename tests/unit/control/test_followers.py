"""Who follows the maps of volumes: chosen, recorded, told to the engines, replaced."""

from __future__ import annotations

import pytest

from ovs_daemon.control.records import Volume
from ovs_daemon.control.status import describe_volume
from ovs_daemon.control.volumes import create_volume
from tests.support.town import MIB, Town

NODES: dict[str, tuple[str, str | None]] = {
    "a1": ("room1", "room2"),
    "a2": ("room1", "room2"),
    "a3": ("room1", "room2"),
    "b1": ("room2", "room1"),
    "b2": ("room2", "room1"),
}


@pytest.fixture
def town() -> Town:
    return Town(NODES)


def make(town: Town) -> Volume:
    """A volume of a1, followed."""
    volume = create_volume(town["a1"].host, "web1", 64 * MIB, None)
    town.tend()
    return town.volume(volume.uuid)


def told(town: Town, name: str, volume: Volume) -> list[str]:
    return [one["node"] for one in town[name].engine.followers[volume.uuid]]


def test_one_follows_in_the_domain_and_one_in_the_recovery_domain(town: Town) -> None:
    volume = make(town)
    near, far = volume.mds
    assert near in ("a2", "a3")
    assert far in ("b1", "b2")
    assert far != volume.dtl.node, "the log and the map are not kept by one node where two are"
    assert told(town, "a1", volume) == [near, far]
    assert town["a1"].engine.followers[volume.uuid][0]["address"] == f"{near}:1"
    for name in NODES:
        kept = [volume.uuid] if name in volume.mds else []
        assert town[name].engine.retained == kept
    assert describe_volume(town["a1"].host, volume)["mds"] == [near, far]


@pytest.mark.parametrize("which", [0, 1])
def test_a_follower_that_dies_is_replaced(town: Town, which: int) -> None:
    volume = make(town)
    dead = volume.mds[which]
    town[dead].kill()
    town.pass_time()
    town.tend()
    after = town.volume(volume.uuid)
    assert dead not in after.mds
    rooms = [NODES[name][0] for name in after.mds]
    assert rooms == ["room1", "room2"]
    assert told(town, "a1", volume) == list(after.mds)


def test_without_another_node_in_the_domain_one_follows(town: Town) -> None:
    volume = make(town)
    for name in ("a2", "a3"):
        town[name].kill()
    town.pass_time()
    town.tend()
    after = town.volume(volume.uuid)
    assert [NODES[name][0] for name in after.mds] == ["room2"]


def test_who_takes_over_follows_no_more_and_has_others_follow(town: Town) -> None:
    volume = town.in_sync(make(town))
    near = volume.mds[0]
    town["a1"].kill()
    town.pass_time()
    town.tend()
    taken = town.volume(volume.uuid)
    assert taken.node == near, "the one that has the map goes on"
    assert near not in taken.mds
    assert told(town, near, volume) == list(taken.mds)
    assert town[near].engine.retained == []


def test_an_engine_that_refuses_is_told_again(town: Town) -> None:
    town["a1"].engine.fail.add("set_followers")
    volume = make(town)
    assert told(town, "a1", volume) == [], "it was opened before anybody was chosen"
    town["a1"].engine.fail.clear()
    town["a1"].engine.fail.add("retain_followed")
    town.tend()
    assert told(town, "a1", volume) == list(volume.mds)
