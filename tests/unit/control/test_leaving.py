"""OSDs that leave: who may, what must be known first, and who is not believed any more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ovs_daemon.control.leaving import LeavingVerbs, heard_by_all, next_of
from ovs_daemon.control.osds import OsdLink, OsdVerbs, register_osds, specs_of
from ovs_daemon.control.store import put
from ovs_daemon.control.topology import Heard, Node, Osd, Standing
from ovs_daemon.control.upkeep import UpkeepLink, upkeep_findings
from ovs_daemon.control.view import View
from ovs_daemon.errors import VStorageError
from tests.support.house import House
from tests.support.refusal import refused
from tests.unit.control.test_upkeep import FIGURES, PACE

SERVER = "192.0.2.7:6650"


def uuid(number: int) -> str:
    return f"aaaaaaaa-0000-4000-8000-{number:012x}"


def serve(house: House, nodes: int, role: str = "capacity") -> list[Osd]:
    """OSDs of three Domains with so many nodes each, registered and told."""
    house.engine.servers[SERVER] = [
        {"osd": uuid(at), "domain": f"dc{at % 3}", "node": f"n{at // 3}", "role": role}
        for at in range(3 * nodes)
    ]
    register_osds(house.host, SERVER)
    OsdLink(house.host, None, shared=True).tend()
    return house.host.store.osds()


def standing(house: House, number: int) -> str:
    found = house.host.store.osd(uuid(number))
    assert found is not None
    return found.standing.value


def told(standing: str, then: str | None, **known: Any) -> dict[str, Any]:
    nothing = {"alone": 0, "short": 0, "hidden": False, "heard": None, "why": None}
    return {"standing": standing, "next": then, **nothing, **known}


def test_an_osd_is_emptied_only_where_there_is_room_for_what_it_has(house: House) -> None:
    serve(house, nodes=3)
    verbs = LeavingVerbs(house.host)
    refused(lambda: verbs.decommission(uuid(0)), "in_use", "would have no place", "osd claim")
    serve(house, nodes=4)
    assert verbs.decommission(uuid(0)).standing is Standing.LEAVING
    assert verbs.decommission(uuid(0)).standing is Standing.LEAVING
    refused(lambda: verbs.decommission(uuid(3)), "in_use", "would have no place")
    refused(lambda: verbs.decommission("nothing"), "unknown_osd")
    house.engine.away.add(uuid(1))
    refused(lambda: verbs.decommission(uuid(1)), "in_use", "cannot reach it", "--lost")
    assert verbs.resume(uuid(0)).standing is Standing.MEMBER


def test_what_is_not_lost_is_not_removed_with_what_it_has(house: House) -> None:
    serve(house, nodes=4)
    house.engine.figures = {**FIGURES, "leaving": {uuid(0): told("leaving", None, alone=7)}}
    verbs = LeavingVerbs(house.host)
    refused(lambda: verbs.remove(uuid(0), lost=False), "in_use", "may be nowhere else")
    refused(lambda: verbs.remove(uuid(0), lost=True), "in_use", "it answers")
    verbs.decommission(uuid(0))
    refused(lambda: verbs.remove(uuid(0), lost=False), "in_use", "7 at the last look")
    house.engine.away.add(uuid(0))
    assert verbs.remove(uuid(0), lost=True).standing is Standing.LOST
    assert verbs.remove(uuid(0), lost=False).standing is Standing.LOST
    refused(lambda: verbs.decommission(uuid(0)), "in_use", "said to be lost", "resume")
    assert verbs.resume(uuid(0)).standing is Standing.MEMBER


def test_a_cache_is_removed_at_once(house: House) -> None:
    serve(house, nodes=1, role="cache")
    assert LeavingVerbs(house.host).remove(uuid(0), lost=False).standing is Standing.REMOVED
    assert LeavingVerbs(house.host).decommission(uuid(1)).standing is Standing.REMOVED
    assert len(house.host.store.osds()) == 1


def test_what_the_engine_finds_out_is_recorded(house: House) -> None:
    serve(house, nodes=4)
    house.engine.figures = dict(FIGURES)
    link = UpkeepLink(house.host, True, lambda: PACE)
    link.tend(View.of(house.host.store))
    assert not link.due()
    LeavingVerbs(house.host).decommission(uuid(0))
    link.tend(View.of(house.host.store))
    for then in ("sealed", "removed"):
        now = standing(house, 0)
        house.engine.figures["leaving"] = {uuid(0): told(now, None, alone=2)}
        assert not link.due()
        assert next_of(house.host.store.osds()[0], house.engine.figures) is None
        house.engine.figures["leaving"] = {uuid(0): told(now, then)}
        assert link.due()
        link.tend(View.of(house.host.store))
        # Of how it stood before, nothing counts.
        assert not link.due()
        link.tend(View.of(house.host.store))
        assert standing(house, 0) == then
        if then == "sealed":
            refused(lambda: LeavingVerbs(house.host).resume(uuid(0)), "in_use", "claim it anew")
    assert uuid(0) not in [osd.uuid for osd in house.host.store.osds()]


def test_one_that_was_removed_is_not_believed_when_it_is_back(house: House) -> None:
    osds = serve(house, nodes=4)
    house.host.store.commit(put(replace(osds[0], standing=Standing.REMOVED)))
    verbs = OsdVerbs(house.host)
    assert len(verbs.list_osds()["osds"]) == 11
    refused(lambda: verbs.add_osds(SERVER), "in_use", uuid(0), "claim it as a new OSD")
    refused(lambda: verbs.show_osd(osds[0].uuid), "unknown_osd")
    assert standing(house, 0) == "removed"
    told_of = {one.osd: one.standing for one in specs_of(house.host.store.all_osds())}
    assert (told_of[osds[0].uuid], told_of[osds[1].uuid]) == ("removed", "member")


@pytest.mark.parametrize("fenced", [False, True])
def test_every_node_hears_that_an_osd_is_lost(house: House, fenced: bool) -> None:
    serve(house, nodes=4)
    store = house.host.store
    house.engine.figures = dict(FIGURES)
    house.engine.away.add(uuid(0))
    me = replace(store.nodes()[0], backend="b")
    dead = Node("dead", backend="b", addresses={"dtl": "192.0.2.8:1"} if fenced else {})
    store.commit(put(me), put(dead), put(Node("stranger", backend="other")))
    me = next(node for node in store.nodes() if node.name == me.name)
    lost = LeavingVerbs(house.host).remove(uuid(0), lost=True)

    def heard() -> dict[str, int]:
        return heard_by_all(View.of(store), store, me, store.osds())

    assert heard() == {}
    OsdLink(house.host, None, shared=True).tend()
    assert house.engine.osds[lost.uuid]["standing"] == "lost"
    # A dead node may live without the registry, unless a lease guards what it has open.
    assert heard() == ({lost.uuid: lost.version} if fenced else {})
    store.commit(put(Heard("dead", {lost.uuid: lost.version})))
    assert heard() == {lost.uuid: lost.version}

    link = UpkeepLink(house.host, True, lambda: PACE)
    link.tend(View.of(store))
    orders = house.engine.orders
    assert orders is not None
    assert orders["heard"] == {lost.uuid: lost.version}
    # What was found out before it was said to be lost again counts for nothing.
    old = {"leaving": {lost.uuid: told("lost", "removed", heard=lost.version - 1)}}
    assert next_of(lost, old) is None
    house.engine.figures["leaving"] = {lost.uuid: told("lost", "removed", heard=lost.version)}
    assert link.due()
    link.tend(View.of(store))
    assert standing(house, 0) == "removed"


def test_a_conflict_leaves_it_as_somebody_else_wants_it(house: House) -> None:
    serve(house, nodes=4)
    house.engine.figures = dict(FIGURES)
    verbs = LeavingVerbs(house.host)
    verbs.decommission(uuid(0))
    link = UpkeepLink(house.host, True, lambda: PACE)
    link.tend(View.of(house.host.store))
    house.engine.figures["leaving"] = {uuid(0): told("leaving", "sealed")}
    verbs.resume(uuid(0))
    link.tend(View.of(house.host.store))
    assert standing(house, 0) == "member"


@pytest.mark.parametrize(
    ("one", "code", "words"),
    [
        (told("leaving", None, alone=3), "osd_leaving", "3 fragments"),
        (told("leaving", None, alone=None), "osd_leaving", "not looked at yet"),
        (told("lost", None, short=4), "osd_lost", "4 objects"),
        (told("lost", None, hidden=True), "osd_lost", "hidden"),
        (told("lost", None), "osd_lost", "every node has heard"),
        (told("sealed", None, why="it hangs"), "osd_leaving", "it hangs"),
    ],
)
def test_findings_say_how_far_it_is(one: dict[str, Any], code: str, words: str) -> None:
    (found,) = upkeep_findings({**FIGURES, "leaving": {uuid(0): one}})
    assert (found["code"], found["severity"]) == (code, "info")
    assert words in found["why"]


def test_registration_goes_on_beside_one_that_was_removed(house: House) -> None:
    osds = serve(house, nodes=1)
    house.host.store.commit(put(replace(osds[0], standing=Standing.REMOVED)))
    house.engine.servers[SERVER].append(
        {"osd": uuid(9), "domain": "dc0", "node": "n9", "role": "capacity"}
    )
    with pytest.raises(VStorageError):
        register_osds(house.host, SERVER)
    assert house.host.store.osd(uuid(9)) is not None
