"""Nova's libvirt volume driver for ``driver_volume_type`` "ovs"."""

from __future__ import annotations

import json
from typing import Any

import nova.conf
from nova import context, exception, objects, utils
from nova.compute import power_state
from nova.virt.libvirt.volume import volume as libvirt_volume
from os_brick.initiator import connector as brick_connector
from oslo_log import log as logging

from ovs_nova import connector, options
from ovs_nova.grow import CannotGrow, Qemu, grow

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

_PROGRAM = "nova-compute"


class LibvirtOvsVolumeDriver(libvirt_volume.LibvirtBaseVolumeDriver):
    """Attaches volumes to servers over NBD on a unix socket, or as files."""

    def __init__(self, host: Any) -> None:
        super().__init__(host, is_block_dev=False)
        options.register(CONF)
        self.connector = brick_connector.InitiatorConnector.factory(
            connector.PROTOCOL,
            utils.get_root_helper(),
            # Two hosts of Nova on one machine share a daemon; each has its own attachment.
            holder=connector.holder(_PROGRAM, CONF.host),
            attach_as=CONF.ovs.attach_as,
        )

    def connect_volume(self, connection_info: dict[str, Any], instance: Any) -> None:
        """Attach it here; where it is, goes into the connection info, also for a source host that
        migrates to this one."""
        data = connection_info["data"]
        _write_down(connection_info, instance)
        device = self.connector.connect_volume(data)
        LOG.debug("volume %s is on %s", data["volume_uuid"], device["path"], instance=instance)
        if device["type"] == connector.SOCKET:
            data["socket"] = device["path"]
            # Nova would look for a disk by it.
            data.pop("device_path", None)
        else:
            data.pop("socket", None)
            data["device_path"] = device["path"]

    def disconnect_volume(
        self, connection_info: dict[str, Any], instance: Any, force: bool = False
    ) -> None:
        """Detach it from this host."""
        self.connector.disconnect_volume(connection_info["data"], None, force=force)
        LOG.debug(
            "volume %s is detached", connection_info["data"]["volume_uuid"], instance=instance
        )

    def get_config(self, connection_info: dict[str, Any], disk_info: dict[str, Any]) -> Any:
        """The disk as libvirt shall have it."""
        conf = super().get_config(connection_info, disk_info)
        data = connection_info["data"]
        if "socket" in data:
            conf.source_type = "network"
            conf.source_protocol = "nbd"
            conf.source_socket = data["socket"]
            conf.reconnect_delay = CONF.ovs.reconnect_delay or None
        else:
            conf.source_type = "file"
            conf.source_path = data["device_path"]
        return conf

    def extend_volume(
        self, connection_info: dict[str, Any], instance: Any, requested_size: int
    ) -> int:
        """Have a running server take the new size; Nova's own resize follows, and agrees.

        :returns: the size of the server's disk, bytes
        :raises VolumeExtendFailed: QEMU keeps the old size
        """
        data = connection_info["data"]
        size = int(self.connector.extend_volume(data))
        if "socket" not in data:
            return size
        guest = self.host.get_guest(instance)
        if guest.get_power_state(self.host) not in (power_state.RUNNING, power_state.PAUSED):
            return size
        waits = any(
            disk.source_socket == data["socket"] and disk.reconnect_delay
            for disk in guest.get_all_disks()
        )
        try:
            disk_size = grow(
                _qemu(guest),
                data["socket"],
                size,
                waits,
                lambda: self.connector.reconnect_volume(data),
            )
        except CannotGrow as failure:
            raise exception.VolumeExtendFailed(
                volume_id=data["volume_uuid"], reason=str(failure)
            ) from failure
        # Nova would read the header of an encrypted volume, which it can only from a path, and
        # subtract it once more. This is its copy for this one call, which nobody stores.
        data["encrypted"] = False
        return disk_size


def _write_down(connection_info: dict[str, Any], instance: Any) -> None:
    """Have Nova know what is to be detached before anything is attached.

    Nova itself does so when a server has its disk. Killed before that, its record of the volume
    has no connection information, which its own detach and every start of the server need: none of
    them works any more, with any driver.
    """
    try:
        record = objects.BlockDeviceMapping.get_by_volume_and_instance(
            context.get_admin_context(), connection_info["serial"], instance.uuid
        )
    except exception.VolumeBDMNotFound:
        # Another volume will take the place of the one that the record is about.
        return
    if not record.connection_info:
        record.connection_info = json.dumps(connection_info)
        record.save()


def _qemu(guest: Any) -> Qemu:
    # libvirt's Python modules are on hypervisors only.
    import libvirt
    import libvirt_qemu

    domain = guest._domain

    def command(name: str, arguments: dict[str, Any]) -> Any:
        line = json.dumps({"execute": name, "arguments": arguments})
        try:
            answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, line, 0))
        except libvirt.libvirtError as failure:
            raise CannotGrow(f"{name}: {failure}") from failure
        if "error" in answer:
            raise CannotGrow(f"{name}: {answer['error'].get('desc')}")
        return answer["return"]

    return Qemu(command, domain.suspend, domain.resume)
