"""Fifty volumes at once, each created, attached to this host, written to, detached and deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from os_brick.initiator import connector as brick
from oslo_concurrency import lockutils

from ovs_nova import registration
from tests.openstack.conftest import Made
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import ZONES
from tests.openstack.nodes import NodeView, traces
from tests.openstack.user import User

VOLUMES = 50
WORKERS = 10
BLOCK_BYTES = 1 << 16


@pytest.fixture
def connectors(cloud: Cloud) -> None:
    """os-brick in this process, as a service has it."""
    lockutils.set_defaults(str(cloud.lab.state / "locks"))
    registration.register_connector()


@contextmanager
def attached(user: User, volume: str, properties: dict[str, Any]) -> Iterator[Path]:
    """A volume attached to this host by Cinder's attachments and os-brick, as a file."""
    storage = user.cloud.block_storage
    attachment = storage.create_attachment(volume, connector=properties)
    try:
        data = dict(attachment.connection_info)
        connector = brick.InitiatorConnector.factory(data["driver_volume_type"], "sudo")
        device = connector.connect_volume(data)
        try:
            yield Path(device["path"])
        finally:
            connector.disconnect_volume(data, device)
    finally:
        storage.delete_attachment(attachment.id)


def live(user: User, made: Made, properties: dict[str, Any], number: int) -> None:
    """The whole life of one volume."""
    volume = made.volume(availability_zone=ZONES[number % len(ZONES)].name)
    pattern = os.urandom(BLOCK_BYTES)
    for attempt in ("write", "read"):
        with attached(user, volume, properties) as path, path.open("r+b") as file:
            if attempt == "write":
                file.write(pattern)
                file.flush()
                os.fsync(file.fileno())
            else:
                assert file.read(BLOCK_BYTES) == pattern
        user.wait_volume(volume, "available")
    user.delete_volume(volume)


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("connectors")
def test_fifty_volumes_leave_nothing(made: Made, user: User, nodes: list[NodeView]) -> None:
    before = traces(nodes)
    properties = brick.get_connector_properties(
        "sudo", "127.0.0.1", multipath=False, enforce_multipath=False, host="e2e-host"
    )
    with ThreadPoolExecutor(WORKERS) as pool:
        lives = [pool.submit(live, user, made, properties, number) for number in range(VOLUMES)]
        for one in lives:
            one.result()
    assert traces(nodes) == before
