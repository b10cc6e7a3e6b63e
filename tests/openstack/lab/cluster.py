"""Our nodes as one cluster: two Domains, each the other's Recovery Domain.

Made as an operator makes it: a node that asks for no Domain starts first, and is asked to create
them; from then on the registry knows.
"""

from __future__ import annotations

from contextlib import closing

from ovs_daemon.client import Client
from tests.openstack.lab.layout import ZONES, Layout
from tests.openstack.lab.processes import wait_until
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
        """Start all nodes, and wait until each Domain has its Recovery Domain."""
        self._services.start(self._services.attaching)
        with closing(self.client()) as client:
            domains = {one["name"] for one in client.list_domains()}
            for zone in ZONES:
                if zone.name not in domains:
                    client.create_domain(zone.name, availability_zone=zone.name)
                client.set_node(zone.hypervisor, zone.name)
        self._services.start(self._services.storage)
        wait_until(self.protected, "each zone to be the other's Recovery Domain", _SECONDS_MAX)

    def protected(self) -> bool:
        """Tell whether the logs of every storage node's volumes can be kept in another zone."""
        with closing(self.client()) as client:
            nodes = {one["name"]: one for one in client.list_nodes()}
        return all(
            nodes[zone.storage]["alive"] and nodes[zone.storage]["recovery_domain"] is not None
            for zone in ZONES
        )
