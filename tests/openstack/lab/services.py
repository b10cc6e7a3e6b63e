"""The services of OpenStack, libvirt, and our own nodes: how each is started, and when it is up."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ovs_nova.options import RUN_DIRS_VARIABLE
from tests.openstack.lab.infrastructure import listens
from tests.openstack.lab.layout import ZONES, Disk, Layout, Port, Zone
from tests.openstack.lab.namespaces import Namespaces
from tests.openstack.lab.processes import LabError, Processes
from tests.support.process import accepts

CHUNK_BYTES_MAX = 64 << 20
#: of the disk, which all folders of the lab share, stays free in any case
OSD_RESERVE_BYTES = 1 << 30


@dataclass(frozen=True)
class Service:
    """A process of the lab.

    :param name: under which it is recorded, and its log named
    :param command: what runs
    :param zone: the hypervisor on which it runs; None for the lab as a whole
    :param ready: tells whether it does its work; None when only its peers can tell
    :param environment: on top of the lab's
    """

    name: str
    command: tuple[str, ...]
    zone: Zone | None = None
    ready: Callable[[], bool] | None = None
    environment: tuple[tuple[str, str], ...] = ()


def answers(port: int) -> bool:
    """Tell whether an HTTP server on a loopback port answers at all."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def daemon_of(node: str) -> str:
    """The service that is the daemon of a node of ours."""
    return f"vstorage-daemon-{node}"


class Services:
    """All services of a lab by name, in the order in which they start."""

    def __init__(self, lab: Layout, processes: Processes, namespaces: Namespaces) -> None:
        self._lab = lab
        self._processes = processes
        self._namespaces = namespaces
        self.keystone = self._wsgi(
            "keystone",
            Port.KEYSTONE,
            "keystone.wsgi.api",
            4,
            f"--config-file {lab.etc / 'keystone/keystone.conf'}",
        )
        self.attaching = [
            service
            for zone in ZONES
            for service in (self._node(zone.hypervisor), self._edge(zone.hypervisor))
        ]
        self.storage = [self._node(zone.storage) for zone in ZONES]
        self.nodes = [*self.attaching, *self.storage]
        self.osds = [self._osd(disk) for zone in ZONES for disk in zone.disks]
        self.libvirt = [service for zone in ZONES for service in self._libvirt(zone)]
        self.openstack = self._openstack()
        everything = [*self.osds, *self.nodes, *self.libvirt, self.keystone, *self.openstack]
        self.by_name = {service.name: service for service in everything}

    def _openstack(self) -> list[Service]:
        etc = self._lab.etc
        cinder = str(etc / "cinder/cinder.conf")
        return [
            self._wsgi("glance", Port.GLANCE, "glance.wsgi.api", 4,
                f"--config-file {etc / 'glance/glance-api.conf'}"),
            self._wsgi("placement", Port.PLACEMENT, "placement.wsgi.api", 2),
            self._wsgi("neutron", Port.NEUTRON, "neutron.wsgi.api", 2),
            self._wsgi("nova-api", Port.NOVA, "nova.wsgi.osapi_compute", 4),
            self._wsgi(
                "cinder-api", Port.CINDER, "cinder.wsgi.api", 4, f"--config-file {cinder}"
            ),
            *(self._daemon(f"cinder-{part}", f"cinder-{part}", cinder)
              for part in ("scheduler", "volume", "backup")),
            *(self._daemon(f"nova-{part}", f"nova-{part}", str(etc / "nova/nova.conf"))
              for part in ("conductor", "scheduler")),
            *(self._compute(zone) for zone in ZONES),
        ]  # fmt: skip

    def _compute(self, zone: Zone) -> Service:
        config = str(self._lab.etc / f"nova-{zone.name}/nova.conf")
        service = self._daemon(f"nova-{zone.hypervisor}", "nova-compute", config)
        # Of the machine's nodes that of its own host alone.
        here = (RUN_DIRS_VARIABLE, str(self._lab.node_run(zone.hypervisor)))
        return replace(service, zone=zone, environment=(here,))

    def _daemon(self, name: str, program: str, config: str) -> Service:
        log = self._lab.log / f"{name}.log"
        command = (program, "--config-file", config, "--log-file", str(log))
        return Service(name, command)

    def _wsgi(
        self, name: str, port: Port, module: str, threads: int, arguments: str = ""
    ) -> Service:
        folder = {"nova-api": "nova", "cinder-api": "cinder"}.get(name, name)
        options = (
            "--http-socket", f"127.0.0.1:{int(port)}", "--module", module,
            "--callable", "application", "--master", "--processes", "1",
            "--threads", str(threads), "--lazy-apps", "--enable-threads", "--die-on-term",
            "--need-app", "--buffer-size", "65535", "--http-chunked-input",
            "--chunked-input-limit", str(CHUNK_BYTES_MAX), "--chunked-input-timeout", "120",
            "--socket-timeout", "120", "--add-header", "Connection: close", "--thunder-lock",
        )  # fmt: skip
        variable = f"OS_{folder.upper()}_CONFIG_DIR"
        return Service(
            name,
            ("uwsgi", *options, "--pyargv", arguments),
            ready=lambda: answers(port),
            environment=((variable, str(self._lab.etc / folder)),),
        )

    def _node(self, name: str) -> Service:
        run = self._lab.node_run(name)
        config = str(self._lab.etc / f"vstorage-{name}.conf")
        return Service(
            daemon_of(name),
            ("vstorage-daemon", "--config-file", config),
            ready=lambda: accepts(run / "control.sock"),
        )

    def _osd(self, disk: Disk) -> Service:
        options = (
            "--listen", disk.address,
            "--key-file", str(self._lab.cluster_key),
            "--reserve", str(OSD_RESERVE_BYTES),
        )  # fmt: skip
        return Service(
            f"vstorage-{disk.node}",
            ("vstorage-osd", "serve", *options, str(self._lab.osd_folder(disk))),
            ready=lambda: listens(disk.port),
        )

    def _edge(self, name: str) -> Service:
        run = self._lab.node_run(name)
        return Service(
            f"vstorage-edge-{name}",
            ("vstorage-edge", "--run-dir", str(run)),
            ready=lambda: accepts(run / "edge.sock"),
        )

    def _libvirt(self, zone: Zone) -> list[Service]:
        return [
            Service(
                f"virtlogd-{zone.name}",
                ("virtlogd", "--pid-file", "/run/libvirt/virtlogd.pid"),
                zone,
                lambda: self._accepts_on(zone, "virtlogd-sock"),
            ),
            Service(
                f"libvirtd-{zone.name}",
                ("libvirtd", "--listen", "--pid-file", "/run/libvirt/libvirtd.pid"),
                zone,
                lambda: self._accepts_on(zone, "libvirt-sock") and listens(zone.libvirt_port),
            ),
        ]

    def _accepts_on(self, zone: Zone, name: str) -> bool:
        # What is mounted as /run/libvirt there is this folder here.
        return accepts(self._lab.state / f"libvirt-{zone.name}" / "run" / name)

    def start(self, services: Iterable[Service]) -> None:
        """Start what does not run, all at once, then wait until all are ready."""
        services = list(services)
        for service in services:
            if not self._processes.running(service.name):
                line = self._namespaces.command(service.command, service.zone)
                environment = self._lab.environment() | dict(service.environment)
                self._processes.start(service.name, line, environment)
        for service in services:
            self._processes.wait_ready(service.name, service.ready or (lambda: True))

    def restart(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a service with a signal, start it again and wait until it is ready."""
        service = self.find(name)
        if number is signal.SIGKILL:
            self._processes.kill(name, number)
        else:
            self._processes.stop(name)
        self.start([service])

    def find(self, name: str) -> Service:
        """The service of that name; LabError lists the names if there is none."""
        if name not in self.by_name:
            raise LabError(f"there is no service {name!r}; there are {', '.join(self.by_name)}")
        return self.by_name[name]

    def virsh(self, zone: Zone, *arguments: str) -> str:
        """What virsh prints on a hypervisor. Raises LabError if it fails."""
        command = ["virsh", "--connect", "qemu:///system", *arguments]
        result = subprocess.run(
            self._namespaces.command(command, zone), capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise LabError(f"virsh {' '.join(arguments)} on {zone.hypervisor}: {result.stderr}")
        return result.stdout

    def stop_guests(self, zone: Zone) -> int:
        """End the guests of a hypervisor by the pids that libvirt recorded; return their number."""
        ended = 0
        for path in (self._lab.state / f"libvirt-{zone.name}" / "run/qemu").glob("*.pid"):
            with suppress(ValueError, ProcessLookupError, FileNotFoundError):
                pid = int(path.read_text())
                # The pid may be another's by now: the guest's name stands on QEMU's command line.
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if f"guest={path.stem},".encode() in line:
                    os.kill(pid, signal.SIGKILL)
                    ended += 1
        return ended
