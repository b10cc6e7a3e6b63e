"""The orderly end of a daemon: everything to the backend, and a word of that in the records."""

from __future__ import annotations

import logging

from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Volume
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.model import DtlState
from ovs_daemon.registry import Conflict

LOG = logging.getLogger(__name__)


def put_away(host: Host) -> None:
    """Close all volumes, and record of each that all of it is on the backend.

    So the node may come back with another disk for its write buffers, and what is left in the old
    ones is never taken for the end of a log. Where another node keeps the log, the record stays:
    the log is asked. A record that cannot be changed stays, too: then the disk is asked for.

    Whatever cannot be closed is left for :meth:`EngineClient.shutdown`, which says why.
    """
    told = True
    for uuid in host.opened():
        with host.locks.holding(uuid):
            try:
                volume = host.store.volume(uuid) if told else None
            except VStorageError as failure:
                LOG.warning("records are not brought up to date: %s", failure)
                told, volume = False, None
            try:
                saved = host.close(uuid)
            except VStorageError as failure:
                LOG.error("volume %s cannot be closed: %s", uuid, failure)
                continue
            if saved and volume is not None:
                told = _record(host, volume)


def _record(host: Host, volume: Volume) -> bool:
    """Say that the backend has all of it; whether the registry could be asked."""
    if volume.node != host.settings.node or volume.dtl.state is DtlState.IN_SYNC:
        return True
    try:
        host.swap(volume, served=volume.served, saved=True, dtl=volume.dtl)
    except Conflict as conflict:
        LOG.info("the record of volume %s stays as it is: %s", volume.uuid, conflict)
    except VStorageError as failure:
        LOG.warning("records are not brought up to date: %s", failure)
        return False
    return True
