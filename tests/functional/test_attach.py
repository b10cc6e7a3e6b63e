"""Hosts that attach, with a real daemon and Edge: os-brick's connector, and libvirt under Nova's
volume driver."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import pytest
from nova.compute import power_state
from nova.virt.libvirt import config
from os_brick import exception
from os_brick.initiator import connector as brick

from ovs_daemon.client import Client
from ovs_nova import registration
from ovs_nova.options import RUN_DIRS_VARIABLE
from ovs_nova.volume_driver import LibvirtOvsVolumeDriver
from tests.support.node import Node

MIB = 1 << 20
AT_ONCE = 50
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
    registration.register_nova()
    with Node() as made:
        made.start()
        monkeypatch.setenv(RUN_DIRS_VARIABLE, str(made.run_dir))
        yield made
        made.stop()
        assert made.mounts() == []


@contextlib.contextmanager
def client(node: Node) -> Iterator[Client]:
    made = Client(node.run_dir / "control.sock")
    yield made
    made.close()


def create(node: Node, name: str) -> dict[str, Any]:
    """A new volume, as Cinder's connection info describes it."""
    with client(node) as control:
        made = control.create_volume(name, 64 * MIB)
    return {
        "volume_uuid": made["uuid"],
        "name": name,
        "size": made["size"],
        "node": made["node"],
        "access_mode": "rw",
        "encrypted": False,
        "qos_specs": None,
        "discard": True,
    }


def make(**more: Any) -> Any:
    return brick.InitiatorConnector.factory("ovs", None, **more)


def left(node: Node) -> dict[str, Any]:
    """All that attachments leave while they are there."""
    assert node.edge is not None
    with client(node) as control:
        volumes = control.list_volumes(everything=True)
    return {
        "sockets": sorted(os.listdir(node.run_dir / "nbd")),
        "files": sorted(os.listdir(node.run_dir / "volumes")),
        "mounts": node.mounts(),
        "records": [(one["name"], one["attachments"]) for one in volumes if one["attachments"]],
        "processes": Path(f"/proc/{node.edge.pid}/task/{node.edge.pid}/children").read_text(),
    }


def test_a_copy_attaches_extends_and_detaches(node: Node) -> None:
    before = left(node)
    data = create(node, "web1")
    device = make().connect_volume(data)
    path = Path(device["path"])
    path.write_bytes(b"a" * 4096)
    assert make().check_valid_device(device["path"])
    with client(node) as control:
        control.resize_volume("web1", 128 * MIB)
    assert make().extend_volume(data) == path.stat().st_size == 128 * MIB
    assert make().get_all_available_volumes() == [str(path)]
    make().disconnect_volume(data, device)
    make().disconnect_volume(data, device)
    assert left(node) == before


def test_many_at_once_leave_nothing(node: Node) -> None:
    before = left(node)

    def whole_life(number: int) -> None:
        data = create(node, f"v{number}")
        copy, guest = make(), make(holder="nova-compute@h1", attach_as="nbd")
        device = copy.connect_volume(data)
        assert guest.connect_volume(data)["type"] == "socket"
        with open(device["path"], "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), bytes([number]) * 8192, 4096)
            assert os.pread(file.fileno(), 1, 8192) == bytes([number])
        copy.disconnect_volume(data, device)
        guest.disconnect_volume(data)
        with client(node) as control:
            assert control.delete_volume(f"v{number}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(whole_life, range(AT_ONCE)))
    assert left(node) == before


@pytest.mark.parametrize("victim", ["daemon", "edge"])
def test_a_process_killed_while_others_attach(node: Node, victim: str) -> None:
    """Whatever fails, a repetition succeeds and leaves nothing."""
    before = left(node)
    every = [create(node, f"v{number}") for number in range(8)]
    stop = threading.Event()

    def hammer(data: dict[str, Any]) -> None:
        mine = make(holder="nova-compute@h1", attach_as="nbd")
        while not stop.is_set():
            with contextlib.suppress(exception.BrickException):
                mine.connect_volume(data)
                mine.disconnect_volume(data)

    workers = [threading.Thread(target=hammer, args=(data,)) for data in every]
    for worker in workers:
        worker.start()
    for _ in range(3):
        if victim == "daemon":
            node.restart_daemon()
        else:
            node.kill9_edge()
            node.start_edge()
    stop.set()
    for worker in workers:
        worker.join()
    for data in every:
        mine = make(holder="nova-compute@h1", attach_as="nbd")
        mine.connect_volume(data)
        mine.disconnect_volume(data)
    assert left(node) == before


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
