"""What tests of hosts that attach share: a node, its control API, volumes as Cinder names them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from ovs_daemon.client import Client
from ovs_nova import registration
from ovs_nova.options import RUN_DIRS_VARIABLE
from tests.support.node import Node

MIB = 1 << 20


@contextlib.contextmanager
def attaching_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node through which this process attaches; in the end nothing is mounted any more."""
    registration.register_nova()
    with Node() as made:
        made.start()
        monkeypatch.setenv(RUN_DIRS_VARIABLE, str(made.run_dir))
        yield made
        made.stop()
        assert made.mounts() == []


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
