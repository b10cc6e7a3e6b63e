"""Generic volume groups whose snapshots are of one instant.

A group type with ``consistent_group_snapshot_enabled`` comes here; for any other the driver says
that it does nothing, and Cinder's manager does it volume by volume.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from cinder.objects import fields
from cinder.volume import volume_utils
from oslo_log import log as logging

from ovs_cinder.failures import reported
from ovs_cinder.volumes import GROUP_PREFIX, VolumeVerbs
from ovs_daemon.errors import VStorageError

LOG = logging.getLogger(__name__)

_Updates = tuple[dict[str, Any] | None, list[dict[str, Any]] | None]


class GroupVerbs(VolumeVerbs):
    """The part of the driver that is about groups."""

    def create_group(self, context: Any, group: Any) -> dict[str, Any]:
        """A group is a record of Cinder's."""
        _require_consistent(group)
        return {"status": fields.GroupStatus.AVAILABLE}

    def delete_group(self, context: Any, group: Any, volumes: Sequence[Any]) -> _Updates:
        """Delete the group's volumes; each answers for itself."""
        _require_consistent(group)
        deleted = fields.GroupStatus.DELETED
        return _each(volumes, self.delete_volume, deleted, fields.GroupStatus.ERROR_DELETING)

    def update_group(
        self, context: Any, group: Any, add_volumes: Any = None, remove_volumes: Any = None
    ) -> tuple[None, None, None]:
        """Which volumes are in a group is Cinder's to know."""
        _require_consistent(group)
        return None, None, None

    def create_group_from_src(
        self,
        context: Any,
        group: Any,
        volumes: Sequence[Any],
        group_snapshot: Any = None,
        snapshots: Sequence[Any] | None = None,
        source_group: Any = None,
        source_vols: Sequence[Any] | None = None,
    ) -> _Updates:
        """Clone the volumes of a group as they are at one instant, or were in a snapshot."""
        _require_consistent(group)
        if group_snapshot is not None:
            by_id = {snapshot.id: snapshot for snapshot in snapshots or ()}
            for volume in volumes:
                self.create_volume_from_snapshot(volume, by_id[volume.snapshot_id])
            return None, None
        sources = {volume.id: volume.name for volume in source_vols or ()}
        instant = f"{GROUP_PREFIX}{uuid.uuid4().hex}"
        with reported():
            try:
                self.api.create_snapshots([(name, instant) for name in sources.values()])
                for volume in volumes:
                    self._clone(volume, sources[volume.source_volid], instant)
            finally:
                # Also when nobody answered: they may have been taken all the same.
                for name in sources.values():
                    self._delete_instant(name, instant)
        return None, None

    def _delete_instant(self, name: str, instant: str) -> None:
        """What clones need of it stays, hidden, for as long as they do. What cannot be deleted
        now goes with its volume, and is no reason to give up the clones."""
        try:
            self.api.delete_snapshot(name, instant)
        except VStorageError as failure:
            LOG.warning("snapshot %s of volume %s is left behind: %s", instant, name, failure)

    def create_group_snapshot(
        self, context: Any, group_snapshot: Any, snapshots: Sequence[Any]
    ) -> _Updates:
        """Snapshots of all the group's volumes at one instant."""
        _require_consistent(group_snapshot)
        with reported():
            self.api.create_snapshots([(one.volume_name, one.name) for one in snapshots])
        return None, None

    def delete_group_snapshot(
        self, context: Any, group_snapshot: Any, snapshots: Sequence[Any]
    ) -> _Updates:
        """Delete the snapshots; each answers for itself."""
        _require_consistent(group_snapshot)
        status = fields.GroupSnapshotStatus
        return _each(snapshots, self.delete_snapshot, status.DELETED, status.ERROR_DELETING)


def _require_consistent(group: Any) -> None:
    """Leave groups of other kinds to Cinder, which takes this for its cue to act by itself."""
    if not volume_utils.is_group_a_cg_snapshot_type(group):
        raise NotImplementedError


def _each(things: Sequence[Any], act: Callable[[Any], None], done: str, failed: str) -> _Updates:
    """Do it to each, and say which went wrong: the manager tells the user."""
    updates: list[dict[str, Any]] = []
    status = done
    for thing in things:
        try:
            act(thing)
            updates.append({"id": thing.id, "status": done})
        except Exception:
            LOG.exception("%s could not be deleted with its group", thing.name)
            updates.append({"id": thing.id, "status": failed})
            status = failed
    return {"status": status}, updates
