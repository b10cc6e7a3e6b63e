"""What a volume type asks of the back end: QoS specs and extra specs.

QoS specs whose consumer is the back end (or both) have the names that Nova uses for the front
end; with ``_per_gb`` they grow with the volume, and of two for one thing the lower counts. Extra
specs of our own are :data:`SCO_SIZE` and :data:`PRESET`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cinder import exception
from cinder.volume import volume_types

from ovs_daemon.errors import VStorageError
from ovs_daemon.units import parse_size

VENDOR = "ovs"
SCO_SIZE = "ovs:sco_size"
PRESET = "ovs:preset"

_LIMITS = {
    "read_iops_sec": "read_iops",
    "write_iops_sec": "write_iops",
    "total_iops_sec": "total_iops",
    "read_bytes_sec": "read_bytes_s",
    "write_bytes_sec": "write_bytes_s",
    "total_bytes_sec": "total_bytes_s",
    "burst_sec": "burst_s",
}
_PER_GB = {f"{name}_per_gb": limit for name, limit in _LIMITS.items() if name != "burst_sec"}


def limits_of(type_id: str | None, size_gb: int) -> dict[str, float] | None:
    """The daemon's limits for a volume of a type; None for none.

    :raises InvalidInput: a QoS spec is unknown or no number over 0
    """
    if type_id is None:
        return None
    specs = volume_types.get_volume_type_qos_specs(type_id)["qos_specs"]
    if not specs or specs.get("consumer") not in ("back-end", "both"):
        return None
    limits: dict[str, float] = {}
    for name, text in (specs.get("specs") or {}).items():
        known = name in _LIMITS or name in _PER_GB
        # What is for both may hold names that only the front end knows.
        if not known and specs["consumer"] == "both":
            continue
        if not known:
            names = ", ".join([*_LIMITS, *_PER_GB])
            raise exception.InvalidInput(
                reason=f"the QoS spec {name!r} is none of the back end's: {names}"
            )
        factor = size_gb if name in _PER_GB else 1
        limit = _PER_GB.get(name) or _LIMITS[name]
        value = _number(name, text) * factor
        # With both, one is what the volume may grow to.
        limits[limit] = min(value, limits.get(limit, value))
    return limits or None


def sco_size_of(extra_specs: Mapping[str, Any] | None) -> int | None:
    """Bytes of data in a SCO that a volume type asks for; None for the node's.

    :raises InvalidInput: it is no size
    """
    text = (extra_specs or {}).get(SCO_SIZE)
    if text is None:
        return None
    try:
        return parse_size(str(text))
    except VStorageError as failure:
        raise exception.InvalidInput(reason=f"the extra spec {SCO_SIZE}: {failure}") from failure


def preset_of(extra_specs: Mapping[str, Any] | None) -> str | None:
    """Name of the preset that a volume type asks for; None for the node's."""
    text = (extra_specs or {}).get(PRESET)
    return None if text is None else str(text)


def extra_specs_of(type_id: str | None) -> dict[str, Any]:
    """A volume type's extra specs."""
    if type_id is None:
        return {}
    specs: dict[str, Any] = volume_types.get_volume_type_extra_specs(type_id)
    return specs


def _number(name: str, text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise exception.InvalidInput(reason=f"the QoS spec {name} is {text!r}, no number over 0")
    return value
