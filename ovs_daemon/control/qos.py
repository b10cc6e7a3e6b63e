"""Limits on what a volume's users may ask of it, kept by the engine at its door.

Limits are a mapping of :data:`LIMITS` to positive numbers; what is missing is unlimited. They are
part of the volume's record and applied whenever it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovs_daemon.control.checks import require_available
from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Volume
from ovs_daemon.errors import Code, VStorageError

#: requests a second, bytes a second, and for how many seconds' worth a burst may go beyond them
LIMITS = (
    "read_iops",
    "write_iops",
    "total_iops",
    "read_bytes_s",
    "write_bytes_s",
    "total_bytes_s",
    "burst_s",
)


def check_limits(what: str, limits: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The limits in a normal form: None when nothing is limited.

    :raises VStorageError: ``bad_request``
    """
    wanted = {name: value for name, value in (limits or {}).items() if value is not None}
    for name, value in wanted.items():
        if name not in LIMITS:
            raise _bad(what, f"{name!r} is no limit")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value <= 0:
            raise _bad(what, f"{name} is {value!r}, not a number over 0")
    return wanted or None


def set_limits(host: Host, reference: str, limits: dict[str, float] | None) -> Volume:
    """Limit a volume, attached or not.

    :param limits: checked; None for none
    :raises VStorageError: ``unknown_volume`` or an engine code; the limits then stay as they were
    """
    what = f"limit volume {reference!r}"
    found = host.require(what, reference)
    with host.locks.holding(found.uuid):
        volume = require_available(host, what, host.again(what, found))
        if volume.limits == limits:
            return volume
        changed = host.update(what, volume, limits=limits)
        try:
            host.engine.set_qos(volume.uuid, limits or {})
        except VStorageError:
            host.update(what, changed, limits=volume.limits)
            raise
        return changed


def _bad(what: str, why: str) -> VStorageError:
    return VStorageError(Code.BAD_REQUEST, what, why, f"give some of {', '.join(LIMITS)}")
