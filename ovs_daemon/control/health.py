"""What is wrong with the cluster, as findings of `vstorage status`."""

from __future__ import annotations

from typing import Any

from ovs_daemon.control.host import Host
from ovs_daemon.control.topology import Node


def cluster_findings(host: Host) -> list[dict[str, Any]]:
    """Findings on nodes and Domains."""
    alive = host.store.alive()
    found = []
    for node in host.store.nodes():
        if node.name not in alive:
            found.append(_dead(node))
        if node.domain is None:
            found.append(_unassigned(node))
        if node.wanted_recovery_domain is not None:
            found.append(_waiting(node))
    return found + _differing(host)


def finding(code: str, severity: str, subject: str, why: str, fix: str) -> dict[str, Any]:
    """One finding, in the shape that `status.py` describes."""
    return {"code": code, "severity": severity, "object": subject, "why": why, "fix": fix}


def _dead(node: Node) -> dict[str, Any]:
    return finding(
        "node_dead",
        "critical",
        f"node {node.name}",
        "it gives no sign of life",
        f"start vstorage-daemon there; if it is gone for good, 'vstorage node delete {node.name}'",
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
