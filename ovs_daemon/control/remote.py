"""Volumes that another node owns, attached on this one: the Edge reaches them over TCP.

The attachment's record stays with the volume in the registry and names the node that serves it.
Where the Edge finds a volume is computed here from the record of the volume and of its owner; when
these change, :class:`Follower` tells the Edge, which goes on with the new owner.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence

from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Attachment, Mode, State, Volume
from ovs_daemon.control.tokens import issue
from ovs_daemon.edge import EdgeUnavailable, Where
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.policy.model import Role

LOG = logging.getLogger(__name__)


def is_foreign(host: Host, volume: Volume) -> bool:
    """Whether another node owns it."""
    return volume.node != host.settings.node


def served_here(host: Host, volume: Volume) -> tuple[Attachment, ...]:
    """The attachments that this node serves; those of earlier releases are the owner's."""
    me = host.settings.node
    return tuple(one for one in volume.attachments if (one.node or volume.node) == me)


def require_reachable(host: Host, what: str, volume: Volume, mode: Mode) -> Volume:
    """The volume of another node, which this node's Edge can reach.

    :raises VStorageError: ``busy`` while it is made or deleted; ``not_here`` when it cannot be
        served from afar, with what is missing
    """
    if volume.state is not State.AVAILABLE:
        fix = "wait until its owner has finished"
        raise VStorageError(Code.BUSY, what, f"the volume is {volume.state.value}", fix)
    if volume.reverting is not None:
        fix = "try again when its owner has finished, which it does by itself"
        raise VStorageError(Code.BUSY, what, "the volume is being reverted to a snapshot", fix)
    missing, fix = None, ""
    if mode is Mode.DIRECT:
        missing = "only its owner can serve it from its own process"
        fix = "attach it without --direct"
    elif host.settings.cluster_key is None:
        missing = "this node has no cluster key to make an attach token with"
        fix = "copy cluster_key_file from the owner's node and restart the daemon"
    elif edge_address(host, volume.node) is None:
        missing = "that node says no address (edge_tcp) where Edges reach it"
        fix = f"set [edge] listen on node {volume.node!r} and restart its daemon"
    if missing is not None:
        raise VStorageError(
            Code.NOT_HERE, what, f"node {volume.node!r} owns it, and {missing}", fix
        )
    return volume


def attaching_node(host: Host, reference: str, candidates: Sequence[str]) -> str:
    """Through which of a host's nodes a volume is to be attached there.

    The owner itself, if it is one of them; else one that is alive, if there is any: a daemon that
    is only being restarted is waited for.

    :param candidates: the nodes whose daemons run on that host
    :raises VStorageError: ``unknown_volume``; ``not_here``, it cannot be attached there, with what
        is missing
    """
    what = f"attach volume {reference!r} through {', '.join(candidates) or 'no node'}"
    volume = host.require(what, reference)
    found = (host.store.node(name) for name in candidates)
    nodes = [node for node in found if node is not None and Role.EDGE in node.roles]
    if not nodes:
        raise VStorageError(
            Code.NOT_HERE,
            what,
            "none of these is a node of this cluster with the role edge",
            "run vstorage-daemon and vstorage-edge on that host, with this cluster's [registry] "
            "url and cluster_key_file and a role edge",
        )
    if any(node.name == volume.node for node in nodes):
        return volume.node
    if edge_address(host, volume.node) is None:
        raise VStorageError(
            Code.NOT_HERE,
            what,
            f"node {volume.node!r} owns it and says no address (edge_tcp) where Edges of other "
            "hosts reach it",
            f"set [edge] listen on node {volume.node!r} and restart its daemon",
        )
    alive = host.store.alive()
    return min(nodes, key=lambda node: (node.name not in alive, node.name)).name


def where(host: Host, volume: Volume, read_only: bool, now_s: float | None = None) -> Where:
    """Where this node's Edge finds a volume; nothing to say of one that this node owns, unless
    somebody was shut out of it.

    Behind the owner come the nodes that are the likeliest to own it next: an Edge that loses the
    owner finds them by itself, before anybody tells it.

    :param volume: the record in which this node has it attached
    """
    me, key = host.settings.node, host.settings.cluster_key
    moment = time.time() if now_s is None else now_s
    engine = ("shm", str(host.settings.run_dir / "engine.sock"))
    may_write, generation = not read_only, volume.generation
    if not is_foreign(host, volume):
        if generation == 0:
            return Where()
        # The engine asks Edges of its own host for the generation, not for the signature.
        shown = issue(key or b"", volume.uuid, me, may_write, moment, generation)
        return Where((engine,), shown, me)
    nodes = dict.fromkeys(
        name for name in (volume.node, volume.dtl.node, volume.served) if name is not None
    )
    targets: list[tuple[str, str]] = []
    for name in nodes:
        if name == me:
            targets.append(engine)
        elif (address := edge_address(host, name)) is not None:
            targets.append(("tcp", address))
    token = None
    if key is not None:
        token = issue(key, volume.uuid, me, may_write, moment, generation)
    return Where(tuple(targets), token, me, volume.epoch)


def edge_address(host: Host, name: str) -> str | None:
    """Where Edges reach a node, as numbers; None: nowhere, or its name cannot be resolved now."""
    node = host.store.node(name)
    text = None if node is None else node.addresses.get("edge_tcp")
    if text is None:
        return None
    name_part, _, port = text.rpartition(":")
    try:
        found = socket.getaddrinfo(name_part.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as failure:
        LOG.warning("the address %r of node %s cannot be used: %s", text, name, failure)
        return None
    address, number = str(found[0][4][0]), int(found[0][4][1])
    return f"[{address}]:{number}" if ":" in address else f"{address}:{number}"


class Follower:
    """Keeps the Edge informed about who owns what it serves.

    :param now_s: seconds since 1970, UTC
    """

    def __init__(self, host: Host, now_s: Callable[[], float] = time.time) -> None:
        self._host = host
        self._now_s = now_s
        self._told: dict[str, Where] = {}

    def forget(self) -> None:
        """The Edge is another one: it has been told everything anew."""
        self._told.clear()

    def look(self) -> None:
        """Tell the Edge what has changed.

        :raises EdgeUnavailable: it went away
        """
        host = self._host
        with host.edge_lock:
            attached = host.edge.attached()
            self._told = {uuid: told for uuid, told in self._told.items() if uuid in attached}
            for uuid in sorted(attached):
                try:
                    self._look_at(uuid)
                except EdgeUnavailable:
                    raise
                except VStorageError as failure:
                    LOG.warning("the Edge goes on with volume %s as before: %s", uuid, failure)

    def _look_at(self, uuid: str) -> None:
        host = self._host
        volume = host.store.volume(uuid)
        mine = () if volume is None else served_here(host, volume)
        if volume is None or not mine:
            host.edge.detach(uuid)
            LOG.info("the Edge stopped serving volume %s, which is not attached here", uuid)
            return
        read_only = all(one.read_only for one in mine)
        now = where(host, volume, read_only, self._now_s())
        # What an Edge was told in an earlier life of this daemon may be outdated: also that another
        # node owns what this one owns by now.
        if now != self._told.get(uuid):
            host.edge.retarget(uuid, now)
            LOG.info("the Edge was told where volume %s is: %s", volume.name, now.describe())
        self._told[uuid] = now
