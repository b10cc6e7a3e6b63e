"""A shared flat network: a Linux bridge on which `taps.py` puts what Nova makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

BRIDGE = "ovs-lab"
NETWORK = "lab"
SUBNET = "lab-v4"
HOST_ADDRESS = "10.117.0.1"
_CIDR = "10.117.0.0/24"
WATCHER = (sys.executable, str(Path(__file__).with_name("taps.py")), BRIDGE)


def ensure_bridge() -> None:
    """Make the bridge if it is not there."""
    if not Path(f"/sys/class/net/{BRIDGE}").exists():
        for command in (
            ["ip", "link", "add", BRIDGE, "type", "bridge"],
            ["ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", BRIDGE],
        ):
            subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True, capture_output=True)


def remove_bridge() -> None:
    """Remove the bridge; nothing happens if it is gone."""
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)


def register(cloud: Any) -> None:
    """Tell Neutron of the network."""
    network = cloud.network.find_network(NETWORK) or cloud.network.create_network(
        name=NETWORK,
        shared=True,
        provider_network_type="flat",
        provider_physical_network=NETWORK,
    )
    if cloud.network.find_subnet(SUBNET) is None:
        cloud.network.create_subnet(
            name=SUBNET,
            network_id=network.id,
            ip_version=4,
            cidr=_CIDR,
            gateway_ip=HOST_ADDRESS,
            is_dhcp_enabled=False,
            allocation_pools=[{"start": "10.117.0.20", "end": "10.117.0.250"}],
        )
