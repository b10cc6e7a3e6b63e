"""How a node is emptied while guests go on: its volumes, the logs it keeps, the maps it follows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ovs_daemon.policy.model import Cluster, Volume
from ovs_daemon.policy.placement import Pairing, mds_belongs, pairings, place_mds
from ovs_daemon.policy.takeover import Owners, Takeover, successor, taken_over


@dataclass(frozen=True)
class Move:
    """A volume goes to another owner."""

    volume: str
    before: str
    after: str


@dataclass(frozen=True)
class Following:
    """Other nodes follow a volume's map."""

    volume: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What empties a node, in this order.

    :param stuck: volumes for which there is no other owner
    :param exposed: volumes that will have no DTL afterwards although they want one
    """

    node: str
    moves: tuple[Move, ...]
    pairings: tuple[Pairing, ...]
    followings: tuple[Following, ...]
    stuck: tuple[str, ...]
    exposed: tuple[str, ...]

    @property
    def feasible(self) -> bool:
        """Whether the node ends empty."""
        return not self.stuck


def plan_drain(cluster: Cluster, name: str) -> Plan:
    """What to do to take everything from a node that is alive."""
    protected = {one.uuid for one in cluster.volumes if one.dtl_node is not None}
    cluster = cluster.draining(name)
    moves: list[Move] = []
    stuck: list[str] = []
    owners = Owners(cluster)
    for volume in cluster.owned(name):
        after = successor(cluster, volume, owners)
        if after is None:
            stuck.append(volume.uuid)
            continue
        moves.append(Move(volume.uuid, name, after))
        owners.change(volume.uuid, after)
    cluster = taken_over(cluster, (Takeover(one.volume, one.after) for one in moves))
    paired = pairings(cluster)
    for pairing in paired:
        volume = _volume(cluster, pairing.volume)
        cluster = cluster.with_volume(replace(volume, dtl_node=pairing.after))
    follow = followings(cluster)
    exposed = tuple(
        one.uuid
        for one in cluster.volumes
        if one.uuid in protected and one.dtl_node is None and one.uuid not in stuck
    )
    return Plan(name, tuple(moves), paired, follow, tuple(stuck), exposed)


def carried_out(cluster: Cluster, plan: Plan) -> Cluster:
    """The cluster once a plan is done."""
    cluster = cluster.draining(plan.node)
    for move in plan.moves:
        cluster = cluster.with_volume(replace(_volume(cluster, move.volume), owner=move.after))
    for pairing in plan.pairings:
        volume = _volume(cluster, pairing.volume)
        cluster = cluster.with_volume(replace(volume, dtl_node=pairing.after))
    for following in plan.followings:
        volume = _volume(cluster, following.volume)
        cluster = cluster.with_volume(replace(volume, mds=following.after))
    return cluster


def followings(cluster: Cluster) -> tuple[Following, ...]:
    """The maps that other nodes have to follow now, for volumes whose owner is alive, in order.

    Each counts what the earlier ones place.
    """
    found = []
    for volume in sorted(cluster.volumes, key=lambda one: one.uuid):
        if not cluster.alive(volume.owner) or mds_belongs(cluster, volume):
            continue
        wanted = place_mds(cluster, volume.owner, volume.dtl_node)
        found.append(Following(volume.uuid, volume.mds, wanted))
        cluster = cluster.with_volume(replace(volume, mds=wanted))
    return tuple(found)


def _volume(cluster: Cluster, uuid: str) -> Volume:
    return next(volume for volume in cluster.volumes if volume.uuid == uuid)
