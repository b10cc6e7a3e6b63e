"""Daemon and Edge as separate processes: whichever is killed, guests go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import libnbd
from tests.support.node import Node, parse_nbd_uri

nbd = libnbd.load()
MIB = 1 << 20


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        made.start()
        yield made


def attach(node: Node, name: str) -> Any:
    return connect(parse_nbd_uri(node.cli("volume", "attach", name)["uri"])[0])


def connect(socket: Path) -> Any:
    client = nbd.NBD()
    client.connect_unix(str(socket))
    return client


def test_a_guest_outlives_its_engine(node: Node) -> None:
    node.cli("volume", "create", "web1", "64MiB")
    client = attach(node, "web1")
    client.pwrite(b"a" * 4096, 0)
    node.kill9_daemon()
    written = threading.Event()

    def write() -> None:
        client.pwrite(b"b" * 4096, 4096)
        written.set()

    guest = threading.Thread(target=write, daemon=True)
    guest.start()
    node.start_daemon()
    assert written.wait(60)
    guest.join()
    assert client.pread(8192, 0) == b"a" * 4096 + b"b" * 4096
    assert node.cli("volume", "show", "web1")["attached"] == "edge"


def test_an_edge_that_was_killed_serves_again(node: Node) -> None:
    node.cli("volume", "create", "web1", "64MiB")
    client = attach(node, "web1")
    client.pwrite(b"a" * 4096, 0)
    client.flush()
    node.kill9_edge()
    assert node.cli("volume", "show", "web1")["attached"] == "edge"
    node.start_edge()
    again = attach(node, "web1")
    assert again.pread(4096, 0) == b"a" * 4096


def test_all_are_killed_and_all_come_back(node: Node) -> None:
    node.cli("volume", "create", "web1", "64MiB")
    client = attach(node, "web1")
    client.pwrite(b"a" * 4096, 0)
    client.flush()
    node.kill9_edge()
    node.kill9_daemon()
    node.start()
    again = attach(node, "web1")
    assert again.pread(4096, 0) == b"a" * 4096
    assert node.cli("status")["findings"] == []


def test_the_guests_socket_has_its_mode(node: Node) -> None:
    node.cli("volume", "create", "web1", "64MiB")
    socket = Path(node.cli("volume", "attach", "web1")["socket"])
    assert socket.stat().st_mode & 0o777 == 0o660
    node.cli("volume", "detach", "web1")
    assert not socket.exists()


def test_templates_are_read_only_through_the_edge(node: Node) -> None:
    node.cli("volume", "create", "gold", "64MiB")
    node.cli("volume", "set", "--template", "gold")
    uri = node.cli("volume", "attach", "gold", "--read-only")["uri"]
    client = connect(parse_nbd_uri(uri)[0])
    assert client.is_read_only()


def test_status_misses_an_edge_with_guests(node: Node) -> None:
    node.cli("volume", "create", "web1", "64MiB")
    attach(node, "web1")
    node.kill9_edge()
    node.restart_daemon()
    (finding,) = node.cli("status")["findings"]
    assert (finding["code"], finding["severity"]) == ("edge_unavailable", "critical")
