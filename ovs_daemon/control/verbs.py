"""What this node can be asked to do: one method per verb, plain values in, plain values out.

The control API (HTTP) and the RPC server are two doors to these methods and add nothing to them
but the carrying. Answers are what JSON can carry, in the shapes that `status.py` describes; sizes
are bytes; a volume or snapshot is named by its name or UUID. Every verb raises
:class:`VStorageError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ovs_daemon.control import attachments, capacity, qos, remote, snapshots, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.cluster import ClusterVerbs
from ovs_daemon.control.host import Host
from ovs_daemon.control.osds import OsdVerbs
from ovs_daemon.control.presets import PresetVerbs
from ovs_daemon.control.records import LOCAL, Mode, Volume
from ovs_daemon.control.status import describe_snapshot, describe_volume, status
from ovs_daemon.control.upkeep import UpkeepVerbs
from ovs_daemon.control.volumes import Source


class Verbs:
    """The verbs of one host.

    :param edge_connected: whether the Edge process answers at this moment
    """

    def __init__(self, host: Host, edge_connected: Callable[[], bool]) -> None:
        self._host = host
        self._edge_connected = edge_connected
        self._cluster_uuid: str | None = None
        #: verbs on Domains and nodes
        self.cluster = ClusterVerbs(host)
        #: verbs on presets
        self.presets = PresetVerbs(host)
        #: verbs on OSDs
        self.osds = OsdVerbs(host)
        #: verbs on the backend's upkeep
        self.upkeep = UpkeepVerbs(host)

    @property
    def cluster_uuid(self) -> str:
        """Which cluster this node is of; asked for once, since it is for life."""
        if self._cluster_uuid is None:
            self._cluster_uuid = self._host.store.cluster_id()
        return self._cluster_uuid

    def status(self) -> dict[str, Any]:
        """The whole picture of this host."""
        return status(self._host, self._edge_connected())

    def get_domain(self) -> dict[str, Any]:
        """What this node knows of its Domain, its capacity and its versions; ``cluster`` is the
        UUID of the cluster."""
        return {"cluster": self.cluster_uuid, **capacity.describe_domain(self._host)}

    def list_volumes(self, everything: bool = False) -> dict[str, Any]:
        """All volumes; ``everything`` includes hidden ones."""
        chosen = [one for one in self._host.store.volumes() if everything or one.listed]
        nodes = {node.name: node for node in self._host.store.nodes()}
        return {
            "volumes": [
                describe_volume(self._host, volume, owner=nodes.get(volume.node))
                for volume in chosen
            ]
        }

    def show_volume(self, volume: str) -> dict[str, Any]:
        """One volume with its counters, which its owner has."""
        found = self._host.require(f"show volume {volume!r}", volume)
        counters = self._host.engine.status().get("volumes", [])
        mine = [one for one in counters if one["uuid"] == found.uuid]
        return {**self._describe(found), "counters": mine[0] if mine else None}

    def create_volume(
        self,
        name: str,
        size: int | None = None,
        source: dict[str, Any] | None = None,
        sco_size: int | None = None,
        limits: dict[str, Any] | None = None,
        preset: str | None = None,
    ) -> dict[str, Any]:
        """A new empty volume, or a clone.

        :param source: ``{"volume", "snapshot"?}``
        :param sco_size: of an empty volume; a clone has its parent's
        :param limits: as `qos.py` describes them
        :param preset: by which its objects are kept; a clone has its parent's unless given
        """
        origin = None if source is None else Source(source["volume"], source.get("snapshot"))
        wanted = qos.check_limits(f"create volume {name!r}", limits)
        made = volumes.create_volume(self._host, name, size, origin, sco_size, wanted, preset)
        return self._describe(made)

    def delete_volume(self, volume: str, cascade: bool = False) -> dict[str, Any]:
        """``deleted``: whether there was something to delete."""
        return {"deleted": volumes.delete_volume(self._host, volume, cascade)}

    def resize_volume(self, volume: str, size: int) -> dict[str, Any]:
        """Grow a volume."""
        return self._describe(volumes.resize_volume(self._host, volume, size))

    def rename_volume(self, volume: str, name: str) -> dict[str, Any]:
        """Give a volume that is not attached another name."""
        return self._describe(volumes.rename_volume(self._host, volume, name))

    def revert_volume(self, volume: str, snapshot: str) -> dict[str, Any]:
        """Make a volume's content that of its snapshot."""
        return self._describe(volumes.revert_volume(self._host, volume, snapshot))

    def set_template(self, volume: str, template: bool) -> dict[str, Any]:
        """Make a volume a template, or an ordinary one again."""
        return self._describe(volumes.set_template(self._host, volume, template))

    def set_limits(self, volume: str, limits: dict[str, Any] | None) -> dict[str, Any]:
        """Limit what a volume's users may ask of it; None takes all limits away."""
        wanted = qos.check_limits(f"limit volume {volume!r}", limits)
        return self._describe(qos.set_limits(self._host, volume, wanted))

    def set_multi_attach(self, volume: str, multi_attach: bool) -> dict[str, Any]:
        """Let several holders attach a volume, or one at a time again."""
        return self._describe(attachments.set_multi_attach(self._host, volume, multi_attach))

    def attach_volume(
        self,
        volume: str,
        mode: str,
        holder: str | None = None,
        read_only: bool = False,
        shared: bool = False,
        preempt: bool = False,
        reconnects: bool = False,
    ) -> dict[str, Any]:
        """Serve a volume on this node; see `attachments.py`."""
        wish = Wish(Mode(mode), read_only, holder or LOCAL, shared, preempt, reconnects)
        attached = attachments.attach(self._host, volume, wish)
        return describe_volume(self._host, attached, wish.holder)

    def choose_attaching_node(self, volume: str, nodes: Sequence[str]) -> dict[str, Any]:
        """``node``: through which of a host's nodes a volume is to be attached there; refused with
        what is missing when it cannot be."""
        return {"node": remote.attaching_node(self._host, volume, nodes)}

    def detach_volume(
        self, volume: str, holder: str | None = None, everybody: bool = False
    ) -> dict[str, Any]:
        """Stop serving a volume to a holder, or to everybody."""
        return self._describe(attachments.detach(self._host, volume, holder, everybody))

    def reconnect_volume(self, volume: str) -> dict[str, Any]:
        """Close the connections of a volume's guests, which then see its new size."""
        return self._describe(attachments.reconnect(self._host, volume))

    def list_snapshots(self, volume: str | None = None) -> dict[str, Any]:
        """The snapshots of one volume, or of all."""
        if volume is not None:
            owner = self._host.require(f"list the snapshots of volume {volume!r}", volume)
            found = self._host.store.snapshots(owner.uuid)
            return {"snapshots": [describe_snapshot(owner, one) for one in found if one.listed]}
        owners = {owner.uuid: owner for owner in self._host.store.volumes()}
        found = [one for one in self._host.store.snapshots() if one.listed and one.volume in owners]
        return {"snapshots": [describe_snapshot(owners[one.volume], one) for one in found]}

    def create_snapshot(self, volume: str, name: str) -> dict[str, Any]:
        """Take a snapshot."""
        snapshot = snapshots.create_snapshot(self._host, volume, name)
        return describe_snapshot(self._host.require(f"show volume {volume!r}", volume), snapshot)

    def create_snapshots(self, members: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Snapshots of several volumes at one instant; ``members`` are [volume, name]."""
        pairs = [(volume, name) for volume, name in members]
        taken = snapshots.create_snapshots(self._host, pairs)
        return {"snapshots": [describe_snapshot(volume, one) for volume, one in taken]}

    def delete_snapshot(self, volume: str, snapshot: str) -> dict[str, Any]:
        """``deleted``: whether there was something to delete."""
        return {"deleted": snapshots.delete_snapshot(self._host, volume, snapshot)}

    def rename_snapshot(self, volume: str, snapshot: str, name: str) -> dict[str, Any]:
        """Give a snapshot another name."""
        renamed = snapshots.rename_snapshot(self._host, volume, snapshot, name)
        return describe_snapshot(self._host.require(f"show volume {volume!r}", volume), renamed)

    def diff_snapshots(
        self, volume: str, from_snapshot: str | None, to_snapshot: str
    ) -> dict[str, Any]:
        """``extents`` ([offset, length] in bytes) in which two snapshots may differ.

        :param from_snapshot: None for all that was ever written up to ``to_snapshot``
        """
        extents = snapshots.diff_snapshots(self._host, volume, from_snapshot, to_snapshot)
        return {"extents": extents}

    def _describe(self, volume: Volume) -> dict[str, Any]:
        return describe_volume(self._host, volume)
