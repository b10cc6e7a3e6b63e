"""What is to go, goes: the one place that makes things disappear.

`purge` looks at the registry and finishes every deletion it finds in a volume, then in the
volume's parent when the deletion freed something there, and so on up. It may be killed anywhere
and run again: the registry records the decision before the engine acts and drops the record only
after. Deleting verbs decide and call it; a daemon calls it for every volume when it starts, and
again, after a pause, where it failed (`steward.py`).
"""

from __future__ import annotations

from dataclasses import replace

from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Snapshot, State, Volume
from ovs_daemon.control.store import drop, put
from ovs_daemon.errors import VStorageError
from ovs_daemon.registry import Operation, retry


def purge(host: Host, uuid: str) -> None:
    """Finish all deletions in a volume and in those that were waiting for them.

    :raises VStorageError: the engine could not; the deletion stays decided and can be repeated
    """
    following: str | None = uuid
    while following is not None:
        current = following
        try:
            with host.locks.holding(current):
                following = _purge_one(host, current)
        except VStorageError:
            host.set_unpurged(current, True)
            raise
        host.set_unpurged(current, False)


def without_clone(snapshot: Snapshot) -> Snapshot:
    """The snapshot with one clone fewer; what was hidden for the last clone is to go."""
    fewer = replace(snapshot, clones=snapshot.clones - 1)
    needed = fewer.clones > 0 or fewer.kept or fewer.state is not State.HIDDEN
    return fewer if needed else replace(fewer, state=State.DELETING)


def _purge_one(host: Host, uuid: str) -> str | None:
    """Purge one volume; returns the parent in which this may have freed something."""
    volume = host.store.volume(uuid)
    if volume is None or volume.node != host.settings.node:
        # Gone, or another node's to finish.
        return None
    if volume.state is not State.DELETING:
        _drop_snapshots(host, volume)
        if host.is_open(uuid):
            host.forget_failure(uuid)
        if volume.state is not State.HIDDEN or host.store.snapshots(uuid):
            return None
        volume = _decide_hidden(host, uuid)
    host.delete(uuid)
    retry(f"delete volume {volume.name!r}", lambda: _drop_volume(host, uuid))
    host.forget_failure(uuid)
    return None if volume.parent is None else volume.parent.volume


def _drop_snapshots(host: Host, volume: Volume) -> None:
    for snapshot in host.store.snapshots(volume.uuid):
        if snapshot.state is State.DELETING:
            host.engine.delete_snapshot(volume.uuid, snapshot.uuid)
            host.store.commit(*_dropping(host, snapshot))


def _decide_hidden(host: Host, uuid: str) -> Volume:
    """A hidden volume whose last snapshot went is not needed by anybody."""

    def attempt() -> Volume:
        volume = host.store.volume(uuid)
        assert volume is not None, "its lock is held, and only purge removes volumes"
        doomed = replace(volume, state=State.DELETING)
        return replace(doomed, version=host.store.commit(put(doomed)))

    return retry(f"delete hidden volume {uuid}", attempt)


def _drop_volume(host: Host, uuid: str) -> None:
    volume = host.store.volume(uuid)
    if volume is None or volume.node != host.settings.node:
        # This node counted as dead meanwhile, and another one has finished it.
        return
    operations: list[Operation] = [drop(volume), *host.store.release_name(volume)]
    for snapshot in host.store.snapshots(uuid):
        operations += _dropping(host, snapshot)
    if volume.parent is not None:
        parent = host.store.snapshot(volume.parent.snapshot)
        assert parent is not None, "a snapshot outlives its clones"
        operations.append(put(without_clone(parent)))
    host.store.commit(*operations)


def _dropping(host: Host, snapshot: Snapshot) -> list[Operation]:
    return [drop(snapshot), *host.store.release_name(snapshot)]
