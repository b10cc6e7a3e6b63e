"""Attaching volumes, and snapshots by way of clones, to hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oslo_log import log as logging

from ovs_cinder import connections
from ovs_cinder.failures import reported, translate
from ovs_cinder.volumes import VIEW_SUFFIX, VolumeVerbs
from ovs_daemon.errors import Code, VStorageError

LOG = logging.getLogger(__name__)


class AttachVerbs(VolumeVerbs):
    """The part of the driver that is about who uses a volume."""

    def validate_connector(self, connector: Mapping[str, Any]) -> None:
        """Refuse a host that cannot attach our volumes."""
        connections.check_connector(connector)

    def initialize_connection(
        self, volume: Any, connector: Mapping[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        """What the host needs to attach a volume."""
        return self._connection(volume.name, connector, False, bool(volume.multiattach))

    def _connection(
        self, name: str, connector: Mapping[str, Any], read_only: bool, multi_attach: bool
    ) -> dict[str, Any]:
        nodes = connections.nodes_of(connector)
        with reported():
            found = self.api.show_volume(name)
            try:
                node = self.api.choose_attaching_node(name, nodes)
            except VStorageError as failure:
                if failure.code != Code.NOT_HERE:
                    raise
                raise connections.refusal(connector, failure) from failure
        return connections.connection(found, node, self._domain_name, read_only, multi_attach)

    def terminate_connection(
        self, volume: Any, connector: Mapping[str, Any] | None, **kwargs: Any
    ) -> None:
        """End what the host's plugin has not ended; without a host, all attachments."""
        if connector is None:
            self._detach_everybody(volume.name)
            return
        holder = connections.holder_of(connector)
        if holder is not None and not _is_shared(volume, holder):
            self._end(volume.name, holder)

    def _end(self, name: str, holder: str) -> None:
        """End the attachment of a host that was killed before it could, or knows no more of it.

        Best effort: that the node is down must not keep Cinder from giving up a host which may be
        down with it. What remains is ended at the latest when the volume is deleted.
        """
        try:
            self.api.detach(name, holder)
        except VStorageError as failure:
            if failure.code != Code.UNKNOWN_VOLUME:
                LOG.warning("volume %s: %s may hold it still: %s", name, holder, failure)

    def _detach_everybody(self, name: str) -> None:
        try:
            self.api.detach_everybody(name)
        except VStorageError as failure:
            if failure.code != Code.UNKNOWN_VOLUME:
                raise translate(failure) from failure

    def ensure_export(self, context: Any, volume: Any) -> None:
        """The daemons serve what is attached without being told again."""

    def create_export(self, context: Any, volume: Any, connector: Any) -> None:
        """The host's plugin has it served."""

    def remove_export(self, context: Any, volume: Any) -> None:
        """The host's plugin has ended it."""

    # A snapshot is attached as a clone of it, which costs nothing to make.

    def backup_use_temp_snapshot(self) -> bool:
        """A volume in use is backed up from a snapshot, whatever the configuration says.

        `ovs_cinder.backup` keeps that snapshot for the next incremental backup.
        """
        return True

    def create_export_snapshot(self, context: Any, snapshot: Any, connector: Any) -> None:
        """Make the clone by which a snapshot is attached."""
        view = _view(snapshot.name)
        with reported():
            if self.api.find_volume(view) is None:
                self.api.create_volume(view, None, snapshot.volume_name, snapshot.name)

    def initialize_connection_snapshot(
        self, snapshot: Any, connector: Mapping[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        """What the host needs to attach a snapshot, read-only."""
        return self._connection(_view(snapshot.name), connector, True, False)

    def terminate_connection_snapshot(
        self, snapshot: Any, connector: Mapping[str, Any] | None, **kwargs: Any
    ) -> None:
        """The host's plugin has detached; without a host, all attachments end."""
        if connector is None:
            self._detach_everybody(_view(snapshot.name))

    def remove_export_snapshot(self, context: Any, snapshot: Any) -> None:
        """Delete the clone by which a snapshot was attached."""
        with reported():
            self._delete_own(_view(snapshot.name))


def _is_shared(volume: Any, holder: str) -> bool:
    """Whether another attachment than the one that ends is of the same holder.

    Several servers of a host are one holder. Cinder does not say which attachment ends, and removes
    its record afterwards: so there are two if another one remains.
    """
    if not volume.multiattach:
        return False
    attachments = [one for one in volume.volume_attachment if one.connector]
    return sum(connections.holder_of(one.connector) == holder for one in attachments) > 1


def _view(snapshot_name: str) -> str:
    return f"{snapshot_name}{VIEW_SUFFIX}"
