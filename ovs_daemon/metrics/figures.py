"""What there is to tell about this node at one moment, gathered from whoever knows it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from ovs_daemon.control.host import Host
from ovs_daemon.control.status import all_findings
from ovs_daemon.control.view import View
from ovs_daemon.errors import VStorageError

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Figures:
    """All of it; None where nobody answers.

    :param engine: as `status` in `_native.pyi`, without its findings
    :param upkeep: as `upkeep` there; None, too, when the backend is a folder of whole objects
    :param osds: as `osd_states` there
    :param findings: all that `vstorage status` finds wrong
    :param nodes: of the cluster: whether each is alive
    :param sessions: what the Edge serves
    :param names: of volumes, by UUID, as far as they were ever known
    """

    node: str
    release: str
    domain: str | None
    engine: dict[str, Any]
    upkeep: dict[str, Any] | None
    osds: list[dict[str, Any]]
    findings: list[dict[str, Any]] | None
    nodes: dict[str, bool] | None
    sessions: list[dict[str, Any]] | None
    names: dict[str, str] = field(default_factory=dict)


class Gatherer:
    """Gathers figures. Any thread may call; whoever asks while the registry or the Edge is away is
    told the rest."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._guard = threading.Lock()
        self._names: dict[str, str] = {}
        self._domain: str | None = None

    def gather(self) -> Figures:
        """How it is now.

        :raises VStorageError: the engine does not answer
        """
        host = self._host
        engine, upkeep = host.engine.status(), host.engine.upkeep()
        found = engine.pop("findings", [])
        sessions = self._sessions()
        view = self._view()
        findings = None
        if view is not None:
            findings = all_findings(host, sessions is not None, view, found, upkeep)
        with self._guard:
            names, domain = self._names, self._domain
        return Figures(
            node=host.settings.node,
            release=host.settings.membership.release,
            domain=domain,
            engine=engine,
            upkeep=upkeep,
            osds=host.engine.osd_states(),
            findings=findings,
            nodes=None
            if view is None
            else {one.name: one.name in view.alive for one in view.nodes},
            sessions=sessions,
            names=names,
        )

    def _view(self) -> View | None:
        try:
            view = View.of(self._host.store)
        except VStorageError as failure:
            LOG.warning("figures without what the registry knows: %s", failure)
            return None
        me = next((one for one in view.nodes if one.name == self._host.settings.node), None)
        with self._guard:
            self._names = view.names()
            self._domain = None if me is None else me.domain
        return view

    def _sessions(self) -> list[dict[str, Any]] | None:
        edge = self._host.edge
        # One that did not answer the last ping is not waited for.
        if not edge.reachable:
            return None
        try:
            return edge.sessions()
        except VStorageError as failure:
            LOG.warning("figures without the Edge's: %s", failure)
            return None
