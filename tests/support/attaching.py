"""What tests of hosts that attach share: a node, its control API, volumes as Cinder names them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ovs_daemon.client import Client
from tests.support.node import Node

MIB = 1 << 20


@contextlib.contextmanager
def client(node: Node) -> Iterator[Client]:
    """A connection to the node's daemon."""
    made = Client(node.run_dir / "control.sock")
    yield made
    made.close()


def create(node: Node, name: str) -> dict[str, Any]:
    """A new volume of 64 MiB, as Cinder's connection info describes it."""
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
