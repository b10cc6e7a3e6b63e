"""Every test here runs against each server of OVS_NBD_SERVERS (default: direct, edge
and edge-tcp).

``OVS_NBD_SERVERS=qemu-nbd pytest tests/conformance`` runs the suite against a peer: that is how the
suite itself was tried. (qemu-nbd 7.2 fails two: it answers EINVAL to writes and zeroes beyond the
end, where the protocol says ENOSPC.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.nbdwire import Wire
from tests.support.server import Export, Server, open_server

DISK_BYTES = 256 << 20
KINDS = os.environ.get("OVS_NBD_SERVERS", "direct,edge,edge-tcp").split(",")


@pytest.fixture(scope="session", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running server; it must still run when all tests are through."""
    with open_server(request.param) as running:
        yield running
        running.check_alive()


@pytest.fixture(scope="module")
def disk(server: Server) -> Export:
    """A volume of 256 MiB shared by the tests of a module."""
    return server.export(DISK_BYTES)


@pytest.fixture
def fresh(server: Server) -> Callable[[int], Export]:
    """Give new volumes that read as zeroes."""
    return server.export


@pytest.fixture
def wire(disk: Export) -> Iterator[Wire]:
    """A raw connection before the greeting."""
    with Wire(disk.socket) as connection:
        yield connection


@pytest.fixture
def bystander(server: Server, disk: Export) -> Iterator[Wire]:
    """An innocent connection to the same volume: whatever the test does, it must go on."""
    with Wire(disk.socket) as connection:
        connection.go(disk.name)
        yield connection
        connection.read(0, 4096)
        server.check_alive()
