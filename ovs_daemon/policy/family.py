"""Relatives that several nodes own come together on one: who gives what to whom.

A volume and its clones (and theirs) are served by one node, because what an ancestor has not on the
backend yet is in its owner's write buffer. They may be found apart all the same: a family is too
large for one transaction, and its owner came back in the middle of the takeover; a log that was not
good enough had one volume given back; a person took one volume over; an earlier release took them
over one by one. A clone that is apart from an ancestor is closed, or may be at any moment.

All nodes look at the same records and come to the same plan, of which each does its own part. They
come together where one lies that cannot leave, because only that node's write buffer has its last
writes and it cannot be opened there without its ancestors; else where the oldest of them is. Those
that have all ancestors beside them are open, so that they are handed over as in any move. A clone
that is apart and closed is given away as it is: its log, or the backend, has everything. One that
is apart and open all the same serves somebody, and goes only where it is `sure` to be open again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ovs_daemon.policy.model import Cluster, DtlMode, DtlState, Volume
from ovs_daemon.policy.takeover import missing_log


@dataclass(frozen=True)
class Gathering:
    """A volume has to go to a relative.

    :param anchor: the relative (UUID) because of which it goes there; the plan holds as long as
        that one is where it is
    :param apart: it has an ancestor elsewhere
    :param sure: the anchor is open there, as far as its record tells
    """

    volume: str
    before: str
    after: str
    anchor: str
    apart: bool
    sure: bool


def gatherings(cluster: Cluster) -> tuple[Gathering, ...]:
    """What has to be given to whom now, so that each family is on one node; ancestors first.

    Those of dead nodes are left out: whoever takes them over takes them to their relatives, and
    while the oldest of a family waits for its owner, the others wait for it.
    """
    return tuple(one for family in _apart_families(cluster) for one in family.gatherings())


def waiting(cluster: Cluster) -> frozenset[str]:
    """Volumes (UUIDs) that nobody opens where they are, because they go to relatives or these come.

    What an ancestor has not on the backend yet could not be read there. Whoever has not what it
    needs to open one is not kept from finding that out, and giving it back.
    """
    return frozenset(one for family in _apart_families(cluster) for one in family.waiting())


def left_behind(going: Collection[str], open_here: Mapping[str, Sequence[str]]) -> str | None:
    """An open volume that would be apart from an ancestor if these went, and does not go.

    :param going: volumes (UUIDs) that are to be handed over
    :param open_here: the ancestors of each volume that is open on their node
    """
    for uuid, ancestors in open_here.items():
        if uuid not in going and any(one in going for one in ancestors):
            return uuid
    return None


def _apart_families(cluster: Cluster) -> Iterator[_Family]:
    for volumes in cluster.families():
        if len({one.owner for one in volumes}) > 1 and cluster.alive(volumes[0].owner):
            yield _Family(cluster, volumes)


class _Family:
    """Relatives that several nodes own, the owner of the oldest of which lives."""

    def __init__(self, cluster: Cluster, volumes: tuple[Volume, ...]) -> None:
        owners = {one.uuid: one.owner for one in volumes}
        self._oldest = volumes[0]
        self._living = [one for one in volumes if cluster.alive(one.owner)]
        self._apart = {one.uuid: one for one in self._living if _is_apart(one, owners)}
        self._stays = {one.uuid for one in self._apart.values() if not _can_be_given(cluster, one)}

    def gatherings(self) -> Iterator[Gathering]:
        """What has to be given to whom."""
        needed = (one for one in self._apart.values() if one.uuid in self._stays and _has_it(one))
        anchor = next(needed, self._oldest)
        sure = anchor.uuid not in self._apart and _is_proven(anchor)
        for one in self._living:
            if one.owner != anchor.owner and one.uuid not in self._stays:
                apart = one.uuid in self._apart
                yield Gathering(one.uuid, one.owner, anchor.owner, anchor.uuid, apart, sure)

    def waiting(self) -> Iterator[str]:
        """Which are not to be opened."""
        for one in self._apart.values():
            if one.uuid not in self._stays or _has_it(one):
                yield one.uuid


def _is_apart(volume: Volume, owners: Mapping[str, str]) -> bool:
    """Whether an ancestor is elsewhere, so that the volume cannot be relied upon to be open."""
    return any(owners.get(one, volume.owner) != volume.owner for one in volume.ancestors)


def _can_be_given(cluster: Cluster, volume: Volume) -> bool:
    """Whether another node gets all of it although it is closed."""
    return volume.handed or missing_log(cluster, volume) is None


def _has_it(volume: Volume) -> bool:
    """Whether what is not on the backend is in its owner's write buffer."""
    return volume.served in (None, volume.owner)


def _is_proven(volume: Volume) -> bool:
    """Whether its owner has opened it, and nothing says that it could not do so again."""
    logged = volume.mode is DtlMode.NONE or volume.dtl_state is DtlState.IN_SYNC
    return _has_it(volume) and not volume.handed and logged
