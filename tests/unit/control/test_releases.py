"""A cluster that is being upgraded, one node after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovs_daemon.control.leaving import LeavingVerbs
from ovs_daemon.control.osds import OsdLink, register_osds
from ovs_daemon.control.status import status
from ovs_daemon.control.store import put
from ovs_daemon.control.topology import Standing
from ovs_daemon.edge import EdgeUnavailable
from tests.support.fake_edge import FakeEdge
from tests.support.refusal import refused
from tests.support.town import Town

SERVER = "192.0.2.7:6650"
FIRST = "aaaaaaaa-0000-4000-8000-000000000000"


@pytest.fixture
def town() -> Town:
    """Three nodes of one release, and twelve OSDs."""
    made = Town(dict.fromkeys(("one", "two", "three"), ("rack1", None)))
    for name in made.nodes:
        upgrade(made, name, "1.0")
    one = made["one"]
    one.engine.servers[SERVER] = [
        {
            "osd": f"aaaaaaaa-0000-4000-8000-{at:012x}",
            "domain": f"dc{at % 3}",
            "node": f"n{at // 3}",
            "role": "capacity",
        }
        for at in range(12)
    ]
    register_osds(one.host, SERVER)
    OsdLink(one.host, None, shared=True).tend()
    return made


def upgrade(town: Town, name: str, release: str) -> None:
    """A node says, when it starts, of which release it is."""
    store = town[name].host.store
    node = store.node(name)
    assert node is not None
    store.commit(put(replace(node, release=release)))


def told(town: Town) -> list[str]:
    """What the status says of an upgrade that is not finished."""
    found = status(town["one"].host, True)["findings"]
    return [one["why"] for one in found if one["code"] == "releases_differ"]


def test_status_says_who_is_to_be_upgraded_yet(town: Town) -> None:
    assert told(town) == []
    upgrade(town, "one", "1.1")
    assert told(town) == ["its programs are of several releases: 1.0 on three, two; 1.1 on one"]
    upgrade(town, "two", "1.1")
    # Who is dead says its release when it is back.
    town["three"].kill()
    town.pass_time()
    assert told(town) == []


def test_status_names_osd_servers_and_the_edge_of_other_releases(town: Town) -> None:
    one = town["one"]
    edge = one.host.edge
    assert isinstance(edge, FakeEdge)
    one.engine.releases[SERVER] = "1.0"
    edge.says = "1.0"
    edge.ping()
    assert told(town) == []
    # Those of earlier releases tell none.
    one.engine.releases[SERVER] = ""
    why = "its programs are of several releases: unknown on vstorage-osd at 192.0.2.7:6650; 1.0 on "
    assert told(town) == [f"{why}one, three, two, vstorage-edge of one"]
    edge.says = None
    edge.ping()
    assert "unknown on vstorage-osd at 192.0.2.7:6650, vstorage-edge of one; 1.0" in told(town)[0]
    # Who is away says it when it is back.
    one.engine.away |= one.engine.osds.keys()
    edge.up = False
    with pytest.raises(EdgeUnavailable):
        edge.ping()
    assert told(town) == []


def test_no_osd_leaves_before_all_nodes_know_that_it_may(town: Town) -> None:
    verbs = LeavingVerbs(town["one"].host)
    upgrade(town, "one", "1.1")
    refused(lambda: verbs.decommission(FIRST), "busy", "1.0 on three, two; 1.1 on one")
    town["one"].engine.away.add(FIRST)
    refused(lambda: verbs.remove(FIRST, lost=True), "busy", "finish the upgrade")
    for name in ("two", "three"):
        upgrade(town, name, "1.1")
    assert verbs.remove(FIRST, lost=True).standing is Standing.LOST
    # What was begun goes on, whoever is upgraded meanwhile.
    upgrade(town, "one", "1.2")
    assert verbs.remove(FIRST, lost=True).standing is Standing.LOST
