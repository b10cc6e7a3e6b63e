"""Families: volumes that share logs because some were cloned from others. One node serves them all.

`policy/family.py` decides where one that is apart comes together; a node gives away what it has.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence

from ovs_daemon.control.host import Host
from ovs_daemon.control.opening import (
    RELATIVES_AT_ONCE,
    Taken,
    kept_by_edges,
    record_of,
    with_record,
)
from ovs_daemon.control.records import Volume
from ovs_daemon.control.store import ALIVE, VOLUME, Store, put
from ovs_daemon.control.view import View
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.policy.family import Gathering, gatherings
from ovs_daemon.policy.ownership import Knowledge, Step, give
from ovs_daemon.registry import Conflict, Unchanged

LOG = logging.getLogger(__name__)


def by_family(volumes: Iterable[Volume]) -> dict[str, list[Volume]]:
    """Volumes by the UUID of the oldest of their family, in the order in which they are given."""
    families: dict[str, list[Volume]] = {}
    for volume in volumes:
        families.setdefault(volume.root, []).append(volume)
    return families


def relatives(store: Store, volume: Volume) -> list[Volume]:
    """A volume and all that it shares logs with, ancestors first."""
    return [one for one in store.volumes() if one.root == volume.root]


def leaving(view: View, node: str) -> dict[str, Gathering]:
    """The volumes (UUIDs) that this node has to give to relatives, ancestors first."""
    return {one.volume: one for one in gatherings(view.cluster()) if one.before == node}


def open_taken(host: Host, taken: Taken) -> Volume:
    """Open a volume that this node has just taken over; the caller holds no lock.

    :raises VStorageError: as `Host.open`
    """
    with host.locks.holding(taken.volume.uuid):
        if host.is_open(taken.volume.uuid):
            return host.again("take over a volume", taken.volume)
        return host.acquire(taken.volume, taken)


def reasons(view: View, anchor: Volume) -> tuple[Unchanged, ...]:
    """On what it rests that relatives go to the owner of one of them."""
    alive = view.alive[anchor.node]
    return (
        Unchanged(VOLUME, anchor.uuid, anchor.version),
        Unchanged(ALIVE, anchor.node, alive.version),
    )


def give_closed(host: Host, volumes: Sequence[Volume], anchor: Volume, *still: Unchanged) -> None:
    """Let a relative's owner have volumes that are not open here, ancestors first.

    :param anchor: the relative
    :param still: records because of which they go there; else nothing is given
    :raises VStorageError: ``busy``, something changed meanwhile; some may be given already
    """
    target = anchor.node
    for first in range(0, len(volumes), RELATIVES_AT_ONCE):
        chosen = volumes[first : first + RELATIVES_AT_ONCE]
        with contextlib.ExitStack() as held:
            # Nobody may be about to open them.
            for uuid in sorted(one.uuid for one in chosen):
                held.enter_context(host.locks.holding(uuid))
            given = [one for one in (_given(host, one, target) for one in chosen) if one]
            if not given:
                continue
            try:
                host.store.commit(*(put(one) for one in given), *still)
            except Conflict as conflict:
                raise VStorageError(
                    Code.BUSY,
                    f"give volume {given[0].name!r} to its relatives on node {target!r}",
                    f"a record changed meanwhile ({conflict})",
                    "nothing: it is tried again",
                ) from conflict
        for one in given:
            LOG.warning(
                "volume %s goes to node %s, which owns its relative %s",
                one.name,
                target,
                anchor.name,
            )


def _given(host: Host, volume: Volume, target: str) -> Volume | None:
    """The volume once it is the other node's; None when it stays."""
    current = host.store.volume(volume.uuid)
    if current is None or current.state is not volume.state or host.is_open(volume.uuid):
        return None
    decision = give(host.settings.node, record_of(current), Knowledge(), target)
    if decision.step is not Step.GIVE or decision.record is None:
        return None
    return with_record(kept_by_edges(current), decision.record)
