"""Our nodes and OSDs as one cluster: two Domains, each the other's Recovery Domain.

Made as an operator makes it: a node that asks for no Domain starts first, and is asked to create
them, and to register the OSDs; from then on the registry knows.
"""

from __future__ import annotations

import subprocess
from contextlib import closing

from ovs_daemon.client import Client
from tests.openstack.lab.layout import ZONES, Disk, Layout, Zone
from tests.openstack.lab.processes import LabError, wait_until
from tests.openstack.lab.services import Services

_SECONDS_MAX = 120.0


class Cluster:
    """Starts the nodes; all of it may be repeated."""

    def __init__(self, lab: Layout, services: Services) -> None:
        self._lab = lab
        self._services = services

    def client(self) -> Client:
        """A connection to a node that stays when storage nodes die; close it."""
        return Client(self._lab.node_run(ZONES[0].hypervisor) / "control.sock")

    def start(self) -> None:
        """Start all nodes and OSDs, and wait until all are in reach and each Domain has its
        Recovery Domain."""
        self._services.start(self._services.attaching)
        with closing(self.client()) as client:
            domains = {one["name"] for one in client.list_domains()}
            for zone in ZONES:
                if zone.name not in domains:
                    client.create_domain(zone.name, availability_zone=zone.name)
                client.set_node(zone.hypervisor, zone.name)
            cluster = str(client.osd_whereabouts()["cluster"])
            for zone in ZONES:
                for disk in zone.disks:
                    self._claim(cluster, zone, disk)
            self._services.start(self._services.osds)
            for zone in ZONES:
                for disk in zone.disks:
                    client.add_osds(disk.address)
        wait_until(self.stores, "all OSDs to be in reach", _SECONDS_MAX)
        self._services.start(self._services.storage)
        wait_until(self.protected, "each zone to be the other's Recovery Domain", _SECONDS_MAX)

    def _claim(self, cluster: str, zone: Zone, disk: Disk) -> None:
        """Make a folder an OSD of the cluster; it stays what it is."""
        place = ["--cluster", cluster, "--domain", zone.name, "--node", disk.node]
        claimed = subprocess.run(
            ["vstorage-osd", "claim", *place, str(self._lab.osd_folder(disk))],
            env=self._lab.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if claimed.returncode != 0:
            raise LabError(f"cannot claim an OSD for {disk.node}: {claimed.stderr}")

    def stores(self) -> bool:
        """Tell whether all OSDs of the cluster can be reached."""
        with closing(self.client()) as client:
            osds = client.list_osds()
        wanted = sum(len(zone.disks) for zone in ZONES)
        return len(osds) == wanted and all(osd["reachable"] for osd in osds)

    def protected(self) -> bool:
        """Tell whether the logs of every storage node's volumes can be kept in another zone."""
        with closing(self.client()) as client:
            nodes = {one["name"]: one for one in client.list_nodes()}
        return all(
            nodes[zone.storage]["alive"] and nodes[zone.storage]["recovery_domain"] is not None
            for zone in ZONES
        )
