"""Volumes and snapshots: each driver call is a verb of the Domain's daemons."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cinder import exception
from oslo_log import log as logging

from ovs_cinder import specs
from ovs_cinder.api import DomainApi
from ovs_cinder.failures import reported, translate
from ovs_daemon.errors import Code, VStorageError

LOG = logging.getLogger(__name__)

_GIB = 1 << 30

#: names of snapshots that are kept for incremental backups begin so
BACKUP_PREFIX = "backup-"
#: names of snapshots by which a group is cloned begin so
GROUP_PREFIX = "group-"
#: endings of the names of clones by which a snapshot is attached, and a volume is uploaded
VIEW_SUFFIX, UPLOAD_SUFFIX = ".view", ".upload"

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OWN_SNAPSHOT = re.compile(f"{BACKUP_PREFIX}(restore-)?{_UUID}|{GROUP_PREFIX}[0-9a-f]{{32}}")


def is_own_snapshot(name: str) -> bool:
    """Whether a snapshot was taken by our drivers for themselves, and nobody else knows of it.

    Whole names, not beginnings: people may call theirs `backup-monday`.
    """
    return _OWN_SNAPSHOT.fullmatch(name) is not None


class VolumeVerbs:
    """The part of the driver that the others build on.

    :cvar api: the Domain's daemons
    """

    api: DomainApi
    _domain_name: str

    def create_volume(self, volume: Any) -> None:
        """Create an empty volume."""
        extra_specs = specs.extra_specs_of(volume.volume_type_id)
        limits = specs.limits_of(volume.volume_type_id, volume.size)
        with reported():
            self.api.create_volume(
                volume.name,
                volume.size * _GIB,
                sco_size=specs.sco_size_of(extra_specs),
                limits=limits,
                preset=specs.preset_of(extra_specs),
            )

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> None:
        """Clone a volume; takes no longer for a large one."""
        self._clone(volume, src_vref.name, None)

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> None:
        """Clone a snapshot; takes no longer for a large one."""
        self._clone(volume, snapshot.volume_name, snapshot.name)

    def delete_volume(self, volume: Any) -> None:
        """Delete a volume, and what a killed upload of it left; not there is deleted."""
        try:
            self._delete_own(f"{volume.name}{UPLOAD_SUFFIX}")
            self._when_free(volume, lambda: self._delete_with_own(volume.name))
        except VStorageError as failure:
            if failure.code == Code.IN_USE:
                raise exception.VolumeIsBusy(message=str(failure)) from failure
            raise translate(failure) from failure

    def _delete_with_own(self, name: str) -> None:
        """Delete a volume, and first the snapshots that were taken for the drivers only."""
        try:
            self.api.delete_volume(name)
            return
        except VStorageError as failure:
            if failure.code != Code.IN_USE:
                raise
            taken = [one["name"] for one in self.api.list_snapshots(name)]
            if not taken or not all(is_own_snapshot(one) for one in taken):
                raise
        for one in taken:
            self.api.delete_snapshot(name, one)
        self.api.delete_volume(name)

    def extend_volume(self, volume: Any, new_size: int) -> None:
        """Grow a volume, attached or not; limits per GB grow with it."""
        limits = specs.limits_of(volume.volume_type_id, new_size)
        with reported():
            self.api.resize_volume(volume.name, new_size * _GIB)
            if limits != specs.limits_of(volume.volume_type_id, volume.size):
                self.api.set_limits(volume.name, limits)

    def _clone(self, volume: Any, source: str, snapshot: str | None) -> None:
        limits = specs.limits_of(volume.volume_type_id, volume.size)
        preset = specs.preset_of(specs.extra_specs_of(volume.volume_type_id))
        size = volume.size * _GIB
        with reported():
            self.api.create_volume(
                volume.name, size, source, snapshot, limits=limits, preset=preset
            )

    def _when_free(self, volume: Any, act: Callable[[], object]) -> None:
        """Do what needs a volume that nobody has attached.

        A host that died, or whose plugin was killed at the wrong moment, leaves an attachment of
        which Cinder knows nothing (any more). Cinder is who decides: what it does not know goes.
        """
        try:
            act()
            return
        except VStorageError as failure:
            if failure.code != Code.IN_USE or volume.volume_attachment:
                raise
            LOG.warning("volume %s: ending attachments that Cinder does not know", volume.name)
            self.api.detach_everybody(volume.name)
        act()

    def _delete_own(self, name: str) -> None:
        """Delete a clone that the driver made for itself, and of which nobody else knows."""
        try:
            self.api.delete_volume(name)
        except VStorageError as failure:
            if failure.code != Code.IN_USE:
                raise
            self.api.detach_everybody(name)
            self.api.delete_volume(name)

    # Snapshots

    def create_snapshot(self, snapshot: Any) -> None:
        """Take a snapshot, attached or not."""
        with reported():
            self.api.create_snapshot(snapshot.volume_name, snapshot.name)

    def delete_snapshot(self, snapshot: Any) -> None:
        """Delete a snapshot, and the clone by which a service that was killed had attached it; one
        that is not there is deleted."""
        with reported():
            self._delete_own(f"{snapshot.name}{VIEW_SUFFIX}")
            self.api.delete_snapshot(snapshot.volume_name, snapshot.name)

    def revert_to_snapshot(self, context: Any, volume: Any, snapshot: Any) -> None:
        """Make a volume's content that of a snapshot."""
        with reported():
            self._when_free(volume, lambda: self.api.revert_volume(volume.name, snapshot.name))

    def snapshot_revert_use_temp_snapshot(self) -> bool:
        """A revert is one step: it happens or it does not."""
        return False
