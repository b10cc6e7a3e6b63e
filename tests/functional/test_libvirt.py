"""Nova's volume driver over a real libvirt and QEMU. Where `make openstack` has never been, there
is no libvirt, and nothing to try."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nova.compute import power_state
from nova.virt.libvirt import config

from ovs_nova import volume_driver
from ovs_nova.volume_driver import LibvirtOvsVolumeDriver
from tests.support.attaching import MIB, attaching_node, client, create
from tests.support.node import Node

libvirt: Any = pytest.importorskip("libvirt", reason="`make openstack` installs libvirt")

# Nothing of the machine's: no helpers, no control groups, no labels, files as they are.
QEMU_CONF = """
stdio_handler = "file"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
"""


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    # Nova's records of volumes are in a database, which is not here; `tests/unit/nova` has it.
    monkeypatch.setattr(volume_driver, "_write_down", lambda connection_info, instance: None)
    with attaching_node(monkeypatch) as made:
        yield made


class Hypervisor:
    """A libvirt of this process alone, as far as the volume driver uses Nova's host and guest."""

    def __init__(self, folder: Path) -> None:
        self.connection = libvirt.open(f"qemu:///embed?root={folder}")
        self._domain: Any = None

    def find_secret(self, usage: str, name: str) -> None:
        return None

    def get_guest(self, instance: Any) -> Any:
        return self

    def get_power_state(self, host: Any) -> int:
        states = {
            libvirt.VIR_DOMAIN_RUNNING: power_state.RUNNING,
            libvirt.VIR_DOMAIN_PAUSED: power_state.PAUSED,
        }
        return int(states[self._domain.state()[0]])

    def get_all_disks(self) -> list[Any]:
        guest = config.LibvirtConfigGuest()
        guest.parse_str(self._domain.XMLDesc())
        return [one for one in guest.devices if isinstance(one, config.LibvirtConfigGuestDisk)]

    def start(self, disk: Any) -> None:
        self._domain = self.connection.createXML(
            "<domain type='qemu'><name>web</name><memory unit='MiB'>64</memory>"
            "<os><type arch='x86_64' machine='q35'>hvm</type></os>"
            f"<devices>{disk.to_xml()}</devices></domain>"
        )

    def size(self) -> int:
        return int(self._domain.blockInfo("vda")[0])


@pytest.fixture
def hypervisor(node: Node) -> Iterator[Hypervisor]:
    libvirt.virEventRegisterDefaultImpl()
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            libvirt.virEventRunDefaultImpl()

    # libvirt's own events: without anybody who runs them, QEMU's monitor is not heard.
    events = threading.Thread(target=run, daemon=True)
    events.start()
    timer = libvirt.virEventAddTimeout(50, lambda *_: None, None)
    settings = node.root / "libvirt" / "etc" / "qemu.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(QEMU_CONF)
    made = Hypervisor(node.root / "libvirt")
    yield made
    if made._domain is not None:
        made._domain.destroy()
    made.connection.close()
    ended.set()
    events.join()
    libvirt.virEventRemoveTimeout(timer)


def test_a_running_server_sees_its_volume_grow(node: Node, hypervisor: Hypervisor) -> None:
    """With the libvirt of this machine, whether it can set a reconnect delay or not."""
    data = create(node, "web1")
    uuid = data["volume_uuid"]
    info = {"driver_volume_type": "ovs", "data": data, "serial": uuid, "volume_id": uuid}
    driver = LibvirtOvsVolumeDriver(hypervisor)
    driver.connect_volume(info, None)
    hypervisor.start(driver.get_config(info, {"type": "disk", "dev": "vda", "bus": "virtio"}))
    (disk,) = hypervisor.get_all_disks()
    assert (disk.serial, disk.source_socket) == (uuid, data["socket"])
    for size in (128 * MIB, 192 * MIB):
        with client(node) as control:
            control.resize_volume("web1", size)
        assert driver.extend_volume(info, None, 0) == size
        hypervisor._domain.blockResize("vda", size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        assert hypervisor.size() == size
        assert hypervisor.get_power_state(None) == power_state.RUNNING
    hypervisor._domain.destroy()
    hypervisor._domain = None
    driver.disconnect_volume(info, None)
