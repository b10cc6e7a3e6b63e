"""Cinder's own objects, as its manager would hand them to a driver."""

from __future__ import annotations

import uuid
from typing import Any

from cinder import objects
from cinder.objects import fields


class Makers:
    """Makes objects of one backend that are in no database."""

    def __init__(self, context: Any, domain: str) -> None:
        self._context = context
        self._host = f"host@ovs-{domain}#{domain}"

    def volume(self, size: int = 1, **more: Any) -> Any:
        """A volume of ``size`` GiB with no type and no attachments."""
        values: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "_name_id": None,
            "size": size,
            "host": self._host,
            "status": "creating",
            "volume_type_id": None,
            "multiattach": False,
            "volume_attachment": objects.VolumeAttachmentList(objects=[]),
            "glance_metadata": {},
            "volume_type": None,
            "encryption_key_id": None,
        }
        return objects.Volume(self._context, **(values | more))

    def snapshot(self, volume: Any, **more: Any) -> Any:
        """A snapshot of a volume."""
        values: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "volume": volume,
            "volume_id": volume.id,
            "volume_size": volume.size,
            "status": fields.SnapshotStatus.CREATING,
        }
        return objects.Snapshot(self._context, **(values | more))

    def attachment(
        self, volume: Any, host: str = "compute1", connector: dict[str, Any] | None = None
    ) -> Any:
        """What Cinder knows of a volume that a server of a host uses."""
        values = {
            "id": str(uuid.uuid4()),
            "volume_id": volume.id,
            "attached_host": host,
            "attach_status": fields.VolumeAttachStatus.ATTACHED,
            "connector": connector,
        }
        return objects.VolumeAttachment(self._context, **values)

    def connector(self, *nodes: str, program: str = "nova-compute") -> dict[str, Any]:
        """The connector of a program on a host that has loaded the plugin."""
        ours = {"nodes": list(nodes), "holder": f"{program}@compute1"}
        return {"host": "compute1", "ip": "192.0.2.1", "ovs": ours}
