"""Who goes on with the volumes of a node that is dead, and who must not.

Another node goes on by itself only where every acknowledged write is known to be in a log that can
be read: mode ``sync``, state ``in_sync``, the log's node alive; or on the backend, because the dead
node was just given the volume and had not opened it. In all other cases a person has to say so, and
is told what may be lost.

Relatives (clones, clones of clones) go to one node, ancestors first, because what an ancestor has
not on the backend yet is in its owner's write buffer. A volume whose ancestor must stay stays; one
with relatives on other nodes goes to them.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ovs_daemon.policy.model import Cluster, DtlMode, DtlState, Node, Volume
from ovs_daemon.policy.placement import place_dtl, place_mds


class Obstacle(enum.StrEnum):
    """Why no node goes on with a volume by itself."""

    NO_NODE = "no_node"
    NO_COPY = "no_copy"
    COPY_DEAD = "copy_dead"
    NOT_IN_SYNC = "not_in_sync"
    NOT_SYNC = "not_sync"
    ANCESTOR = "ancestor"


@dataclass(frozen=True)
class Takeover:
    """A volume's fate when its owner is dead.

    :param owner: who goes on, None when nobody does
    :param obstacle: why nobody does by itself; None when somebody does
    """

    volume: str
    owner: str | None
    obstacle: Obstacle | None = None


def takeovers(cluster: Cluster, dead: str) -> tuple[Takeover, ...]:
    """The fate of all volumes of a dead node, in the order in which they are taken over."""
    fates: dict[str, Takeover] = {}
    owners = Owners(cluster)
    for volume in cluster.owned(dead):
        obstacle = _obstacle(cluster, volume, owners)
        if obstacle is None:
            owner = successor(cluster, volume, owners)
            if owner is not None:
                fates[volume.uuid] = Takeover(volume.uuid, owner)
                owners.change(volume.uuid, owner)
                continue
            obstacle = Obstacle.NO_NODE
        fates[volume.uuid] = Takeover(volume.uuid, None, obstacle)
    return tuple(fates.values())


def taken_over(cluster: Cluster, fates: Iterable[Takeover]) -> Cluster:
    """The cluster once that has happened; DTLs and followers are still to be placed."""
    owners = {fate.volume: fate.owner for fate in fates if fate.owner is not None}
    volumes = (
        replace(one, owner=owners[one.uuid], handed=False) if one.uuid in owners else one
        for one in cluster.volumes
    )
    return replace(cluster, volumes=tuple(volumes))


class Owners:
    """Who owns which volume, kept up to date while a plan is made."""

    def __init__(self, cluster: Cluster) -> None:
        self._owners = {volume.uuid: volume.owner for volume in cluster.volumes}
        self._counts = Counter(self._owners.values())
        self._families = {family[0].root: family for family in cluster.families()}

    def of(self, uuid: str) -> str | None:
        """The owner of a volume."""
        return self._owners.get(uuid)

    def of_relatives(self, volume: Volume) -> tuple[str, ...]:
        """The owners of a volume's family, those of its nearest ancestors first."""
        nearest = [one for one in reversed(volume.ancestors) if one in self._owners]
        family = [one.uuid for one in self._families[volume.root]]
        return tuple(dict.fromkeys(self._owners[one] for one in (*nearest, *family)))

    def count(self, node: str) -> int:
        """How many volumes a node owns."""
        return self._counts[node]

    def change(self, uuid: str, owner: str) -> None:
        """A volume gets another owner."""
        self._counts[self._owners[uuid]] -= 1
        self._counts[owner] += 1
        self._owners[uuid] = owner


def settled(cluster: Cluster, volume: Volume) -> Volume:
    """The volume with the DTL and the followers that its owner should have."""
    place = None if volume.mode is DtlMode.NONE else place_dtl(cluster, volume.owner).node
    state = DtlState.STANDALONE if place is None else DtlState.IN_SYNC
    followers = place_mds(cluster, volume.owner, place)
    return replace(volume, dtl_node=place, dtl_state=state, mds=followers)


def successor(cluster: Cluster, volume: Volume, owners: Owners) -> str | None:
    """Who takes a volume from its owner, if it may be taken; None when there is nobody.

    It goes where its relatives are, ancestors before others. Else it is the best usable node: in
    the own Domain, then in the Recovery Domain; there, one that follows the map already; rather not
    the one that keeps the log, so that there remain two copies; the one with the fewest volumes.
    """
    others = [node for node in cluster.nodes if node.serving and node.name != volume.owner]
    names = {node.name for node in others}
    for owner in owners.of_relatives(volume):
        # Also one that is being drained: it gives them away together.
        if owner in names:
            return owner
    usable = [node for node in others if not node.draining]
    before = cluster.node(volume.owner)
    domains = () if before is None else (before.domain, before.recovery_domain)

    def rank(node: Node) -> tuple[int, bool, bool, int, str]:
        return (
            domains.index(node.domain) if node.domain in domains else len(domains),
            node.name not in volume.mds,
            node.name == volume.dtl_node,
            owners.count(node.name),
            node.name,
        )

    best = min(usable, key=rank, default=None)
    return None if best is None else best.name


def _obstacle(cluster: Cluster, volume: Volume, owners: Owners) -> Obstacle | None:
    missing = None if volume.handed else missing_log(cluster, volume)
    if missing is not None:
        return missing
    found = (owners.of(one) for one in volume.ancestors)
    if any(one is not None and not cluster.alive(one) for one in found):
        return Obstacle.ANCESTOR
    return None


def missing_log(cluster: Cluster, volume: Volume) -> Obstacle | None:
    """What a log with every acknowledged write lacks; None when another node can read it."""
    if volume.mode is DtlMode.NONE or volume.dtl_node is None:
        return Obstacle.NO_COPY
    if volume.dtl_state is not DtlState.IN_SYNC:
        return Obstacle.NOT_IN_SYNC
    if volume.mode is not DtlMode.SYNC:
        return Obstacle.NOT_SYNC
    if not cluster.alive(volume.dtl_node):
        return Obstacle.COPY_DEAD
    return None
