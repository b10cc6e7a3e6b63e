"""Fifty volumes at once, each created, attached to this host, written to, detached and deleted."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.openstack.conftest import Made
from tests.openstack.host_side import HostSide
from tests.openstack.lab.layout import ZONES
from tests.openstack.nodes import NodeView, traces, traces_in_the_end
from tests.openstack.user import User

VOLUMES = 50
WORKERS = 10
BLOCK_BYTES = 1 << 16


def live(user: User, made: Made, host: HostSide, number: int) -> None:
    """The whole life of one volume."""
    volume = made.volume(availability_zone=ZONES[number % len(ZONES)].name)
    pattern = os.urandom(BLOCK_BYTES)
    with host.attached(volume) as path, path.open("r+b") as file:
        file.write(pattern)
        file.flush()
        os.fsync(file.fileno())
    with host.attached(volume) as path, path.open("rb") as file:
        assert file.read(BLOCK_BYTES) == pattern
    user.delete_volume(volume)


@pytest.mark.timeout(1800)
def test_fifty_volumes_leave_nothing(
    made: Made, user: User, host: HostSide, nodes: list[NodeView]
) -> None:
    before = traces(nodes)
    with ThreadPoolExecutor(WORKERS) as pool:
        lives = [pool.submit(live, user, made, host, number) for number in range(VOLUMES)]
        for one in lives:
            one.result()
    assert traces_in_the_end(nodes, before) == before
