"""Hosts that attach: os-brick's connector with a real daemon and Edge."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from os_brick import exception
from os_brick.initiator import connector as brick

from ovs_nova.connector import OvsConnector
from tests.support.attaching import MIB, attaching_node, client, create
from tests.support.node import Node

AT_ONCE = 50


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    with attaching_node(monkeypatch) as made:
        yield made


def make(**more: Any) -> Any:
    return brick.InitiatorConnector.factory("ovs", None, **more)


def left(node: Node) -> dict[str, Any]:
    """All that attachments leave while they are there."""
    assert node.edge is not None
    with client(node) as control:
        volumes = control.list_volumes(everything=True)
    return {
        "sockets": sorted(os.listdir(node.run_dir / "nbd")),
        "files": sorted(os.listdir(node.run_dir / "volumes")),
        "mounts": node.mounts(),
        "records": [(one["name"], one["attachments"]) for one in volumes if one["attachments"]],
        "processes": Path(f"/proc/{node.edge.pid}/task/{node.edge.pid}/children").read_text(),
    }


def test_a_copy_attaches_extends_and_detaches(node: Node) -> None:
    before = left(node)
    data = create(node, "web1")
    device = make().connect_volume(data)
    path = Path(device["path"])
    path.write_bytes(b"a" * 4096)
    assert make().check_valid_device(device["path"])
    with client(node) as control:
        control.resize_volume("web1", 128 * MIB)
    assert make().extend_volume(data) == path.stat().st_size == 128 * MIB
    assert make().get_all_available_volumes() == [str(path)]
    make().disconnect_volume(data, device)
    make().disconnect_volume(data, device)
    assert left(node) == before


def test_many_at_once_leave_nothing(node: Node) -> None:
    before = left(node)

    def whole_life(number: int) -> None:
        data = create(node, f"v{number}")
        copy, guest = make(), make(holder="nova-compute@h1", attach_as="nbd")
        device = copy.connect_volume(data)
        assert guest.connect_volume(data)["type"] == "socket"
        with open(device["path"], "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), bytes([number]) * 8192, 4096)
            assert os.pread(file.fileno(), 1, 8192) == bytes([number])
        copy.disconnect_volume(data, device)
        guest.disconnect_volume(data)
        with client(node) as control:
            assert control.delete_volume(f"v{number}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(whole_life, range(AT_ONCE)))
    assert left(node) == before


@pytest.mark.parametrize("victim", ["daemon", "edge"])
def test_a_process_killed_while_others_attach(node: Node, victim: str) -> None:
    """Whatever fails, a repetition succeeds and leaves nothing."""
    before = left(node)
    every = [create(node, f"v{number}") for number in range(8)]
    stop = threading.Event()

    def hammer(data: dict[str, Any]) -> None:
        mine = make(holder="nova-compute@h1", attach_as="nbd")
        while not stop.is_set():
            with contextlib.suppress(exception.BrickException):
                mine.connect_volume(data)
                mine.disconnect_volume(data)

    workers = [threading.Thread(target=hammer, args=(data,), daemon=True) for data in every]
    for worker in workers:
        worker.start()
    try:
        for _ in range(3):
            if victim == "daemon":
                node.restart_daemon()
            else:
                node.kill9_edge()
                node.start_edge()
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    for data in every:
        mine = make(holder="nova-compute@h1", attach_as="nbd")
        mine.connect_volume(data)
        mine.disconnect_volume(data)
    assert left(node) == before


def test_a_daemon_that_restarts_is_waited_for(node: Node) -> None:
    data = create(node, "web1")
    known = OvsConnector.get_connector_properties(None)
    assert known["ovs"]["nodes"] == [data["node"]]
    node.kill9_daemon()
    assert OvsConnector.get_connector_properties(None) == known
    with ThreadPoolExecutor(1) as pool:
        attached = pool.submit(make().connect_volume, data)
        node.start_daemon()
        device = attached.result()
    make().disconnect_volume(data, device)
