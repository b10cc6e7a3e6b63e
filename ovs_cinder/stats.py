"""What the scheduler is told about a backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GIB = 1 << 30


def location_info(cluster: str | None, domain: str) -> str:
    """The same text for all backend sections of one Domain, whoever serves them.

    :param cluster: its UUID, since every cluster may have a Domain ``default``; None if unknown
    """
    return f"OVSVolumeDriver:{cluster or 'unknown'}:{domain}"


def pool_stats(
    domain: Mapping[str, Any] | None, cluster: str | None, name: str, up: bool
) -> dict[str, Any]:
    """The pool's own figures.

    :param domain: as the daemon describes it, or did when one answered last; None for nothing to
        be had there
    :param cluster: UUID of the cluster, if it is known
    :param name: of the Domain, which is the pool's name
    :param up: whether a node answers
    """
    if domain is None:
        return {
            "pool_name": name,
            "location_info": location_info(cluster, name),
            "backend_state": "down",
            "total_capacity_gb": 0,
            "free_capacity_gb": 0,
            "provisioned_capacity_gb": 0,
        }
    return {
        "pool_name": name,
        "location_info": location_info(cluster, name),
        "backend_state": "up" if up else "down",
        "total_capacity_gb": _gib(domain["total_bytes"]),
        "free_capacity_gb": _gib(domain["free_bytes"]),
        "provisioned_capacity_gb": _gib(domain["provisioned_bytes"]),
        "total_volumes": domain["volumes"],
    }


def capabilities(online_extend: bool) -> dict[str, Any]:
    """What every pool of ours can do, and what not."""
    return {
        "QoS_support": True,
        "multiattach": True,
        "thin_provisioning_support": True,
        "thick_provisioning_support": False,
        "consistent_group_snapshot_enabled": True,
        "online_extend_support": online_extend,
        # A clone shares SCOs with its source, which may be on another host's section.
        "clone_across_pools": False,
        "replication_enabled": False,
    }


def _gib(size: int | None) -> float | str:
    return "unknown" if size is None else round(size / _GIB, 2)
