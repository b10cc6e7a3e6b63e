"""Removes write buffers of volumes that have left this node: they take room that others need.

A hand-over removes what it leaves. After a takeover the former owner may come back with a buffer
that nobody will ask for: the new owner has everything of it, and its DTL node, or the backend, as
well. Until both have, and after a takeover that accepted a loss, it stays: a person may want it.
"""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Volume
from ovs_daemon.control.view import View
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.model import DtlState

LOG = logging.getLogger(__name__)


def sweep(host: Host, view: View) -> None:
    """Remove the write buffers here that nobody needs any more.

    :raises VStorageError: the registry does not work; a buffer that cannot be removed is left
    """
    folder = host.settings.buffer_dir
    if folder is None:
        return
    there = _folders(folder)
    for volume in view.volumes:
        if volume.uuid in there and _is_useless(host, volume):
            _remove(host, volume.uuid)


def _remove(host: Host, ident: str) -> None:
    with host.locks.holding(ident):
        volume = host.store.volume(ident)
        if volume is None or not _is_useless(host, volume) or host.is_open(ident):
            return
        try:
            host.engine.clear_buffer(ident)
        except VStorageError as failure:
            LOG.warning("the former write buffer of volume %s stays: %s", volume.name, failure)
            return
        LOG.info("removed the former write buffer of volume %s", volume.name)


def _is_useless(host: Host, volume: Volume) -> bool:
    here = (None, host.settings.node)
    if volume.node in here or volume.served in here or volume.forced is not None:
        return False
    return volume.saved or volume.dtl.state is DtlState.IN_SYNC


def _folders(folder: Path) -> set[str]:
    """UUIDs of the volumes that have a write buffer here."""
    if not folder.is_dir():
        return set()
    return {one.name for one in folder.iterdir() if _is_uuid(one.name)}


def _is_uuid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
