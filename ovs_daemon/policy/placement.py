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
from collections.abc import Iterable
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


def place_dtl(cluster: Cluster, owner: str) -> DtlPlace:
    """The node that should keep the log of a volume of ``owner``."""
    node = cluster.node(owner)
    if node is None:
        return DtlPlace(None)
    if node.recovery_domain is not None:
        chosen = _least_loaded(cluster, owner, cluster.members(node.recovery_domain))
        if chosen is not None:
            return DtlPlace(chosen)
    chosen = _least_loaded(cluster, owner, cluster.members(node.domain))
    return DtlPlace(chosen, fallback=chosen is not None and node.recovery_domain is not None)


def dtl_belongs(cluster: Cluster, volume: Volume) -> bool:
    """Whether a volume's DTL is where it should be, so that nothing has to be copied."""
    if volume.mode is DtlMode.NONE:
        return volume.dtl_node is None
    wanted = place_dtl(cluster, volume.owner)
    kept = cluster.node(volume.dtl_node)
    if kept is None or wanted.node is None:
        return volume.dtl_node == wanted.node
    better = cluster.node(wanted.node)
    assert better is not None, "a place is a node of the cluster"
    # Any usable node of the right Domain is right: balance alone is not worth a copy.
    return kept.usable and kept.name != volume.owner and kept.domain == better.domain


def pairings(cluster: Cluster) -> tuple[Pairing, ...]:
    """The DTLs that have to move now, for volumes whose owner is alive, in order.

    Each counts what the earlier ones place, so that the logs of a dead node are spread.
    """
    found = []
    for volume in sorted(cluster.volumes, key=lambda one: one.uuid):
        if not cluster.alive(volume.owner) or dtl_belongs(cluster, volume):
            continue
        wanted = None
        if volume.mode is not DtlMode.NONE:
            wanted = place_dtl(cluster, volume.owner).node
        found.append(Pairing(volume.uuid, volume.dtl_node, wanted))
        cluster = cluster.with_volume(paired(volume, wanted))
    return tuple(found)


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


def _least_loaded(cluster: Cluster, owner: str, nodes: Iterable[Node]) -> str | None:
    candidates = [node.name for node in nodes if node.usable and node.name != owner]
    logs = Counter(volume.dtl_node for volume in cluster.volumes)
    return min(candidates, key=lambda name: (logs[name], name), default=None)


def _domains_of(cluster: Cluster, names: Iterable[str]) -> list[str]:
    nodes = (cluster.node(name) for name in names)
    return [str(node.domain) for node in nodes if node is not None]
