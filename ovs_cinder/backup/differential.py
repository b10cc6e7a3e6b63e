"""Backups that read what was written, and incremental ones that read what was changed.

Cinder's chunked drivers read a whole volume and compare hashes. Here the daemon says which extents
to read: for a full backup those that were ever written, for an incremental one those that differ
between the snapshots of which the two backups are.

A backup remembers, in its metadata, the snapshot that has its content (its *anchor*):

* of a snapshot, or of a volume in use by way of a temporary snapshot: that one. The temporary one
  is renamed, so that it stays when Cinder deletes it;
* of a volume that nobody uses: one that is taken for the backup.

Anchors taken for backups are named after them; the newest stays. When the parent's is gone (it was
a snapshot that was deleted, a later backup was deleted, the volume was migrated), an incremental
backup reads all that was ever written together with all that the chain of parents stored: more
than needed, never less.

The stored form is that of Cinder's chunked drivers, so that they can restore it to a new volume;
its list of hashes is empty. What a full backup leaves out reads as zeroes: restoring over an
existing volume clears that first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cinder import exception, objects
from cinder.backup import chunkeddriver
from cinder.objects import fields
from cinder.volume import volume_utils
from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import units

from ovs_cinder.api import DomainApi
from ovs_cinder.backup.extents import Extent, common, gaps, merge, pieces
from ovs_cinder.backup.locate import api_of
from ovs_cinder.failures import reported
from ovs_cinder.volumes import BACKUP_PREFIX, is_own_snapshot
from ovs_daemon.errors import VStorageError

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

_MARK = "ovs"
_CLEAR_BYTES = 4 * units.Mi
_UNIT_BYTES = 4 * units.Ki


@dataclass(frozen=True)
class Anchor:
    """The snapshot that has a backup's content.

    :param volume: the daemon's name of its volume
    :param snapshot: the daemon's name of it
    :param volume_uuid: the daemon's
    :param snapshot_uuid: the daemon's
    :param size: bytes
    :param own: it is kept for backups only
    """

    volume: str
    snapshot: str
    volume_uuid: str
    snapshot_uuid: str
    size: int
    own: bool


class DifferentialBackup(chunkeddriver.ChunkedBackupDriver):
    """For a chunked backup driver to inherit from, before its own class."""

    def backup(self, backup: Any, volume_file: Any, backup_metadata: bool = True) -> Any:
        """Back up a volume; with ``parent_id``, what has changed since that backup."""
        volume = objects.Volume.get_by_id(self.context, backup.volume_id)
        with reported():
            api = api_of(volume)
        if api is None:
            self._refuse_foreign_parent(backup)
            return super().backup(backup, volume_file, backup_metadata)
        with reported(), _anchor(api, backup, volume) as anchor:
            extents = self._extents(api, backup, anchor)
            if self._store(backup, volume_file, extents, anchor, backup_metadata) and anchor.own:
                _forget_others(api, anchor)
        return None

    def restore(self, backup: Any, volume_id: str, volume_file: Any, volume_is_new: bool) -> None:
        """Restore a backup, over an existing volume also where it reads as zeroes."""
        root = self._chain(backup)[-1]
        metadata = self._read_metadata(root)
        if not volume_is_new and _mark(metadata):
            end = backup.size * units.Gi
            empty = gaps(merge(_stored(metadata), 1, end), end)
            with reported():
                written = self._written(backup, volume_id, end)
            self._clear(backup, volume_id, volume_file, common(empty, written))
        super().restore(backup, volume_id, volume_file, volume_is_new)

    def delete_backup(self, backup: Any) -> None:
        """Delete a backup, and the snapshot that was kept for it."""
        super().delete_backup(backup)
        try:
            volume = objects.Volume.get_by_id(self.context, backup.volume_id)
        except exception.VolumeNotFound:
            return
        with reported():
            if (api := api_of(volume)) is not None:
                api.delete_snapshot(volume.name, _own_name(backup))

    def _extents(self, api: DomainApi, backup: Any, anchor: Anchor) -> list[Extent]:
        """What is to be read."""
        unit, end = self.sha_block_size_bytes, anchor.size
        if not backup.parent_id:
            return merge(api.diff_snapshots(anchor.volume, None, anchor.snapshot), unit, end)
        parent = objects.Backup.get_by_id(self.context, backup.parent_id)
        known = _mark(self._read_metadata(parent))
        if known and known["volume_uuid"] == anchor.volume_uuid:
            taken = {one["uuid"] for one in api.list_snapshots(anchor.volume)}
            if known["snapshot_uuid"] in taken:
                since = known["snapshot_uuid"]
                return merge(api.diff_snapshots(anchor.volume, since, anchor.snapshot), unit, end)
        LOG.warning(
            "backup %s: the snapshot of its parent %s is gone: reading all that was written",
            backup.id,
            parent.id,
        )
        extents: list[Sequence[int]] = [*api.diff_snapshots(anchor.volume, None, anchor.snapshot)]
        for older in self._chain(parent):
            extents += _stored(self._read_metadata(older))
        return merge(extents, unit, end)

    def _store(
        self,
        backup: Any,
        volume_file: Any,
        extents: list[Extent],
        anchor: Anchor,
        backup_metadata: bool,
    ) -> bool:
        """Read and store the extents; False when somebody deleted the backup meanwhile."""
        object_meta, object_sha256, extra_metadata, container, _ = self._prepare_backup(backup)
        total = sum(length for _, length in extents) or 1
        done = 0
        for number, (offset, length) in enumerate(pieces(extents, self.chunk_size_bytes), 1):
            with backup.as_read_deleted():
                backup.refresh()
            if backup.status in (fields.BackupStatus.DELETING, fields.BackupStatus.DELETED):
                self.delete_backup(backup)
                return False
            data = _read(volume_file, offset, length)
            self._backup_chunk(backup, container, data, offset, object_meta, extra_metadata)
            done += length
            if number % self.data_block_num == 0:
                self._send_progress_notification(self.context, backup, object_meta, done, total)
        self._send_progress_end(self.context, backup, object_meta)
        object_meta["extra_metadata"] = {
            **(extra_metadata or {}),
            _MARK: {"volume_uuid": anchor.volume_uuid, "snapshot_uuid": anchor.snapshot_uuid},
        }
        try:
            if backup_metadata:
                self._backup_metadata(backup, object_meta)
            self._finalize_backup(backup, container, object_meta, object_sha256)
        except Exception:
            LOG.exception("backup %s: its metadata could not be stored", backup.id)
            self.delete_backup(backup)
            raise
        return True

    def _clear(self, backup: Any, volume_id: str, volume_file: Any, extents: list[Extent]) -> None:
        """Make extents of a volume read as zeroes; what does already is not written."""
        for offset, length in pieces(extents, _CLEAR_BYTES):
            with backup.as_read_deleted():
                backup.refresh()
            if backup.status != fields.BackupStatus.RESTORING:
                raise exception.BackupRestoreCancel(back_id=backup.id, vol_id=volume_id)
            if not volume_utils.is_all_zero(_read(volume_file, offset, length)):
                volume_file.seek(offset)
                volume_file.write(bytes(length))
        volume_file.flush()

    def _written(self, backup: Any, volume_id: str, end: int) -> list[Extent]:
        """Where a volume may hold anything but zeroes: its daemon knows; else, everywhere."""
        volume = objects.Volume.get_by_id(self.context, volume_id)
        api = api_of(volume)
        if api is None:
            return [(0, end)]
        name = f"{BACKUP_PREFIX}restore-{backup.id}"
        api.delete_snapshot(volume.name, name)
        api.create_snapshot(volume.name, name)
        try:
            return merge(api.diff_snapshots(volume.name, None, name), _UNIT_BYTES, end)
        finally:
            api.delete_snapshot(volume.name, name)

    def _chain(self, backup: Any) -> list[Any]:
        """The backup, its parent, and so on to the full one."""
        chain = [backup]
        while chain[-1].parent_id:
            chain.append(objects.Backup.get_by_id(self.context, chain[-1].parent_id))
        return chain

    def _refuse_foreign_parent(self, backup: Any) -> None:
        """Comparing hashes needs a parent that has some."""
        if not backup.parent_id:
            return
        parent = objects.Backup.get_by_id(self.context, backup.parent_id)
        if _mark(self._read_metadata(parent)):
            raise exception.InvalidBackup(
                reason=f"backup {parent.id} was made when the volume was on Open vStorage: its "
                "successor has nothing to compare with. Do a full backup"
            )


@contextlib.contextmanager
def _anchor(api: DomainApi, backup: Any, volume: Any) -> Iterator[Anchor]:
    """The snapshot with the content of the device that Cinder gives us.

    One that was made for this backup goes again when the backup fails.
    """
    own = _own_name(backup)
    if backup.snapshot_id:
        name = CONF.snapshot_name_template % backup.snapshot_id
    else:
        name = own
        # What an interrupted attempt left has another content.
        api.delete_snapshot(volume.name, own)
        if backup.temp_snapshot_id:
            temporary = CONF.snapshot_name_template % backup.temp_snapshot_id
            api.rename_snapshot(volume.name, temporary, own)
        else:
            api.create_snapshot(volume.name, own)
    found = [one for one in api.list_snapshots(volume.name) if one["name"] == name]
    if not found:
        raise exception.SnapshotNotFound(snapshot_id=backup.snapshot_id)
    told = found[0]["volume_uuid"], found[0]["uuid"], found[0]["size"]
    try:
        yield Anchor(volume.name, name, *told, own=name == own)
    except BaseException:
        if name == own:
            with contextlib.suppress(VStorageError):
                api.delete_snapshot(volume.name, own)
        raise


def _forget_others(api: DomainApi, anchor: Anchor) -> None:
    """Of the snapshots that are kept for backups, only the newest is of use."""
    for one in api.list_snapshots(anchor.volume):
        name = one["name"]
        kept = name.startswith(BACKUP_PREFIX) and is_own_snapshot(name)
        if kept and name != anchor.snapshot:
            api.delete_snapshot(anchor.volume, name)


def _own_name(backup: Any) -> str:
    return f"{BACKUP_PREFIX}{backup.id}"


def _mark(metadata: dict[str, Any]) -> dict[str, Any] | None:
    mark: dict[str, Any] | None = (metadata.get("extra_metadata") or {}).get(_MARK)
    return mark


def _stored(metadata: dict[str, Any]) -> list[Extent]:
    """The extents that one backup's objects hold."""
    return [
        (one["offset"], one["length"]) for named in metadata["objects"] for one in named.values()
    ]


def _read(volume_file: Any, offset: int, length: int) -> bytes:
    """Exactly these bytes.

    :raises InvalidBackup: the device ends before
    """
    volume_file.seek(offset)
    parts = []
    while length > 0:
        part = volume_file.read(length)
        if not part:
            raise exception.InvalidBackup(
                reason=f"the volume's device ends {length} bytes before it should"
            )
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
