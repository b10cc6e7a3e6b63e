"""What a daemon does when it starts: undo half-made things, finish half-deleted ones, open the
volumes, serve what is attached. One volume's trouble is remembered and keeps nobody else waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ovs_daemon.control.attachments import serve
from ovs_daemon.control.host import Host
from ovs_daemon.control.purge import purge
from ovs_daemon.control.records import Mode, State, Volume
from ovs_daemon.control.registration import register
from ovs_daemon.control.store import put
from ovs_daemon.errors import VStorageError

LOG = logging.getLogger(__name__)


def recover(host: Host) -> None:
    """Bring engine and registry together after a start. Nobody else may use the host yet.

    :raises VStorageError: the registry does not work; anything else is remembered by volume
    """
    register(host)
    _undo_half_made(host)
    for volume in _own(host):
        if volume.state is not State.DELETING:
            _guarded(host, volume, partial(_open, host, volume))
    for volume in _own(host):
        _guarded(host, volume, partial(purge, host, volume.uuid))


def _own(host: Host) -> list[Volume]:
    """The volumes of this node; those of others are theirs to mend."""
    return [one for one in host.store.volumes() if one.node == host.settings.node]


def _undo_half_made(host: Host) -> None:
    """Nobody was told that these exist."""
    own = _own(host)
    for volume in own:
        if volume.state is State.CREATING:
            LOG.warning("volume %s (%s) was half created; undone", volume.name, volume.uuid)
            host.store.commit(put(replace(volume, state=State.DELETING)))
    ours = {volume.uuid for volume in own}
    for snapshot in host.store.snapshots():
        if snapshot.state is State.CREATING and snapshot.volume in ours:
            LOG.warning(
                "snapshot %s of volume %s was half taken; undone", snapshot.uuid, snapshot.volume
            )
            host.store.commit(put(replace(snapshot, state=State.DELETING)))


def _open(host: Host, volume: Volume) -> None:
    with host.locks.holding(volume.uuid):
        opened = host.open(volume)
        # The Edge is told by `EdgeLink`, as soon as it can be reached.
        if any(one.mode is Mode.DIRECT for one in opened.attachments):
            serve(host, opened)


def _guarded(host: Host, volume: Volume, act: Callable[[], None]) -> None:
    try:
        act()
    except VStorageError as failure:
        host.remember_failure(volume.uuid, failure)
