"""Upkeep of the erasure-coded backend: who repairs what, how fast, and what has come of it.

A repair never leaves its Domain when the Domain's own parity is enough, so a node of that Domain
does it: the living one with the first name. For a Domain without a living node the first one of all
does. Two that believe to be the first for a moment do work twice and no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ovs_daemon.control.findings import finding
from ovs_daemon.control.host import Host
from ovs_daemon.control.leaving import PARTING, advance, heard_by_all, next_of
from ovs_daemon.control.topology import Osd, Standing
from ovs_daemon.control.view import View
from ovs_daemon.engine import Orders
from ovs_daemon.errors import Code, VStorageError

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How fast and how often; the options of [alba] that can be changed while it runs."""

    repair_rate: int
    scrub_rate: int
    rebalance_rate: int
    repair_delay: float
    survey_interval: float
    scrub_interval: float
    rebalance_from: float


def domains_of(me: str, alive: dict[str, str | None], domains: set[str]) -> tuple[str, ...]:
    """The Domains whose fragments a node mends.

    :param alive: living nodes that use the backend, each with its Domain
    :param domains: those that have OSDs
    """
    first = min(alive, default=me)

    def tender(domain: str) -> str:
        return min((node for node, its in alive.items() if its == domain), default=first)

    return tuple(sorted(domain for domain in domains if tender(domain) == me))


class UpkeepLink:
    """Tells the engine how to look after the backend.

    :param shared: whether other nodes use the same OSDs
    :param pace: the options of the moment
    """

    def __init__(self, host: Host, shared: bool, pace: Callable[[], Pace]) -> None:
        self._host = host
        self._shared = shared
        self._pace = pace
        self._told: Orders | None = None
        self._paced: Pace | None = None
        # OSDs that leave, as the registry had them.
        self._parting: list[Osd] = []

    def due(self) -> bool:
        """Whether there is something to do although nothing has changed in the registry."""
        if self._pace() != self._paced:
            return True
        figures = (self._host.engine.upkeep() or {}) if self._parting else {}
        return any(next_of(osd, figures) is not None for osd in self._parting)

    def tend(self, view: View) -> None:
        """Tell what has changed since it was told, and record what was found out."""
        pace = self._pace()
        figures = self._host.engine.upkeep()
        if figures is None:
            self._paced = pace
            return
        osds = self._host.store.osds()
        me = next((one for one in view.nodes if one.name == self._host.settings.node), None)
        if self._shared:
            if advance(self._host.store, osds, figures):
                osds = self._host.store.osds()
            self._parting = [osd for osd in osds if osd.standing in PARTING]
        heard = {} if me is None else heard_by_all(view, self._host.store, me, self._parting)
        orders = Orders(
            domains=self._domains(view, osds) if self._shared else None,
            heard=heard,
            repair_bytes_per_s=pace.repair_rate,
            scrub_bytes_per_s=pace.scrub_rate,
            delay_s=pace.repair_delay,
            every_s=pace.survey_interval,
            scrub_every_s=pace.scrub_interval,
            rebalance_bytes_per_s=pace.rebalance_rate,
            rebalance_from=pace.rebalance_from / 100,
        )
        self._paced = pace
        if orders != self._told:
            self._host.engine.set_upkeep(orders)
            self._told = orders
            domains = "all Domains" if orders.domains is None else ", ".join(orders.domains)
            LOG.info("this node repairs the fragments of %s", domains or "no Domain")

    def _domains(self, view: View, osds: list[Osd]) -> tuple[str, ...]:
        me = next((one for one in view.nodes if one.name == self._host.settings.node), None)
        if me is None:
            return ()
        nodes = (one for one in view.nodes if one.name in view.alive and one.shares_backend(me))
        alive = {one.name: one.domain for one in nodes}
        return domains_of(me.name, alive, {osd.domain for osd in osds})


class UpkeepVerbs:
    """The verbs on the backend's upkeep. Each raises :class:`VStorageError`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def show(self) -> dict[str, Any]:
        """What this node's engine has seen and done; see `upkeep` in `_native.pyi`."""
        figures = self._host.engine.upkeep()
        if figures is None:
            raise VStorageError(
                Code.BAD_REQUEST,
                "look after the backend",
                "it is a folder of objects, which needs no upkeep",
                "configure [alba] to keep objects erasure-coded",
            )
        return {"node": self._host.settings.node, **figures}

    def start(self, kind: str) -> dict[str, Any]:
        """Begin a ``repair``, ``scrub`` or ``rebalance`` now.

        :return: what :meth:`show` says before
        """
        if kind not in ("repair", "scrub", "rebalance"):
            raise VStorageError(
                Code.BAD_REQUEST,
                "start upkeep",
                f"there is no {kind!r}",
                "ask for repair, scrub or rebalance",
            )
        before = self.show()
        self._host.engine.start_upkeep(kind)
        return before


def upkeep_findings(figures: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What is wrong with the objects, as findings."""
    if figures is None:
        return []
    found = []
    if figures["unknown"]:
        found.append(
            finding(
                "objects_unknown",
                "critical",
                "backend",
                f"of {figures['unknown']} objects it cannot be told whether they are stored: too "
                "many OSDs are out of reach",
                "bring OSDs back; see 'vstorage osd list'",
            )
        )
    bare = int(figures["by_safety"].get("0", 0))
    if bare and figures["missing"]:
        found.append(
            finding(
                "objects_at_risk",
                "critical",
                "backend",
                f"{bare} objects have nothing left to lose: one more disk and they are gone",
                "bring OSDs back; they are repaired first: see 'vstorage alba status'",
            )
        )
    for uuid, one in figures.get("leaving", {}).items():
        found.append(_leaving(uuid, one))
    if figures["to_mend"]:
        found.append(
            finding(
                "objects_to_mend",
                "info" if figures["doing"] == "repairing" else "warning",
                "backend",
                f"{figures['to_mend']} of {figures['objects']} objects lack fragments "
                f"({figures['missing']} in all)",
                "they are repaired by themselves once an OSD is away for [alba] repair_delay and "
                "where other disks of the Domain have room; 'vstorage alba repair' begins now",
            )
        )
    return found


def _leaving(uuid: str, one: dict[str, Any]) -> dict[str, Any]:
    """How far an OSD is that leaves."""
    if one["why"]:
        left = f"how far it is cannot be told: {one['why']}"
    elif one["standing"] != Standing.LOST:
        alone = one["alone"]
        left = "not looked at yet" if alone is None else f"{alone} fragments are on it alone"
    elif one["hidden"]:
        left = "so many OSDs are away that objects could be hidden there"
    elif one["short"]:
        left = f"{one['short']} objects have too few fragments elsewhere"
    else:
        left = "waiting for a look that begins when every node has heard of it"
    return finding(
        f"osd_{'lost' if one['standing'] == Standing.LOST else 'leaving'}",
        "info",
        f"OSD {uuid}",
        f"it is {one['standing']}; {left}",
        "it is removed by itself when nobody needs it; dead nodes have to hear of it, too, or to "
        f"be deleted ('vstorage node list'); 'vstorage osd resume {uuid}' keeps it",
    )
