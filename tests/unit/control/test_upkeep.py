"""Upkeep of the backend: who repairs which Domain, at what pace, and what the status says."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from ovs_daemon.control.upkeep import Pace, UpkeepLink, UpkeepVerbs, domains_of, upkeep_findings
from ovs_daemon.control.view import View
from ovs_daemon.errors import VStorageError
from tests.support.house import House

PACE = Pace(1 << 20, 0, 2 << 20, 900.0, 600.0, 86400.0, 10.0)
FIGURES: dict[str, Any] = {
    "doing": "idle",
    "done": 0,
    "of": 0,
    "surveys": 1,
    "repairs": 1,
    "scrubs": 0,
    "rebalances": 0,
    "objects": 10,
    "by_safety": {"3": 10},
    "unknown": 0,
    "missing": 0,
    "to_mend": 0,
    "repaired": {"fragments": 0, "damaged": 0, "bytes": 0, "bytes_between_domains": 0},
    "scrubbed": {"fragments": 0, "damaged": 0, "bytes": 0, "bytes_between_domains": 0},
    "rebalanced": {
        "fragments": 0,
        "damaged": 0,
        "bytes": 0,
        "bytes_between_domains": 0,
        "trimmed": 0,
    },
    "spread": {},
    "collected": 0,
    "domains": None,
    "leaving": {},
    "failures": 0,
    "wire": {},
    "cache": None,
    "why": None,
}


def test_every_domain_is_mended_by_one_living_node_of_its_own_if_there_is_one() -> None:
    domains = {"dc1", "dc2", "dc3"}
    homes = {"a": "dc1", "b": "dc1", "c": "dc2", "d": None}
    for living in product((False, True), repeat=len(homes)):
        alive = {name: homes[name] for name, lives in zip(homes, living, strict=True) if lives}
        if not alive:
            continue
        mended = {name: domains_of(name, alive, domains) for name in alive}
        assert sorted(domain for its in mended.values() for domain in its) == sorted(domains)
        for name, its in mended.items():
            for domain in its:
                assert homes[name] == domain or domain not in alive.values()


def test_the_engine_is_told_once_and_again_when_something_changes(house: House) -> None:
    pace = PACE
    link = UpkeepLink(house.host, False, lambda: pace)
    assert link.due()
    link.tend(View.of(house.host.store))
    assert house.engine.orders is None, "a folder of objects needs no upkeep"
    assert not link.due()
    house.engine.figures = FIGURES
    link.tend(View.of(house.host.store))
    orders = house.engine.orders
    assert orders is not None
    assert (orders["domains"], orders["repair_bytes_per_s"]) == (None, 1 << 20)
    assert (orders["rebalance_bytes_per_s"], orders["rebalance_from"]) == (2 << 20, 0.1)
    house.engine.orders = None
    link.tend(View.of(house.host.store))
    assert house.engine.orders is None
    pace = replace(PACE, repair_rate=1)
    assert link.due()
    link.tend(View.of(house.host.store))
    assert house.engine.orders is not None


def test_work_is_begun_on_demand_where_there_is_any(house: House) -> None:
    verbs = UpkeepVerbs(house.host)
    with pytest.raises(VStorageError, match="needs no upkeep"):
        verbs.start("repair")
    house.engine.figures = FIGURES
    assert verbs.start("scrub")["scrubs"] == 0
    assert house.engine.started == ["scrub"]
    with pytest.raises(VStorageError, match="ask for repair, scrub or rebalance"):
        verbs.start("dance")
    assert house.engine.started == ["scrub"]
    verbs.start("rebalance")
    assert house.engine.started == ["scrub", "rebalance"]


@pytest.mark.parametrize(
    ("changed", "codes"),
    [
        ({}, []),
        ({"unknown": 2}, ["objects_unknown"]),
        ({"missing": 4, "to_mend": 2}, ["objects_to_mend"]),
        (
            {"missing": 4, "to_mend": 2, "by_safety": {"0": 1, "3": 9}},
            ["objects_at_risk", "objects_to_mend"],
        ),
        # A preset that bears nothing more by itself is no finding.
        ({"by_safety": {"0": 10}}, []),
    ],
)
def test_findings_say_what_is_missing(changed: dict[str, Any], codes: list[str]) -> None:
    found = upkeep_findings({**FIGURES, **changed})
    assert [one["code"] for one in found] == codes
    assert all(one["why"] and one["fix"] for one in found)


def test_what_is_being_repaired_is_no_warning() -> None:
    (one,) = upkeep_findings({**FIGURES, "missing": 1, "to_mend": 1, "doing": "repairing"})
    assert one["severity"] == "info"
    assert upkeep_findings(None) == []
