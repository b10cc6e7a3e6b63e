"""Verbs on snapshots."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from ovs_daemon.control.checks import check_name, is_uuid, require_available
from ovs_daemon.control.host import Host
from ovs_daemon.control.purge import purge
from ovs_daemon.control.records import Snapshot, State, Volume
from ovs_daemon.control.store import claim_name, lost_name, put
from ovs_daemon.errors import Code, VStorageError, unknown_snapshot
from ovs_daemon.registry import Conflict, Operation, retry


def create_snapshot(host: Host, reference: str, name: str) -> Snapshot:
    """Take a snapshot of a volume, attached or not.

    :raises VStorageError: ``unknown_volume``, ``bad_request``, ``duplicate_name`` or an engine
        code; nothing is left behind
    """
    what = f"take snapshot {name!r} of volume {reference!r}"
    check_name(what, name)
    found = host.require(what, reference)
    with host.locks.holding(found.uuid):
        volume = require_available(host, what, host.again(what, found))
        snapshot = replace(take_snapshot(host, what, volume, name), state=State.AVAILABLE)
        try:
            return replace(snapshot, version=host.store.commit(put(snapshot)))
        except Conflict as conflict:
            raise _undone(what, conflict) from conflict


def create_snapshots(
    host: Host, members: Sequence[tuple[str, str]]
) -> list[tuple[Volume, Snapshot]]:
    """Take snapshots of several volumes at one instant: all of them or none.

    :param members: (volume, name of the snapshot); a volume at most once
    :raises VStorageError: ``unknown_volume``, ``bad_request``, ``duplicate_name`` or an engine
        code; nothing is left behind
    """
    what = f"take snapshots of {len(members)} volumes"
    found = {}
    for reference, name in members:
        check_name(what, name)
        volume = host.require(what, reference)
        if volume.uuid in found:
            raise VStorageError(
                Code.BAD_REQUEST, what, f"{volume.name!r} is named twice", "name it once"
            )
        found[volume.uuid] = (volume, name)
    with contextlib.ExitStack() as stack:
        # In one order for everybody, so that two groups do not wait for each other.
        for uuid in sorted(found):
            stack.enter_context(host.locks.holding(uuid))
        volumes = [
            (require_available(host, what, host.again(what, volume)), name)
            for volume, name in found.values()
        ]
        return _take_group(host, what, volumes)


def rename_snapshot(host: Host, reference: str, snapshot: str, name: str) -> Snapshot:
    """Give a snapshot another name; one transaction, so that it always has exactly one.

    :raises VStorageError: ``unknown_volume``, ``unknown_snapshot``, ``bad_request``,
        ``duplicate_name``
    """
    what = f"rename snapshot {snapshot!r} of volume {reference!r} to {name!r}"
    check_name(what, name)
    volume = host.require(what, reference)
    with host.locks.holding(volume.uuid):
        found = require_snapshot(host, what, volume, snapshot)
        if found.name == name:
            return found
        renamed = replace(found, name=name)
        try:
            version = host.store.commit(
                *host.store.release_name(found), claim_name(renamed), put(renamed)
            )
        except Conflict as conflict:
            if lost_name(conflict):
                raise _duplicate(what, volume, name) from conflict
            raise
        return replace(renamed, version=version)


def diff_snapshots(
    host: Host, reference: str, from_snapshot: str | None, to_snapshot: str
) -> list[list[int]]:
    """Where two snapshots of a volume may differ: [offset, length] in bytes, in order.

    :param from_snapshot: None for all that was ever written up to ``to_snapshot``
    :raises VStorageError: ``unknown_volume``, ``unknown_snapshot`` or an engine code
    """
    what = f"compare snapshots of volume {reference!r}"
    found = host.require(what, reference)
    with host.locks.holding(found.uuid):
        volume = require_available(host, what, host.again(what, found))
        newer = require_snapshot(host, what, volume, to_snapshot)
        older = None
        if from_snapshot is not None:
            older = require_snapshot(host, what, volume, from_snapshot).uuid
        return host.engine.diff_snapshots(volume.uuid, older, newer.uuid)


def delete_snapshot(host: Host, reference: str, name: str) -> bool:
    """Delete a snapshot; one that has clones is hidden until the last of them goes.

    :param name: name or UUID; a UUID that is not there counts as deleted
    :returns: whether there was something to delete
    :raises VStorageError: ``unknown_volume``, ``unknown_snapshot`` for a name, or an engine code
        (the deletion then stays decided: repeat it)
    """
    what = f"delete snapshot {name!r} of volume {reference!r}"
    volume = host.require(what, reference)
    host.require_own(what, volume)

    def decide() -> bool:
        snapshot = host.store.find_snapshot(volume, name)
        if snapshot is None or not snapshot.listed:
            if is_uuid(name):
                return False
            raise unknown_snapshot(what, reference, name)
        if snapshot.state is not State.DELETING:
            host.store.commit(*letting_go(host, snapshot))
        return True

    with host.locks.holding(volume.uuid):
        decided = retry(what, decide)
    if decided:
        purge(host, volume.uuid)
    return decided


def require_snapshot(host: Host, what: str, volume: Volume, reference: str) -> Snapshot:
    """The snapshot that a user means, by name or UUID.

    :raises VStorageError: ``unknown_snapshot``
    """
    snapshot = host.store.find_snapshot(volume, reference)
    if snapshot is None or not snapshot.listed or snapshot.state is not State.AVAILABLE:
        raise unknown_snapshot(what, volume.name, reference)
    return snapshot


def take_snapshot(host: Host, what: str, volume: Volume, name: str | None) -> Snapshot:
    """Have the engine take a snapshot; the caller stores what it is to be, and holds the lock.

    A caller that then decides otherwise calls :func:`abandon_snapshots`.

    :param name: None for a snapshot that a clone or template takes for itself
    :raises VStorageError: ``duplicate_name`` or an engine code; nothing is left behind
    """
    snapshot = _new_snapshot(host, volume, name)
    operations: list[Operation] = [put(snapshot)]
    if name is not None:
        operations.append(claim_name(snapshot))
    try:
        version = host.store.commit(*operations)
    except Conflict as conflict:
        if not lost_name(conflict):
            raise
        raise _duplicate(what, volume, snapshot.name) from conflict
    try:
        host.engine.create_snapshot(volume.uuid, snapshot.uuid)
    except VStorageError:
        abandon_snapshots(host, volume)
        raise
    return replace(snapshot, version=version)


def _take_group(
    host: Host, what: str, volumes: Sequence[tuple[Volume, str]]
) -> list[tuple[Volume, Snapshot]]:
    intended = [(volume, _new_snapshot(host, volume, name)) for volume, name in volumes]
    operations: list[Operation] = []
    for _, snapshot in intended:
        operations += [put(snapshot), claim_name(snapshot)]
    try:
        version = host.store.commit(*operations)
    except Conflict as conflict:
        if not lost_name(conflict):
            raise
        raise VStorageError(
            Code.DUPLICATE_NAME,
            what,
            f"one of the volumes already has a snapshot of that name ({conflict})",
            "choose other names, or delete those snapshots first",
        ) from conflict
    try:
        host.engine.snapshot_group([(volume.uuid, one.uuid) for volume, one in intended])
    except VStorageError:
        for volume, _ in intended:
            abandon_snapshots(host, volume)
        raise
    # As they were stored, not as they are now: who took a volume over has undone its snapshot.
    made = [replace(one, version=version, state=State.AVAILABLE) for _, one in intended]
    try:
        # One transaction: a crash before it takes all of them back, one after it none.
        version = host.store.commit(*(put(one) for one in made))
    except Conflict as conflict:
        for volume, _ in intended:
            abandon_snapshots(host, volume)
        raise _undone(what, conflict) from conflict
    return [
        (volume, replace(one, version=version))
        for (volume, _), one in zip(intended, made, strict=True)
    ]


def _new_snapshot(host: Host, volume: Volume, name: str | None) -> Snapshot:
    return Snapshot(
        uuid=host.new_uuid(),
        volume=volume.uuid,
        name=name,
        state=State.CREATING,
        size=volume.size,
        created_at=host.now(),
    )


def _duplicate(what: str, volume: Volume, name: str | None) -> VStorageError:
    return VStorageError(
        Code.DUPLICATE_NAME,
        what,
        f"volume {volume.name!r} already has a snapshot {name!r}",
        "choose another name, or delete that snapshot first",
    )


def _undone(what: str, conflict: Conflict) -> VStorageError:
    return VStorageError(
        Code.BUSY,
        what,
        "this node counted as dead while it was taken, so that another one went on without it "
        f"({conflict})",
        "take it again, on the node that owns the volume now",
    )


def abandon_snapshots(host: Host, volume: Volume) -> None:
    """Take away snapshots of a volume that are of no use; none is being taken under its lock."""

    def decide() -> None:
        for snapshot in host.store.snapshots(volume.uuid):
            if snapshot.state is State.CREATING:
                host.store.commit(put(replace(snapshot, state=State.DELETING)))

    with host.locks.holding(volume.uuid):
        # Another node may have taken the volume over, and decides the same.
        retry(f"undo half-made snapshots of volume {volume.name!r}", decide)
    try:
        purge(host, volume.uuid)
    except VStorageError as failure:
        # The error that the user waits for is the first one; this one shows in `status`.
        host.remember_failure(volume.uuid, failure)


def letting_go(host: Host, snapshot: Snapshot) -> list[Operation]:
    """Operations that delete a snapshot as far as users see: hidden if clones need it."""
    fate = State.HIDDEN if snapshot.clones else State.DELETING
    operations: list[Operation] = [put(replace(snapshot, state=fate, kept=False))]
    if fate is State.HIDDEN:
        operations += host.store.release_name(snapshot)
    return operations
