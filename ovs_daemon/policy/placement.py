"""Where a volume's DTL and the followers of its map belong.

The DTL is in the Recovery Domain of the owner if it has one, else in the owner's own Domain, and
never on the owner. While no node of the Recovery Domain can take it, one of the own Domain does:
that survives less than was asked for, but more than no copy. Among equals the node that keeps the
fewest logs takes the next one, by name when there is a tie.

The owner holds the map itself (the master). One more node of its Domain follows it, and one of the
Recovery Domain if there is one; rather not the one that keeps the log, so that the follower can go
on and the log is still somewhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ovs_daemon.policy.model import Cluster, DtlMode, DtlState, Node, Volume


@dataclass(frozen=True)
class DtlPlace:
    """Where a DTL goes.

    :param node: None when there is no other node for it
    :param fallback: it belongs into the Recovery Domain, where no node can take it
    """

    node: str | None
    fallback: bool = False


@dataclass(frozen=True)
class Pairing:
    """A volume's DTL has to go somewhere else; ``None`` means that it stays alone."""

    volume: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Keepers:
    """Who may keep the logs of an owner's volumes.

    :param names: of nodes, all of one Domain
    :param fallback: they are not of the Recovery Domain, although there is one
    """

    names: tuple[str, ...]
    fallback: bool = False


def keepers(cluster: Cluster, owner: str) -> Keepers:
    """The nodes that may keep the log of a volume of ``owner``."""
    node = cluster.node(owner)
    if node is None:
        return Keepers(())
    if node.recovery_domain is not None:
        chosen = _candidates(owner, cluster.members(node.recovery_domain))
        if chosen:
            return Keepers(chosen)
    chosen = _candidates(owner, cluster.members(node.domain))
    return Keepers(chosen, fallback=bool(chosen) and node.recovery_domain is not None)


def place_dtl(cluster: Cluster, owner: str) -> DtlPlace:
    """The node that should keep the log of a volume of ``owner``."""
    allowed = keepers(cluster, owner)
    logs = Counter(volume.dtl_node for volume in cluster.volumes)
    return DtlPlace(_least_loaded(allowed, logs), allowed.fallback)


def pairings(cluster: Cluster) -> tuple[Pairing, ...]:
    """The DTLs that have to move now, for volumes whose owner is alive, in order.

    Each counts what the earlier ones place, so that the logs of a dead node are spread.
    """
    found = []
    logs = Counter(volume.dtl_node for volume in cluster.volumes)
    allowed = {name: keepers(cluster, name) for name in {one.owner for one in cluster.volumes}}
    alive = {node.name for node in cluster.nodes if node.alive}
    for volume in sorted(cluster.volumes, key=lambda one: one.uuid):
        if volume.owner not in alive or _belongs(volume, allowed[volume.owner]):
            continue
        wanted = None
        if volume.mode is not DtlMode.NONE:
            wanted = _least_loaded(allowed[volume.owner], logs)
        found.append(Pairing(volume.uuid, volume.dtl_node, wanted))
        logs[volume.dtl_node] -= 1
        logs[wanted] += 1
    return tuple(found)


def _belongs(volume: Volume, allowed: Keepers) -> bool:
    """Whether a volume's DTL is where it should be, so that nothing has to be copied: any node
    that may keep it is right, since balance alone is not worth a copy."""
    if volume.mode is DtlMode.NONE or not allowed.names:
        return volume.dtl_node is None
    return volume.dtl_node in allowed.names


def paired(volume: Volume, node: str | None) -> Volume:
    """The volume once its DTL is on that node and has everything."""
    state = DtlState.STANDALONE if node is None else DtlState.IN_SYNC
    return replace(volume, dtl_node=node, dtl_state=state)


def place_mds(cluster: Cluster, owner: str, dtl_node: str | None) -> tuple[str, ...]:
    """The nodes that should follow the map of a volume of ``owner``, beside the owner."""
    node = cluster.node(owner)
    if node is None:
        return ()
    maps = Counter(name for volume in cluster.volumes for name in volume.mds)
    chosen: list[str] = []
    for domain in (node.domain, node.recovery_domain):
        members = (one.name for one in cluster.members(domain) if one.usable)
        candidates = [name for name in members if name not in (owner, *chosen)]
        if candidates:
            chosen.append(min(candidates, key=lambda name: (name == dtl_node, maps[name], name)))
    return tuple(chosen)


def mds_belongs(cluster: Cluster, volume: Volume) -> bool:
    """Whether as many nodes follow a volume's map, in the right Domains, as can."""
    wanted = place_mds(cluster, volume.owner, volume.dtl_node)
    nodes = [cluster.node(name) for name in volume.mds]
    alive = [one for one in nodes if one is not None and one.usable and one.name != volume.owner]
    have = sorted(str(one.domain) for one in alive)
    return len(alive) == len(nodes) and have == sorted(_domains_of(cluster, wanted))


def _candidates(owner: str, nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes if node.usable and node.name != owner)


def _least_loaded(allowed: Keepers, logs: Mapping[str | None, int]) -> str | None:
    return min(allowed.names, key=lambda name: (logs[name], name), default=None)


def _domains_of(cluster: Cluster, names: Iterable[str]) -> list[str]:
    nodes = (cluster.node(name) for name in names)
    return [str(node.domain) for node in nodes if node is not None]
