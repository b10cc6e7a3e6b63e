"""OSDs of the cluster: how they get into the registry, and how this node's engine hears of them.

A `vstorage-osd` knows nothing of the registry. The daemon of its node asks it what it serves and
records that; every daemon tells its engine of all that are recorded, so that all nodes store
objects on the same disks. Those of role cache in the node's own Domain are its cache tier.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ovs_daemon.control.host import Host
from ovs_daemon.control.leaving import LeavingVerbs, say_heard
from ovs_daemon.control.store import put
from ovs_daemon.control.topology import CAPACITY, Osd, Standing
from ovs_daemon.engine import OsdSpec
from ovs_daemon.errors import Code, VStorageError, unknown_osd
from ovs_daemon.registry import retry

LOG = logging.getLogger(__name__)

CACHE = "cache"
# Until the server is asked again: after it was not there, and to see disks that it has got since.
_AGAIN_S, _LOOK_S = 5.0, 60.0


class OsdLink:
    """Registers this node's OSDs, and tells the engine of those of the cluster.

    :param server: ADDRESS:PORT of this node's `vstorage-osd`; None when it has none
    :param shared: whether the engine stores objects on the OSDs of the registry
    :param clock: seconds that never go back
    """

    def __init__(
        self,
        host: Host,
        server: str | None,
        shared: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._server = server
        self._shared = shared
        self._clock = clock
        self._told: tuple[OsdSpec, ...] | None = None
        self._caches: tuple[OsdSpec, ...] = ()
        self._ask_at = 0.0

    def due(self) -> bool:
        """Whether the server is to be asked although nothing has changed."""
        return self._server is not None and self._clock() >= self._ask_at

    def tend(self) -> None:
        """Do what there is to do; what fails is tried again in a moment."""
        self.ask()
        self.tell()

    def ask(self) -> None:
        """Register what the server has, when it is due; a server that hangs takes seconds."""
        if self.due():
            # Whatever comes of it, and however long that takes, it is not asked all the time.
            self._ask_at = self._clock() + _AGAIN_S
            pause = _LOOK_S if self._register() else _AGAIN_S
            self._ask_at = self._clock() + pause

    def tell(self) -> None:
        """Tell the engine what the registry has."""
        if self._shared:
            self._tell()

    def _register(self) -> bool:
        """Whether it could be asked."""
        assert self._server is not None
        try:
            register_osds(self._host, self._server)
        except VStorageError as failure:
            LOG.warning("this node's OSDs are looked for again in a moment: %s", failure)
            return False
        return True

    def _tell(self) -> None:
        osds = self._host.store.all_osds()
        specs = specs_of(osds)
        if specs != self._told:
            self._host.engine.set_osds(specs)
            self._told = specs
        # After the engine was told: from now on it counts nothing that these answer.
        say_heard(self._host.store, self._host.settings.node, osds)
        domain = _domain(self._host)
        caches = caches_of(osds, domain)
        if caches != self._caches:
            self._host.engine.set_caches(caches)
            self._caches = caches
            LOG.info("the cache tier of Domain %s has %d OSDs", domain, len(caches))


def register_osds(host: Host, server: str) -> list[Osd]:
    """Record the OSDs that a server serves.

    :param server: ADDRESS:PORT
    :raises VStorageError: ``osd_server``, it cannot be asked; ``in_use``, after the others were
        registered: one was removed from the cluster
    """
    what = f"register the OSDs of {server}"
    recording = (partial(_record, host, server, one) for one in host.engine.osd_roll(server))
    osds = [retry(what, record) for record in recording]
    removed = [osd.uuid for osd in osds if osd.standing is Standing.REMOVED]
    if removed:
        raise VStorageError(
            Code.IN_USE,
            what,
            f"OSD {', '.join(removed)} was removed from the cluster: what is on it may be of long "
            "ago, and nobody believes it any more",
            "empty the disk, and claim it as a new OSD: 'vstorage osd claim'",
        )
    return osds


def _record(host: Host, server: str, one: dict[str, Any]) -> Osd:
    known = host.store.osd(one["osd"])
    if known is not None and known.standing is Standing.REMOVED:
        return known
    place = {"domain": one["domain"], "node": one["node"], "role": one["role"], "address": server}
    me = host.settings.node
    if known is None:
        osd = Osd(uuid=one["osd"], registered_by=me, registered_at=host.now(), **place)
        LOG.info("registered %s OSD %s of node %s at %s", osd.role, osd.uuid, osd.node, server)
    else:
        osd = replace(known, registered_by=me, **place)
        if osd == known:
            return known
        LOG.info("OSD %s is at %s now", osd.uuid, server)
    return replace(osd, version=host.store.commit(put(osd)))


def specs_of(osds: list[Osd]) -> tuple[OsdSpec, ...]:
    """Those that keep objects, as the engine takes them."""
    capacity = (osd for osd in osds if osd.role == CAPACITY)
    return tuple(
        OsdSpec(one.uuid, one.address, one.domain, one.node, one.standing.value) for one in capacity
    )


def caches_of(osds: list[Osd], domain: str) -> tuple[OsdSpec, ...]:
    """The cache tier of a Domain: its OSDs of role cache."""
    mine = (osd for osd in osds if osd.role == CACHE and osd.domain == domain)
    caches = (osd for osd in mine if osd.standing is Standing.MEMBER)
    return tuple(OsdSpec(one.uuid, one.address, one.domain, one.node) for one in caches)


def _domain(host: Host) -> str:
    """This node's own, as the registry has it or the configuration."""
    node = host.store.node(host.settings.node)
    known = None if node is None else node.domain
    return host.settings.domain if known is None else known


class OsdVerbs:
    """The verbs on OSDs. Each raises :class:`VStorageError`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def list_osds(self) -> dict[str, Any]:
        """All OSDs of the registry, and what this node's engine knows of them."""
        states = self._states()
        return {"osds": [_described(osd, states) for osd in self._host.store.osds()]}

    def show_osd(self, uuid: str) -> dict[str, Any]:
        """One OSD."""
        osd = self._host.store.osd(uuid)
        if osd is None or osd.standing is Standing.REMOVED:
            raise unknown_osd(f"show OSD {uuid!r}", uuid)
        return _described(osd, self._states())

    def add_osds(self, address: str) -> dict[str, Any]:
        """Record what a server has; its node's daemon does it by itself when it is configured."""
        states = self._states()
        osds = register_osds(self._host, address)
        return {"osds": [_described(osd, states) for osd in osds]}

    def decommission_osd(self, uuid: str) -> dict[str, Any]:
        """Empty an OSD, then remove it; by itself from now on."""
        return _described(LeavingVerbs(self._host).decommission(uuid), self._states())

    def remove_osd(self, uuid: str, lost: bool) -> dict[str, Any]:
        """Forget an OSD that will never be back; by itself, once nobody needs it."""
        return _described(LeavingVerbs(self._host).remove(uuid, lost), self._states())

    def resume_osd(self, uuid: str) -> dict[str, Any]:
        """The opposite of both, as long as that can be."""
        return _described(LeavingVerbs(self._host).resume(uuid), self._states())

    def whereabouts(self) -> dict[str, Any]:
        """What a new OSD of this node is claimed with."""
        return {
            "cluster": self._host.store.cluster_id(),
            "domain": _domain(self._host),
            "node": self._host.settings.node,
        }

    def _states(self) -> dict[str, dict[str, Any]]:
        return {str(state["osd"]): state for state in self._host.engine.osd_states()}


def _described(osd: Osd, states: dict[str, dict[str, Any]]) -> dict[str, Any]:
    state = states.get(osd.uuid, {})
    return {
        "uuid": osd.uuid,
        "domain": osd.domain,
        "node": osd.node,
        "address": osd.address,
        "role": osd.role,
        "standing": osd.standing.value,
        "reachable": state.get("reachable"),
        "size": state.get("total"),
        "free": state.get("free"),
        "release": state.get("release"),
        "why": state.get("why"),
        "registered_by": osd.registered_by,
        "registered_at": osd.registered_at,
    }
