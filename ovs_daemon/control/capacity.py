"""What a scheduler needs to know of this node: its Domain, how full it is, what it runs."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from ovs_daemon.control.domains import domain_of
from ovs_daemon.control.host import Host


def describe_domain(host: Host) -> dict[str, Any]:
    """The Domain as this node knows it; capacities in bytes, None when the engine cannot tell.

    ``provisioned_bytes`` is the sum of all volumes' sizes, ``written_bytes`` what they hold.
    """
    domain = domain_of(host)
    engine = host.engine.status()
    volumes = host.store.volumes()
    listed = [volume for volume in volumes if volume.listed]
    nodes = sorted({volume.node for volume in volumes} | {host.settings.node})
    return {
        "domain": None if domain is None else domain.name,
        "availability_zone": None if domain is None else domain.availability_zone,
        "node": host.settings.node,
        "nodes": nodes,
        "volumes": len(listed),
        "snapshots": sum(1 for snapshot in host.store.snapshots() if snapshot.listed),
        "total_bytes": engine.get("backend_total_bytes"),
        "free_bytes": engine.get("backend_free_bytes"),
        "provisioned_bytes": sum(volume.size for volume in listed),
        "written_bytes": sum(one.get("mapped_bytes", 0) for one in engine.get("volumes", [])),
        "sco_size": host.settings.sco_size,
        "versions": {
            "vstorage": metadata.version("open-vstorage"),
            "python": platform.python_version(),
        },
    }
