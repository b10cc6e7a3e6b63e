"""Nova's volume driver: the XML it writes and reads, attaching, and growing under a server."""

from __future__ import annotations

import json
import uuid
from typing import Any

import nova.conf
import pytest
from lxml import etree
from nova import context, objects
from nova.compute import power_state
from nova.virt.libvirt import config
from os_brick import exception as os_brick_exception

from ovs_daemon.control import volumes
from ovs_nova.grow import CannotGrow, Qemu, grow
from ovs_nova.volume_driver import LibvirtOvsVolumeDriver
from tests.unit.nova.conftest import GIB, Compute

pytestmark = pytest.mark.usefixtures("nova_database")

DISK = {"type": "disk", "dev": "vdb", "bus": "virtio"}
SERVER = objects.Instance(uuid=str(uuid.uuid4()))


class Host:
    """What of Nova's host the driver uses."""

    def __init__(self) -> None:
        self.state = power_state.SHUTDOWN

    def find_secret(self, usage: str, name: str) -> None:
        return None

    def get_guest(self, instance: Any) -> Any:
        return self

    def get_power_state(self, host: Any) -> int:
        return int(self.state)


def info(data: dict[str, Any]) -> dict[str, Any]:
    uuid = data["volume_uuid"]
    return {"driver_volume_type": "ovs", "data": data, "serial": uuid, "volume_id": uuid}


@pytest.fixture
def nova_driver(compute: Compute) -> LibvirtOvsVolumeDriver:
    return LibvirtOvsVolumeDriver(Host())


def test_nova_knows_what_to_detach_before_anything_is_attached(
    compute: Compute, nova_driver: LibvirtOvsVolumeDriver
) -> None:
    admin = context.get_admin_context()
    connection = info(compute.volume("v"))
    objects.Instance(admin, uuid=SERVER.uuid, project_id="p", user_id="u").create()
    objects.BlockDeviceMapping(
        admin, instance_uuid=SERVER.uuid, volume_id=connection["serial"],
        source_type="volume", destination_type="volume",
    ).create()  # fmt: skip

    def written() -> Any:
        return objects.BlockDeviceMapping.get_by_volume_and_instance(
            admin, connection["serial"], SERVER.uuid
        ).connection_info

    unreachable = info(connection["data"] | {"node": "node9"})
    with pytest.raises(os_brick_exception.BrickException, match="node9"):
        nova_driver.connect_volume(unreachable, SERVER)
    assert json.loads(written()) == unreachable
    # What Nova has written itself stays.
    nova_driver.connect_volume(connection, SERVER)
    assert json.loads(written()) == unreachable
    nova_driver.disconnect_volume(connection, SERVER)


def test_a_server_gets_a_socket(compute: Compute, nova_driver: LibvirtOvsVolumeDriver) -> None:
    connection = info(compute.volume("v"))
    nova_driver.connect_volume(connection, SERVER)
    assert compute.holders("v") == [(f"nova-compute@{nova.conf.CONF.host}", "edge")]
    disk = etree.fromstring(nova_driver.get_config(connection, DISK).to_xml())
    assert (disk.get("type"), disk.find("source").get("protocol")) == ("network", "nbd")
    assert dict(disk.find("source/host").attrib) == {
        "transport": "unix",
        "socket": f"/run/vstorage/nbd/{connection['data']['volume_uuid']}.sock",
    }
    assert disk.find("source/reconnect").get("delay") == "600"
    wanted = {"name": "qemu", "type": "raw", "cache": "none", "discard": "unmap"}
    assert dict(disk.find("driver").attrib) == wanted
    assert disk.find("serial").text == connection["serial"]
    nova_driver.disconnect_volume(connection, SERVER)
    nova_driver.disconnect_volume(connection, SERVER, force=True)
    assert compute.holders("v") == []


def test_a_server_may_get_a_file(compute: Compute) -> None:
    conf = nova.conf.CONF
    LibvirtOvsVolumeDriver(Host())
    conf.set_override("attach_as", "file", group="ovs")
    try:
        nova_driver = LibvirtOvsVolumeDriver(Host())
    finally:
        conf.clear_override("attach_as", group="ovs")
    connection = info(compute.volume("v"))
    nova_driver.connect_volume(connection, SERVER)
    disk = etree.fromstring(nova_driver.get_config(connection, DISK).to_xml())
    path = f"/run/vstorage/volumes/{connection['data']['volume_uuid']}"
    assert disk.find("source").get("file") == path
    volumes.resize_volume(compute.house.host, "v", 2 * GIB)
    assert nova_driver.extend_volume(connection, None, 0) == 2 * GIB
    nova_driver.disconnect_volume(connection, SERVER)


def test_what_nova_sets_is_in_the_xml(
    compute: Compute, nova_driver: LibvirtOvsVolumeDriver
) -> None:
    data = compute.volume("v") | {
        "access_mode": "ro",
        "qos_specs": {"total_iops_sec": "100"},
    }
    connection = info(data) | {"multiattach": True}
    nova_driver.connect_volume(connection, SERVER)
    disk = etree.fromstring(nova_driver.get_config(connection, DISK).to_xml())
    assert disk.find("readonly") is not None
    assert disk.find("shareable") is not None
    assert disk.find("iotune/total_iops_sec").text == "100"
    nova_driver.disconnect_volume(connection, SERVER)


LIVE = """
<disk type='network' device='disk'>
  <driver name='qemu' type='raw' cache='none' discard='unmap'/>
  <source protocol='nbd' index='2'>
    <host transport='unix' socket='/run/vstorage/nbd/x.sock'/>
  </source>
  <target dev='vdb' bus='virtio'/>
  <serial>x</serial>
  <alias name='ua-x'/>
  <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
</disk>
"""


def test_what_libvirt_says_of_a_disk_can_be_said_to_it_again(compute: Compute) -> None:
    disk = config.LibvirtConfigGuestDisk()
    disk.parse_str(LIVE)
    assert (disk.source_socket, disk.reconnect_delay) == ("/run/vstorage/nbd/x.sock", None)
    again = config.LibvirtConfigGuestDisk()
    again.parse_str(disk.to_xml())
    assert again.to_xml() == disk.to_xml()
    waits = LIVE.replace("</source>", "<reconnect delay='5'/></source>")
    again.parse_str(waits)
    assert again.reconnect_delay == 5


def test_other_disks_are_as_they_were(compute: Compute) -> None:
    rbd = config.LibvirtConfigGuestDisk()
    rbd.parse_str(
        "<disk type='network'><source protocol='rbd' name='a/b'><host name='h' port='1'/></source>"
        "<target dev='vda' bus='virtio'/></disk>"
    )
    assert (rbd.source_hosts, rbd.source_socket) == (["h"], None)
    assert etree.fromstring(rbd.to_xml()).find("source/host").get("name") == "h"


class Monitor:
    """QEMU as far as growing goes: a connection takes ``slow`` requests to come back."""

    def __init__(self, slow: int, running: bool = True, header: int = 0) -> None:
        self.slow = slow
        self.header = header
        self.running = running
        self.size = GIB
        self.seen: list[str] = []
        self.away: int | None = None
        self.qemu = Qemu(self.command, lambda: self.note("suspend"), lambda: self.note("resume"))

    def note(self, what: str) -> None:
        self.seen.append(what)

    def reconnect(self) -> None:
        self.note("reconnect")
        self.away = self.slow

    def command(self, name: str, arguments: dict[str, Any]) -> Any:
        storage = {
            "drv": "nbd",
            "node-name": "libvirt-1-storage",
            "file": "nbd+unix://?socket=/x.sock",
            "image": {},
        }
        top = storage | {"drv": "raw", "node-name": "libvirt-1-format"}
        if self.header:
            top |= {
                "drv": "luks",
                "file": 'json:{"driver": "luks", "file": {"server.path": "/x.sock"}}',
                "image": {"format-specific": {"data": {"payload-offset": self.header}}},
            }
        if name == "query-block":
            return [{"device": "cd"}, {"inserted": top}]
        if name == "query-named-block-nodes":
            return [top, storage]
        if name == "query-status":
            return {"running": self.running}
        if name == "human-monitor-command":
            assert arguments["command-line"] == 'qemu-io libvirt-1-storage "read 0 512"'
            self.away = None if self.away is None else max(0, self.away - 1)
            return ""
        assert name == "block_resize"
        if self.away != 0:
            raise CannotGrow("Cannot grow NBD nodes")
        self.size = arguments["size"]
        return {}


def test_a_server_is_paused_while_its_connection_is_away() -> None:
    monitor = Monitor(slow=3)
    assert grow(monitor.qemu, "/x.sock", 2 * GIB, False, monitor.reconnect) == 2 * GIB
    assert monitor.seen == ["suspend", "reconnect", "resume"]
    assert monitor.size == 2 * GIB


def test_a_disk_that_qemu_decrypts_is_smaller_than_its_volume() -> None:
    monitor = Monitor(slow=1, header=4096)
    assert grow(monitor.qemu, "/x.sock", 2 * GIB, True, monitor.reconnect) == 2 * GIB - 4096
    assert monitor.size == 2 * GIB - 4096


@pytest.mark.parametrize(("waits", "running"), [(True, True), (False, False)])
def test_a_server_that_waits_or_stands_still_is_not_paused(waits: bool, running: bool) -> None:
    monitor = Monitor(slow=1, running=running)
    grow(monitor.qemu, "/x.sock", 2 * GIB, waits, monitor.reconnect)
    assert monitor.seen == ["reconnect"]


def test_a_size_that_the_edge_hears_late_is_asked_for_again() -> None:
    """The first connection that came back still had the old one."""
    monitor = Monitor(slow=1)

    def reconnect() -> None:
        monitor.reconnect()
        monitor.slow, monitor.away = 1, (10**9 if monitor.seen == ["reconnect"] else 1)

    grow(monitor.qemu, "/x.sock", 2 * GIB, waits=True, reconnect=reconnect)
    assert (monitor.seen, monitor.size) == (["reconnect"] * 2, 2 * GIB)


def test_a_server_goes_on_whatever_happens() -> None:
    monitor = Monitor(slow=1)

    def fail() -> None:
        raise LookupError("no daemon")

    with pytest.raises(LookupError, match="no daemon"):
        grow(monitor.qemu, "/x.sock", 2 * GIB, waits=False, reconnect=fail)
    assert monitor.seen == ["suspend", "resume"]
    with pytest.raises(CannotGrow, match="no disk"):
        grow(monitor.qemu, "/y.sock", 2 * GIB, waits=False, reconnect=fail)


def test_a_server_that_is_off_grows_when_it_starts(
    compute: Compute, nova_driver: LibvirtOvsVolumeDriver
) -> None:
    connection = info(compute.volume("v"))
    nova_driver.connect_volume(connection, SERVER)
    volumes.resize_volume(compute.house.host, "v", 2 * GIB)
    assert nova_driver.extend_volume(connection, None, 0) == 2 * GIB
    nova_driver.disconnect_volume(connection, SERVER)
