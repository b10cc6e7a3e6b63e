"""How the cache tier does, as `vstorage alba status` shows it."""

from __future__ import annotations

from typing import Any

from ovs_daemon.units import format_size


def describe_cache(figures: dict[str, Any] | None) -> list[str]:
    """This node's reads, then each cache OSD with what it has done for all nodes.

    :param figures: ``cache`` of `upkeep` in `_native.pyi`; None without a cache tier
    """
    if figures is None:
        return []
    asked = figures["hits"] + figures["misses"] + figures["late"] + figures["damaged"]
    share = f" ({100 * figures['hits'] // asked} %)" if asked else ""
    lines = [
        f"cache tier: {figures['hits']} of {asked} reads{share} found there since the start, "
        f"{format_size(figures['hit_bytes'])}; {figures['late']} not answered in time, "
        f"{figures['passed']} not asked since that happened too often",
        f"brought there: {figures['fills']} blocks, {format_size(figures['fill_bytes'])}; "
        f"{figures['left_out']} left out since too many were on their way",
    ]
    return lines + [_osd(one) for one in figures["osds"]]


def _osd(one: dict[str, Any]) -> str:
    name = f"cache OSD {one['osd']}"
    if not one["reachable"]:
        return f"{name}: out of reach, nobody needs it"
    if "hits" not in one:
        return f"{name}: does not answer"
    return (
        f"{name}: {format_size(one['bytes'])} of {format_size(one['size'])} used; {one['hits']} "
        f"hits, {one['misses']} misses, {one['evicted']} blocks evicted, {one['damaged']} damaged, "
        f"{one['refused']} without room"
    )
