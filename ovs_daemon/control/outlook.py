"""What could happen: losses, draining, risks. The policy decides; this asks it and finds words."""

from __future__ import annotations

from typing import Any

from ovs_daemon.control.store import Store
from ovs_daemon.control.view import View
from ovs_daemon.errors import Code, VStorageError, unknown_node
from ovs_daemon.policy.drain import Plan, plan_drain
from ovs_daemon.policy.model import Cluster
from ovs_daemon.policy.takeover import Obstacle, Takeover
from ovs_daemon.policy.what_if import Outcome, Risk, What, lose, risks

_WHY = {
    Obstacle.NO_NODE: "no node is left that could go on with it",
    Obstacle.NO_COPY: "no other node keeps its log",
    Obstacle.COPY_DEAD: "the node that keeps its log is lost as well",
    Obstacle.NOT_IN_SYNC: "its log is not complete",
    Obstacle.NOT_SYNC: "its DTL mode is 'async', so that its last writes may be missing",
    Obstacle.ANCESTOR: "a volume from which it was cloned cannot go on",
}


def describe_loss(store: Store, reference: str) -> dict[str, Any]:
    """What the loss of a node or a Domain would do now.

    ``continuing`` are the volumes with which another node goes on by itself, ``stopped`` those
    with which none does, and why; ``unprotected`` those that go on without a log on another node,
    ``outside`` those whose log is not in their Recovery Domain afterwards.

    :param reference: a name, or ``node:NAME`` or ``domain:NAME`` where both exist
    :raises VStorageError: ``unknown_node``, ``bad_request`` for an ambiguous name
    """
    view = View.of(store)
    cluster = view.cluster()
    what, name, members = _resolve(cluster, view, reference)
    outcome = lose(cluster, members)
    return {"lost": {"what": what.value, "name": name}, **_outcome(view, cluster, outcome)}


def describe_drain(store: Store, name: str) -> dict[str, Any]:
    """What would empty a node.

    :raises VStorageError: ``unknown_node``
    """
    view = View.of(store)
    cluster = view.cluster()
    if cluster.node(name) is None:
        raise unknown_node(f"plan to drain node {name!r}", name)
    return _plan(view, plan_drain(cluster, name))


def describe_risks(view: View) -> list[dict[str, Any]]:
    """The single failures that would do harm, worst first."""
    cluster = view.cluster()
    return [_risk(view, cluster, risk) for risk in risks(cluster)]


def why_stopped(obstacle: Obstacle) -> str:
    """Why no node goes on with a volume, in words."""
    return _WHY[obstacle]


def _resolve(cluster: Cluster, view: View, reference: str) -> tuple[What, str, list[str]]:
    what = f"tell what the loss of {reference!r} would do"
    prefix, colon, name = reference.partition(":")
    kinds = {kind.value: kind for kind in What}
    wanted = [kinds[prefix]] if colon and prefix in kinds else list(What)
    name = name if colon and prefix in kinds else reference
    found: list[tuple[What, list[str]]] = []
    if What.NODE in wanted and cluster.node(name) is not None:
        found.append((What.NODE, [name]))
    if What.DOMAIN in wanted and any(domain.name == name for domain in view.domains):
        found.append((What.DOMAIN, [node.name for node in cluster.members(name)]))
    match found:
        case [(kind, members)]:
            return kind, name, members
        case []:
            raise VStorageError(
                Code.UNKNOWN_NODE,
                what,
                f"there is no node and no Domain {name!r}",
                "'vstorage node list' and 'vstorage domain list' show them",
            )
    raise VStorageError(
        Code.BAD_REQUEST,
        what,
        "a node and a Domain have that name",
        f"write node:{name} or domain:{name}",
    )


def _outcome(view: View, cluster: Cluster, outcome: Outcome) -> dict[str, Any]:
    names = view.names()
    owners = {volume.uuid: volume.owner for volume in cluster.volumes}

    def fate(one: Takeover) -> dict[str, Any]:
        return {"volume": names[one.volume], "from": owners[one.volume]}

    return {
        "nodes": list(outcome.lost),
        "harmless": outcome.harmless,
        "continuing": [{**fate(one), "to": one.owner} for one in outcome.continuing],
        "stopped": [
            {**fate(one), "code": one.obstacle.value, "why": _WHY[one.obstacle]}
            for one in outcome.stopped
            if one.obstacle is not None
        ],
        "unprotected": [names[uuid] for uuid in outcome.unprotected],
        "outside": [names[uuid] for uuid in outcome.outside],
    }


def _risk(view: View, cluster: Cluster, risk: Risk) -> dict[str, Any]:
    outcome = _outcome(view, cluster, risk.outcome)
    kept = ("stopped", "unprotected")
    return {
        "what": risk.what.value,
        "name": risk.name,
        **{key: outcome[key] for key in kept},
        "why": _risk_in_words(outcome),
    }


def _risk_in_words(outcome: dict[str, Any]) -> str:
    parts = []
    if stopped := outcome["stopped"]:
        reasons = sorted({one["why"] for one in stopped})
        parts.append(f"{_volumes(len(stopped))} would stop: {'; '.join(reasons)}")
    if unprotected := outcome["unprotected"]:
        parts.append(f"{_volumes(len(unprotected))} would go on without a log on another node")
    return "; ".join(parts)


def _volumes(count: int) -> str:
    return "1 volume" if count == 1 else f"{count} volumes"


def _plan(view: View, plan: Plan) -> dict[str, Any]:
    names = view.names()
    return {
        "node": plan.node,
        "feasible": plan.feasible,
        "moves": [
            {"volume": names[one.volume], "from": one.before, "to": one.after} for one in plan.moves
        ],
        "logs": [
            {"volume": names[one.volume], "from": one.before, "to": one.after}
            for one in plan.pairings
        ],
        "stuck": [names[uuid] for uuid in plan.stuck],
        "exposed": [names[uuid] for uuid in plan.exposed],
        "attached": [one.name for one in view.volumes if one.node == plan.node and one.attachments],
    }
