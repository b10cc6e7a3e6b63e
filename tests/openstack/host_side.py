"""Volumes attached to this host, as Cinder's own services do it: os-brick and our connector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from os_brick.initiator import connector as brick
from oslo_concurrency import lockutils

from ovs_nova import registration
from tests.openstack.lab.cloud import Cloud
from tests.openstack.user import User


class HostSide:
    """Attaches volumes to this host as files; any thread may."""

    def __init__(self, cloud: Cloud, user: User) -> None:
        lockutils.set_defaults(str(cloud.lab.state / "locks"))
        registration.register_connector()
        self._user = user
        self._properties: dict[str, Any] = brick.get_connector_properties(
            "sudo", "127.0.0.1", multipath=False, enforce_multipath=False, host="e2e-host"
        )

    @contextmanager
    def attached(self, volume: str) -> Iterator[Path]:
        """The path of a volume while it is attached; of an encrypted one as it is stored."""
        storage = self._user.cloud.block_storage
        attachment = storage.create_attachment(volume, connector=self._properties)
        try:
            data = dict(attachment.connection_info) | {"encrypted": False}
            connector = brick.InitiatorConnector.factory(data["driver_volume_type"], "sudo")
            device = connector.connect_volume(data)
            try:
                yield Path(device["path"])
            finally:
                connector.disconnect_volume(data, device)
        finally:
            storage.delete_attachment(attachment.id)
            self._user.wait_volume(volume, "available")
