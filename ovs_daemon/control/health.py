"""What is wrong with the cluster, as findings of `vstorage status`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ovs_daemon.control.fencing import unconfirmed_findings
from ovs_daemon.control.findings import finding
from ovs_daemon.control.host import Host
from ovs_daemon.control.opening import RELATIVES_AT_ONCE
from ovs_daemon.control.outlook import why_stopped
from ovs_daemon.control.records import Volume
from ovs_daemon.control.releases import releases_findings
from ovs_daemon.control.tails import tail_findings
from ovs_daemon.control.topology import Node
from ovs_daemon.control.view import View
from ovs_daemon.policy.family import gatherings
from ovs_daemon.policy.model import DtlMode, DtlState
from ovs_daemon.policy.placement import keepers
from ovs_daemon.policy.takeover import takeovers

# Records that must be as they were when a family comes together; see `family.reasons`.
_REASONS_MAX = 2


def cluster_findings(host: Host, view: View) -> list[dict[str, Any]]:
    """Findings on nodes, Domains and DTLs."""
    found = []
    for node in view.nodes:
        if node.name not in view.alive:
            found.append(_dead(node))
            found += _down(view, node)
        if node.domain is None:
            found.append(_unassigned(node))
        if node.wanted_recovery_domain is not None:
            found.append(_waiting(node))
    found += _without_log(view)
    found += _apart(view)
    found += _too_many(host, view)
    found += unconfirmed_findings(view)
    found += tail_findings(host, view)
    found += releases_findings(host, view)
    return found + _dtl_findings(view) + _silent_guests(view) + _differing(host)


def _dead(node: Node) -> dict[str, Any]:
    return finding(
        "node_dead",
        "critical",
        f"node {node.name}",
        "it gives no sign of life",
        f"start vstorage-daemon there; if it is gone for good, 'vstorage node delete {node.name}'",
    )


def _down(view: View, node: Node) -> list[dict[str, Any]]:
    """Volumes of a dead node with which no other node goes on."""
    names = view.names()
    return [
        finding(
            "volume_down",
            "critical",
            f"volume {names[fate.volume]}",
            f"its node {node.name} is dead and nobody goes on with it: "
            f"{why_stopped(fate.obstacle)}",
            f"start {node.name} again",
        )
        for fate in takeovers(view.cluster(beside=node.name), node.name)
        if fate.obstacle is not None
    ]


def _without_log(view: View) -> list[dict[str, Any]]:
    """Volumes that a living node took over, and whose log it cannot get."""
    return [
        finding(
            "volume_down",
            "critical",
            f"volume {volume.name}",
            f"node {volume.node} is to go on with it and needs its log; {volume.dtl.node}, which "
            f"keeps that, and {volume.served}, which served it last, are dead",
            f"start {volume.dtl.node} or {volume.served} again",
        )
        for volume in view.volumes
        if volume.listed and volume.node in view.alive
        if volume.served not in (None, volume.node, *view.alive)
        if volume.dtl.node not in view.alive
    ]


def _apart(view: View) -> list[dict[str, Any]]:
    """Volumes that have to go to a relative."""
    names = view.names()
    return [
        finding(
            "family_apart",
            "warning",
            f"volume {names[one.volume]}",
            f"node {one.before} owns it, and node {one.after} its relative {names[one.anchor]}: "
            "clones and what they were cloned from are served by one node",
            f"it goes to {one.after} by itself, and what is closed waits for that; if it stays so, "
            f"the log of the daemon on {one.before} says what keeps it, such as an attachment with "
            "--direct",
        )
        for one in gatherings(view.cluster())
    ]


def _too_many(host: Host, view: View) -> list[dict[str, Any]]:
    """The largest family, where the registry cannot give it to another node in one step."""
    names = view.names()
    sizes = Counter(one.root for one in view.volumes)
    root, size = next(iter(sizes.most_common(1)), ("", 0))
    # So many are no trouble for any; with them what else may have to be as it was.
    if size <= RELATIVES_AT_ONCE or host.store.registry.has_room(size + _REASONS_MAX):
        return []
    return [
        finding(
            "family_too_large",
            "warning",
            f"volume {names.get(root, root)}",
            f"it and its clones, {size} volumes, go to another node in one transaction, and etcd "
            "takes fewer operations in one (its --max-txn-ops): they cannot be moved, and their "
            "node cannot be drained",
            "start the members of etcd with --max-txn-ops=4096, one after the other",
        )
    ]


def _silent_guests(view: View) -> list[dict[str, Any]]:
    """Volumes that go on while the node whose Edge serves them does not."""
    return [
        finding(
            "attachment_silent",
            "warning",
            f"volume {volume.name}",
            f"node {one.node}, whose Edge serves it to {one.holder}, gives no sign of life"
            + _left_out(volume),
            f"start {one.node} again; once it is certain that its guest is gone, "
            f"'vstorage volume attach --preempt {volume.name}' gives it to another one",
        )
        for volume in view.volumes
        for one in volume.attachments
        if one.node not in (None, volume.node) and one.node not in view.alive
        if volume.node in view.alive
    ]


def _left_out(volume: Volume) -> str:
    """What else a dead daemon means for its guest, where somebody was shut out of the volume."""
    if volume.generation == 0:
        return ""
    # When its daemon heard last is not known.
    return (
        "; others were shut out of the volume, and the leave with which that Edge attached is "
        "worth nothing from then on: if its daemon was dead by then, its guest waits until the "
        "daemon is back"
    )


def _dtl_findings(view: View) -> list[dict[str, Any]]:
    cluster = view.cluster()
    return [
        _exposed(volume)
        for volume in view.volumes
        if volume.listed and volume.node in view.alive and volume.dtl.mode is not DtlMode.NONE
        if volume.dtl.state is not DtlState.IN_SYNC
        # One that has nowhere to go is a risk, and told as one.
        if keepers(cluster, volume.node).names
    ]


def _exposed(volume: Volume) -> dict[str, Any]:
    state = volume.dtl.state
    why = {
        DtlState.STANDALONE: "no other node keeps its log so far",
        DtlState.DEGRADED: f"node {volume.dtl.node} cannot be reached, which keeps its log",
        DtlState.CATCHING_UP: f"node {volume.dtl.node} is being given its log",
    }[state]
    return finding(
        f"dtl_{state.value}",
        "info" if state is DtlState.CATCHING_UP else "warning",
        f"volume {volume.name}",
        f"{why}: until then it does not survive the loss of node {volume.node}",
        "it mends itself; if it stays so, see the log of that node's daemon",
    )


def _unassigned(node: Node) -> dict[str, Any]:
    return finding(
        "node_in_no_domain",
        "warning",
        f"node {node.name}",
        "it is in no Domain: it can own no volumes and keep no logs",
        f"'vstorage node set {node.name} --domain DOMAIN'",
    )


def _waiting(node: Node) -> dict[str, Any]:
    wanted = node.wanted_recovery_domain
    return finding(
        "recovery_domain_empty",
        "warning",
        f"node {node.name}",
        f"its configuration asks for the Recovery Domain {wanted!r}, in which no node is so far",
        f"start a node in {wanted!r}: it then becomes the Recovery Domain by itself",
    )


def _differing(host: Host) -> list[dict[str, Any]]:
    """What the registry says about this node counts, but somebody wrote something else."""
    node = host.store.node(host.settings.node)
    wanted = host.settings.domain
    configured = host.settings.membership.domain_configured
    if node is None or node.domain in (None, wanted) or not configured:
        return []
    return [
        finding(
            "domain_differs",
            "info",
            f"node {node.name}",
            f"its configuration says Domain {wanted!r}, the registry says {node.domain!r}, which "
            "counts",
            f"correct the option 'domain', or 'vstorage node set {node.name} --domain {wanted}'",
        )
    ]
