"""Where everything of the lab is: folders, ports, passwords, zones."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ovs_nova.options import RUN_DIRS_VARIABLE

PROJECT = Path(__file__).resolve().parents[3]
#: a secret that is none: all listens on loopback, and the lab is thrown away
PASSWORD = "secret"
#: of encrypted volumes, likewise: 256 bits in hex
ENCRYPTION_KEY = hashlib.sha256(PASSWORD.encode()).hexdigest()
REGION = "RegionOne"
#: the longest name below the run directory: `compute-az1/volumes/<uuid>.sock`, and what QEMU and
#: libvirt add
_SOCKET_NAME_BYTES_MAX = 68
_SOCKET_PATH_BYTES_MAX = 107


class Port(IntEnum):
    """Loopback ports, none of them a service's own: a cloud beside this one is no matter."""

    MARIADB = 13306
    RABBITMQ = 15673
    RABBITMQ_CLUSTER = 35673
    EPMD = 14369
    MEMCACHED = 21211
    KEYSTONE = 15000
    GLANCE = 19292
    PLACEMENT = 18778
    NOVA = 18774
    NEUTRON = 19696
    CINDER = 18776
    ETCD = 12379
    ETCD_PEERS = 12380


#: two zones of three disks, each on a host of its own, satisfy "2+2 over 2 Domains, 1 local"
DISKS_PER_ZONE = 3


@dataclass(frozen=True)
class Disk:
    """An OSD: a folder and its server, which stand for a host of the zone that has disks only.

    :param node: the name of that host
    :param port: where its server listens
    """

    node: str
    port: int

    @property
    def address(self) -> str:
        """Where the nodes find it."""
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Zone:
    """An availability zone: a Domain with a storage node, hosts with disks, and a hypervisor that
    only attaches.

    :param name: of the Domain, and of the Cinder and Nova zone
    :param libvirt_port: where the zone's libvirt listens for migrations
    :param migration_port: the first of 50 ports for memory that moves
    :param dtl_port: where the storage node keeps logs of others
    :param edge_port: where Edges of other hosts reach the storage node
    :param osd_port: of the first of its OSD servers; the others have the next ones
    """

    name: str
    libvirt_port: int
    migration_port: int
    dtl_port: int
    edge_port: int
    osd_port: int

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The zone's OSDs, as many as two zones need for the preset `default`."""
        return tuple(
            Disk(f"osd-{self.name}-{number + 1}", self.osd_port + number)
            for number in range(DISKS_PER_ZONE)
        )

    @property
    def storage(self) -> str:
        """The zone's node that owns volumes: a host without servers."""
        return f"node-{self.name}"

    @property
    def hypervisor(self) -> str:
        """The host name of the zone's nova-compute, and of our node there, which only attaches."""
        return f"compute-{self.name}"


ZONES = (
    Zone("az1", 16510, 49300, 16640, 16740, 16650),
    Zone("az2", 16511, 49400, 16641, 16741, 16660),
)


@dataclass(frozen=True)
class Section:
    """A section of cinder.conf: a backend.

    :param name: of the section
    :param backend_name: what volume types ask for
    :param zone: whose Domain's volumes it offers
    """

    name: str
    backend_name: str
    zone: Zone


#: one name for both zones, so that one volume type serves them; and a second name, as clouds have
#: it that offer several kinds of storage
SECTIONS = (
    *(Section(f"ovs-{zone.name}", "ovs", zone) for zone in ZONES),
    Section("second-az1", "second", ZONES[0]),
)


@dataclass(frozen=True)
class Layout:
    """Folders of the lab below ``root``."""

    root: Path

    @property
    def etc(self) -> Path:
        """Configuration, written anew by every start."""
        return self.root / "etc"

    @property
    def log(self) -> Path:
        """Logs."""
        return self.root / "log"

    @property
    def state(self) -> Path:
        """What services store; `wipe` removes it."""
        return self.root / "state"

    @property
    def cache(self) -> Path:
        """What takes long to make and does not change: a fresh database, the guest image."""
        return self.root / "cache"

    @property
    def bin(self) -> Path:
        """Programs that stand in front of others on the services' PATH."""
        return self.root / "bin"

    @property
    def run(self) -> Path:
        """Sockets and recorded pids. Short, because unix socket paths end at 107 bytes."""
        near = self.root / "run"
        if len(str(near)) + _SOCKET_NAME_BYTES_MAX <= _SOCKET_PATH_BYTES_MAX:
            return near
        mark = hashlib.sha256(str(self.root).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"ovs-lab-{mark}"

    @property
    def cluster_key(self) -> Path:
        """The secret that our nodes and OSD servers share."""
        return self.state / "cluster.key"

    def node_run(self, node: str) -> Path:
        """The run directory of a node of ours."""
        return self.run / node

    def node_state(self, node: str) -> Path:
        """The state of a node of ours."""
        return self.state / node

    def osd_folder(self, disk: Disk) -> Path:
        """What an OSD keeps its fragments in."""
        return self.state / disk.node

    def folders(self) -> tuple[Path, ...]:
        """All folders that must exist before anything starts."""
        return (self.etc, self.log, self.state, self.cache, self.bin, self.run)

    def environment(self) -> dict[str, str]:
        """The environment of every process of the lab."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OS_", "PYTHON", "PIP_")) and not key.lower().endswith("_proxy")
        }
        programs = [self.bin, Path(sys.executable).parent]
        system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        return environment | {
            "PATH": ":".join([*map(str, programs), *system]),
            "LC_ALL": "C.UTF-8",
            "PYTHONWARNINGS": "ignore",
            # The port driver of `tap_ports.py` is found by its metadata, which lies there.
            "PYTHONPATH": str(self.root / "python"),
            # The nodes through which those attach that run on no hypervisor: Cinder, and tests.
            RUN_DIRS_VARIABLE: ":".join(str(self.node_run(zone.hypervisor)) for zone in ZONES),
        }

    def credentials(self) -> dict[str, str]:
        """The environment variables of an administrator, as in ``openrc``."""
        return {
            "OS_AUTH_URL": f"http://127.0.0.1:{Port.KEYSTONE}/v3",
            "OS_USERNAME": "admin",
            "OS_PASSWORD": PASSWORD,
            "OS_PROJECT_NAME": "admin",
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
            "OS_REGION_NAME": REGION,
            "OS_IDENTITY_API_VERSION": "3",
            "OS_VOLUME_API_VERSION": "3.71",
            "OS_COMPUTE_API_VERSION": "2.95",
        }


def default() -> Layout:
    """The layout of this working copy, in its build folder."""
    return Layout(PROJECT / "build" / "openstack")
