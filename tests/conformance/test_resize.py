"""A grown volume is seen by the next connection; an old one keeps its size and goes on."""

from __future__ import annotations

import pytest

from tests.support import nbdwire as nbd
from tests.support.nbdwire import Wire
from tests.support.server import NodeServer, Server

MIB = 1 << 20


def test_growth_is_seen_by_new_connections(server: Server) -> None:
    if not isinstance(server, NodeServer):
        pytest.skip(f"{server.kind} has no resize verb")
    export = server.export(16 * MIB)
    with Wire(export.socket) as old:
        old.go(export.name)
        assert old.command(nbd.NBD_CMD_WRITE, 16 * MIB - 512, 512, data=b"\x21" * 512) == 0
        server.node.cli("volume", "resize", server.volume_of(export), str(48 * MIB))
        with Wire(export.socket) as new:
            new.go(export.name)
            assert new.size == 48 * MIB
            assert new.read(16 * MIB - 512, 1024) == b"\x21" * 512 + bytes(512)
            assert new.command(nbd.NBD_CMD_WRITE, 48 * MIB - 512, 512, data=b"\x22" * 512) == 0
            assert new.command(nbd.NBD_CMD_READ, 48 * MIB, 512) == nbd.NBD_EINVAL
        assert old.read(16 * MIB - 512, 512) == b"\x21" * 512
