"""Logs that this node kept for others and nobody needs any more.

The owner has a former DTL node forget a log as soon as the present one has it complete. An owner
that is restarted before that knows of no former one, and the log stays. Nothing here removes it:
the owner may choose this node again at any time, and what the record said a moment ago is no
ground to delete a log on. So a person is told, and how to do it safely.
"""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

from ovs_daemon.control.findings import finding
from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Volume
from ovs_daemon.control.view import View
from ovs_daemon.policy.model import DtlMode, DtlState

LOG = logging.getLogger(__name__)

_NAMED_MAX = 3


def tail_findings(host: Host, view: View) -> list[dict[str, Any]]:
    """One finding, when there are such logs."""
    folder = host.settings.dtl_dir
    if folder is None:
        return []
    known = {volume.uuid: volume for volume in view.volumes}
    seen = [one for one in sorted(_volumes(folder)) if _is_left(host, known.get(one))]
    # The view is older than the folder: a volume has a record before anybody keeps its log.
    left = [one for one in seen if _is_left(host, host.store.volume(one))]
    if not left:
        return []
    named = ", ".join(left[:_NAMED_MAX])
    if len(left) > _NAMED_MAX:
        named += f" and {len(left) - _NAMED_MAX} more"
    return [
        finding(
            "dtl_leftover",
            "info",
            f"node {host.settings.node}",
            f"{folder} has logs of volumes which this node kept once and keeps no more: {named}",
            "they go by themselves in a moment, unless an owner was restarted after a takeover; "
            "then, on this node: stop vstorage-daemon; look from another node with 'vstorage "
            "volume show' that the volume's log is in_sync on another node, or that the volume is "
            "gone; remove its folder; start vstorage-daemon",
        )
    ]


def _is_left(host: Host, volume: Volume | None) -> bool:
    """Whether another node has all of the log, or nobody ever needs it."""
    if volume is None:
        return True
    if volume.dtl.mode is DtlMode.NONE or volume.dtl.node == host.settings.node:
        return False
    return volume.dtl.state is DtlState.IN_SYNC


def _volumes(folder: Path) -> set[str]:
    """UUIDs of the volumes that have a folder here."""
    try:
        return {one.name for one in folder.iterdir() if _is_uuid(one.name)}
    except OSError as failure:
        LOG.warning("cannot look into %s: %s", folder, failure)
        return set()


def _is_uuid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
