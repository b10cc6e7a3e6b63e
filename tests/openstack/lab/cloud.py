"""Brings the whole lab up and down, and tells what it does with the seconds that each step took."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from tests.openstack.lab import guest_image, network, registration
from tests.openstack.lab.cluster import Cluster
from tests.openstack.lab.configuration import Configuration
from tests.openstack.lab.databases import Databases
from tests.openstack.lab.infrastructure import ORDER, Infrastructure
from tests.openstack.lab.layout import ZONES, Layout
from tests.openstack.lab.namespaces import Namespaces
from tests.openstack.lab.processes import Processes
from tests.openstack.lab.registration import Registration
from tests.openstack.lab.services import Services

TAP_WATCHER = "tap-watcher"


class Cloud:
    """The lab of one working copy."""

    def __init__(self, lab: Layout) -> None:
        self.lab = lab
        self.processes = Processes(lab.run, lab.log)
        self.namespaces = Namespaces(lab, self.processes)
        self.infrastructure = Infrastructure(lab, self.processes, self.namespaces)
        self.databases = Databases(lab, self.infrastructure)
        self.services = Services(lab, self.processes, self.namespaces)
        self.cluster = Cluster(lab, self.services)
        self.configuration = Configuration(lab)
        self._start = time.monotonic()

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        now = time.monotonic()
        print(f"[{now - self._start:6.1f} s] {what} ({now - began:.1f} s)", flush=True)

    def start(self) -> None:
        """Start what does not run and make what is missing."""
        if (self.lab.state / "backend").exists():
            print("this lab kept objects in a folder, where no node looks any more:", flush=True)
            with self._step("what was stored is removed"):
                self.wipe()
        with self._step("configuration written"):
            self.configuration.write()
        with self._step("namespaces"):
            self.namespaces.ensure(ZONES)
        with self._step("MariaDB, RabbitMQ, memcached, etcd"):
            self.infrastructure.start()
        with self._step(
            "our cluster: in each zone OSDs, a storage node, and an Edge on the hypervisor"
        ):
            self.cluster.start()
        with self._step("databases"):
            self.databases.ensure()
        with self._step("libvirt of both hypervisors"):
            self.services.start(self.services.libvirt)
        # nova-conductor and nova-scheduler end at once when Keystone does not know Nova.
        with self._step("Keystone"):
            self.services.start([self.services.keystone])
        with self._step("users and endpoints"):
            Registration(self.lab).identity()
        with self._step("Glance, Placement, Neutron, Nova, Cinder"):
            self.services.start(self.services.openstack)
        with self._step("the tiny guest's image"):
            disk = guest_image.build(self.lab.cache)
        # A connection knows the endpoints that were there when it was made.
        registered = Registration(self.lab)
        with self._step("both hypervisors and both Cinder backends are up"):
            registered.wait_for_hypervisors()
            self.databases.discover_hosts()
            registered.wait_for_backends()
        with self._step("zones, flavors, volume type, network, image"):
            registered.zones()
            registered.offers()
            registered.unlimited()
            self._network()
            registered.image(registration.IMAGE, disk)
        print(f"ready. `source {self.lab.root / 'openrc'}`, then `openstack ...`", flush=True)

    def _network(self) -> None:
        network.ensure_bridge()
        if not self.processes.running(TAP_WATCHER):
            self.processes.start(TAP_WATCHER, network.WATCHER, self.lab.environment())
        network.register(registration.connect(self.lab))

    def restart_and_wait(self, names: list[str], number: signal.Signals = signal.SIGTERM) -> None:
        """End services with a signal, start them again and wait until each has said it works."""
        since = datetime.now(UTC)
        for name in names:
            self.services.restart(name, number)
        registered = Registration(self.lab)
        for binary in {self.services.find(name).command[0] for name in names}:
            if binary in ("nova-compute", "cinder-volume"):
                registered.wait_for_report(binary, since)

    def stop(self) -> None:
        """End all processes, the last that started first; everything stored stays."""
        with self._step("guests ended"):
            for zone in ZONES:
                self.services.stop_guests(zone)
        ours = [service.name for service in self.services.nodes]
        osds = [service.name for service in self.services.osds]
        running = self.processes.names()
        holders = [name for name in running if name.startswith("namespace")]
        last = {*ours, *osds, *ORDER, *holders}
        for what, names in (
            ("OpenStack and libvirt", [name for name in running if name not in last]),
            ("our nodes", ours),
            ("our OSDs", osds),
            ("MariaDB, RabbitMQ, memcached, etcd", list(ORDER)),
            ("namespaces", holders),
        ):
            with self._step(f"{what} ended"):
                self.processes.stop(*names)
        network.remove_bridge()

    def wipe(self) -> None:
        """End everything and remove what is stored; what takes long to make is kept."""
        self.stop()
        for folder in (self.lab.state, self.lab.log, self.lab.etc, self.lab.run):
            shutil.rmtree(folder, ignore_errors=True)

    def restart(self, names: list[str]) -> None:
        """End services and start them again with the configuration as it is now."""
        for name in names:
            self.services.find(name)
        for name in names:
            with self._step(f"{name} restarted"):
                self.services.restart(name)

    def print_status(self) -> int:
        """Print what runs and what does not; return 0 if all runs."""
        missing = 0
        for name in [*ORDER, *self.services.by_name, TAP_WATCHER]:
            record = self.processes.record(name)
            missing += record is None
            print(f"{name:28} {'does not run' if record is None else f'pid {record.pid}'}")
        return 1 if missing else 0
