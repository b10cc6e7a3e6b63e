"""What a daemon does when it starts: undo half-made things, finish half-deleted ones, open the
volumes, serve what is attached. One volume's trouble is remembered and keeps nobody else waiting;
families are opened beside each other, the volumes of each one after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ovs_daemon.control.attachments import serve
from ovs_daemon.control.crew import Crew
from ovs_daemon.control.family import by_family
from ovs_daemon.control.host import Host
from ovs_daemon.control.purge import purge
from ovs_daemon.control.records import Mode, State, Volume
from ovs_daemon.control.registration import register
from ovs_daemon.control.store import put
from ovs_daemon.control.view import View
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.family import waiting

LOG = logging.getLogger(__name__)


def recover(host: Host, at_once: int = 8) -> None:
    """Bring engine and registry together after a start. Nobody else may use the host yet.

    :param at_once: how many families are opened beside each other
    :raises VStorageError: the registry does not work; anything else is remembered by volume
    """
    register(host)
    _undo_half_made(host)
    _open_all(host, at_once)
    for volume in _own(host):
        _guarded(host, volume, partial(purge, host, volume.uuid))


def _open_all(host: Host, at_once: int) -> None:
    # The steward brings those together with their relatives.
    later = waiting(View.of(host.store).cluster())
    mine = (one for one in _own(host) if one.state is not State.DELETING)
    families = by_family(one for one in mine if one.uuid not in later)
    crew = Crew(at_once)
    try:
        crew.work({root: partial(_open_family, host, them) for root, them in families.items()})
    finally:
        crew.stop()


def _open_family(host: Host, family: list[Volume]) -> None:
    """Whoever reads through an ancestor needs it open."""
    for volume in family:
        _guarded(host, volume, partial(_open, host, volume))


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
