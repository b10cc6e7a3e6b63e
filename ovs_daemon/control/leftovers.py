"""Finishes what a node has begun that is dead: making volumes and snapshots, deleting them.

Of what was half made nobody was told, and what was half deleted nobody shall have; so both are
deleted, by the node that owns the volume they were cloned from, else by one that every node's
steward agrees on. A node without a lease may be alive where the registry cannot be reached: what it
has begun waits for it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ovs_daemon.control.host import Host
from ovs_daemon.control.purge import purge
from ovs_daemon.control.records import UNFINISHED, State, Volume
from ovs_daemon.control.store import ALIVE, put
from ovs_daemon.control.view import View
from ovs_daemon.registry import Absent, Conflict

LOG = logging.getLogger(__name__)


def left_to(view: View, me: str) -> list[Volume]:
    """The volumes that dead nodes have begun to make or delete, and this node finishes."""
    owners = {volume.uuid: volume.node for volume in view.volumes}
    found: list[Volume] = []
    for node in view.nodes:
        if node.name in view.alive or "dtl" not in node.addresses:
            continue
        usable = (one.name for one in view.cluster(beside=node.name).nodes if one.usable)
        heir = min(usable, default=None)
        for volume in view.volumes:
            if volume.node == node.name and volume.state in UNFINISHED:
                parent = volume.parent
                # A parent that is the dead node's is taken over first, or waits as well.
                if me == (heir if parent is None else owners.get(parent.volume)):
                    found.append(volume)
    return found


def finish(host: Host, volume: Volume) -> None:
    """Delete what a dead node has left half made or half deleted.

    :raises VStorageError: the engine could not; it stays decided and can be repeated
    """
    me = host.settings.node
    with host.locks.holding(volume.uuid):
        current = host.store.volume(volume.uuid)
        if current is None or current.state not in UNFINISHED:
            return
        if current.node != me:
            doomed = replace(current, node=me, state=State.DELETING, epoch=current.epoch + 1)
            try:
                host.store.commit(put(doomed), Absent(ALIVE, current.node))
            except Conflict:
                # That node is back and does it itself, or somebody else was first.
                return
            LOG.warning(
                "volume %s (%s) was %s when node %s died; deleted",
                current.name,
                current.uuid,
                current.state.value,
                current.node,
            )
    purge(host, volume.uuid)
