"""What a scheduler needs to know of this node: its Domain, how full it is, what it runs."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from ovs_daemon.control.domains import domain_of
from ovs_daemon.control.host import Host
from ovs_daemon.policy.model import Role


def describe_domain(host: Host) -> dict[str, Any]:
    """The Domain as this node knows it; capacities in bytes, None when the engine cannot tell.

    ``provisioned_bytes`` is the sum of its volumes' sizes; ``written_bytes`` is what those of this
    node hold, ``total_bytes`` and ``free_bytes`` are of this node's backend. ``others`` are the
    Domains whose nodes may have to be asked for what went there, when nobody answers here.
    """
    domain = domain_of(host)
    engine = host.engine.status()
    name = None if domain is None else domain.name
    cluster = host.store.nodes()
    nodes = sorted(node.name for node in cluster if node.domain == name)
    listed = {
        volume.uuid: volume
        for volume in host.store.volumes()
        if volume.listed and volume.node in nodes
    }
    snapshots = [one for one in host.store.snapshots() if one.listed and one.volume in listed]
    return {
        "domain": name,
        "availability_zone": None if domain is None else domain.availability_zone,
        "node": host.settings.node,
        "nodes": nodes,
        "others": sorted(
            {
                node.domain
                for node in cluster
                if node.domain not in (None, name) and Role.ROUTER in node.roles
            }
        ),
        "volumes": len(listed),
        "snapshots": len(snapshots),
        "total_bytes": engine.get("backend_total_bytes"),
        "free_bytes": engine.get("backend_free_bytes"),
        "provisioned_bytes": sum(volume.size for volume in listed.values()),
        "written_bytes": sum(one.get("mapped_bytes", 0) for one in engine.get("volumes", [])),
        "sco_size": host.settings.sco_size,
        "versions": {
            "vstorage": metadata.version("open-vstorage"),
            "python": platform.python_version(),
        },
    }
