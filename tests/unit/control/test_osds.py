"""OSDs: registered by the daemon of their node, told to every engine of the cluster."""

from __future__ import annotations

import pytest

from ovs_daemon.control.osds import OsdLink, OsdVerbs, register_osds
from ovs_daemon.engine import OsdSpec
from tests.support.house import House
from tests.support.refusal import refused

SERVER = "192.0.2.7:6650"
FIRST = "aaaaaaaa-0000-4000-8000-000000000001"
SECOND = "aaaaaaaa-0000-4000-8000-000000000002"


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def served(*osds: tuple[str, str]) -> list[dict[str, str]]:
    return [{"osd": osd, "domain": "dc1", "node": "host1", "role": role} for osd, role in osds]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def link(house: House, clock: Clock) -> OsdLink:
    return OsdLink(house.host, SERVER, shared=True, clock=clock)


def test_what_a_server_serves_is_registered_and_told(house: House, link: OsdLink) -> None:
    house.engine.servers[SERVER] = served((FIRST, "capacity"), (SECOND, "cache"))
    link.tend()
    osds = house.host.store.osds()
    assert [(one.uuid, one.role, one.address) for one in osds] == [
        (FIRST, "capacity", SERVER),
        (SECOND, "cache", SERVER),
    ]
    assert (osds[0].domain, osds[0].node, osds[0].registered_by) == ("dc1", "host1", "node1")
    # Objects are kept on those for capacity only.
    spec = OsdSpec(FIRST, SERVER, "dc1", "host1")
    assert house.engine.osds == {FIRST: vars(spec)}


def test_a_server_that_is_away_is_asked_again(house: House, link: OsdLink, clock: Clock) -> None:
    assert link.due()
    link.tend()
    assert house.host.store.osds() == []
    house.engine.servers[SERVER] = served((FIRST, "capacity"))
    assert not link.due()
    link.tend()
    assert house.host.store.osds() == []
    clock.now += 6
    assert link.due()
    link.tend()
    assert [one.uuid for one in house.host.store.osds()] == [FIRST]
    clock.now += 6
    assert not link.due()
    clock.now += 60
    assert link.due()


def test_a_server_that_answers_nonsense_is_not_asked_all_the_time(
    house: House, link: OsdLink
) -> None:
    house.engine.servers[SERVER] = [{"colour": "blue"}]
    with pytest.raises(KeyError):
        link.tend()
    assert not link.due()


def test_an_osd_that_moved_is_told_of_and_the_same_is_not(
    house: House, link: OsdLink, clock: Clock
) -> None:
    house.engine.servers[SERVER] = served((FIRST, "capacity"))
    link.tend()
    version = house.host.store.osds()[0].version
    clock.now += 60
    # It would fail if it was called.
    house.engine.fail.add("set_osds")
    link.tend()
    assert house.host.store.osds()[0].version == version
    house.engine.fail.clear()
    moved = "192.0.2.8:6650"
    house.engine.servers[moved] = served((FIRST, "capacity"))
    register_osds(house.host, moved)
    link.tend()
    assert house.host.store.osds()[0].address == moved
    assert house.engine.osds[FIRST]["address"] == moved


def test_every_node_is_told_of_those_of_others(house: House) -> None:
    house.engine.servers[SERVER] = served((FIRST, "capacity"))
    register_osds(house.host, SERVER)
    OsdLink(house.host, None, shared=True).tend()
    assert list(house.engine.osds) == [FIRST]
    house.engine.osds.clear()
    OsdLink(house.host, None, shared=False).tend()
    assert house.engine.osds == {}


def test_the_cache_tier_is_that_of_the_own_domain(
    house: House, link: OsdLink, clock: Clock
) -> None:
    house.engine.servers[SERVER] = served((FIRST, "capacity"))
    # Without any it is not spoken of.
    house.engine.fail.add("set_caches")
    link.tend()
    house.engine.fail.clear()
    elsewhere = "192.0.2.8:6650"
    house.engine.servers[elsewhere] = served((SECOND, "cache"))
    register_osds(house.host, elsewhere)
    link.tend()
    assert house.engine.caches == [], "it is in another Domain"
    house.engine.servers[elsewhere][0]["domain"] = "default"
    register_osds(house.host, elsewhere)
    link.tend()
    cache = OsdSpec(SECOND, elsewhere, "default", "host1")
    assert house.engine.caches == [vars(cache)]
    assert list(house.engine.osds) == [FIRST]
    # It fails if it is told of the same again.
    house.engine.fail.add("set_caches")
    link.tend()
    house.engine.fail.clear()
    house.engine.servers[elsewhere][0]["domain"] = "dc1"
    register_osds(house.host, elsewhere)
    link.tend()
    assert house.engine.caches == []


def test_they_are_shown_as_this_node_sees_them(house: House, link: OsdLink) -> None:
    house.engine.servers[SERVER] = served((FIRST, "capacity"), (SECOND, "cache"))
    link.tend()
    verbs = OsdVerbs(house.host)
    first, second = verbs.list_osds()["osds"]
    assert (first["reachable"], first["size"], first["free"]) == (True, 10 << 30, 9 << 30)
    assert (second["reachable"], second["size"]) == (None, None)
    assert verbs.show_osd(FIRST) == first
    refused(lambda: verbs.show_osd("nothing"), "unknown_osd", "there is no OSD 'nothing'")
    refused(lambda: verbs.add_osds("192.0.2.9:1"), "osd_server", "refused")
    assert verbs.whereabouts() == {
        "cluster": house.host.store.cluster_id(),
        "domain": "default",
        "node": "node1",
    }
