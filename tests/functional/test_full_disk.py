"""Full disks: writes wait, reads go on, nothing is lost, and the status says what to do.

Each disk is a tmpfs of its own, so the tests need root (as installing does).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import libnbd
from tests.support.disk import disk
from tests.support.node import Node
from tests.support.waiting import wait_until

nbd = libnbd.load()
MIB = 1 << 20


def connect(node: Node) -> Any:
    client = nbd.NBD()
    client.connect_unix(str(node.attach("web1", direct=True)[0]))
    return client


def content(mib: int) -> bytes:
    return bytes([mib % 251 + 1]) * MIB


def findings(node: Node) -> set[str]:
    return {finding["code"] for finding in node.cli("status")["findings"]}


class Writer(threading.Thread):
    """Writes `count` MiB, one after the other, and tells how far it got."""

    def __init__(self, client: Any, count: int) -> None:
        super().__init__(daemon=True)
        self.client, self.count, self.done = client, count, 0
        self.moved = threading.Condition()

    def run(self) -> None:
        for mib in range(self.count):
            self.client.pwrite(content(mib), mib * MIB)
            with self.moved:
                self.done = mib + 1
                self.moved.notify_all()

    def wait_for(self, count: int, seconds: float) -> bool:
        with self.moved:
            return self.moved.wait_for(lambda: self.done >= count, seconds)

    def wait_for_standstill(self) -> int:
        """Returns when nothing was written for 2 s: how much was."""
        before = self.done
        while self.wait_for(before + 1, 2.0):
            before = self.done
        return before


def fill_and_mend(node: Node, code: str, mend: Callable[[], None]) -> None:
    """Writes until writes wait, looks around, mends the disk, and sees everything go on."""
    node.start_daemon()
    node.cli("volume", "create", "web1", "256MiB")
    client = connect(node)
    writer = Writer(client, 200)
    writer.start()
    wait_until(lambda: code in findings(node), f"finding {code}", lambda: node.cli("status"))
    written = writer.wait_for_standstill()
    assert 0 < written < 200, "the disk was not filled"
    reader = connect(node)
    for mib in range(written):
        assert reader.pread(MIB, mib * MIB) == content(mib), f"MiB {mib} while writes wait"
    mend()
    assert writer.wait_for(200, 120.0), f"writes did not go on: {node.cli('status')}"
    writer.join()
    reader.flush()
    for mib in range(200):
        assert reader.pread(MIB, mib * MIB) == content(mib), f"MiB {mib} after mending"
    node.kill9_daemon()
    node.start_daemon()
    again = connect(node)
    for mib in range(200):
        assert again.pread(MIB, mib * MIB) == content(mib), f"MiB {mib} after kill -9"
    assert code not in findings(node)


def test_a_full_write_buffer_makes_writes_wait(tmp_path: Path) -> None:
    buffer = tmp_path / "buffer"
    backend = tmp_path / "backend"
    options = {
        "buffer_dir": str(buffer),
        "backend_dir": str(backend),
        "sco_size": "4MiB",
        "buffer_size": "1GiB",
        "reserve": "8MiB",
    }
    with disk(buffer, 48) as resize_buffer, disk(backend, 16) as resize_backend:

        def mend() -> None:
            resize_backend(1024)
            resize_buffer(512)

        with Node(engine=options) as node:
            fill_and_mend(node, "buffer_full", mend)


def test_a_full_backend_makes_writes_wait(tmp_path: Path) -> None:
    backend = tmp_path / "backend"
    options = {
        "backend_dir": str(backend),
        "sco_size": "4MiB",
        "buffer_size": "32MiB",
        "reserve": "0",
    }
    with disk(backend, 16) as resize, Node(engine=options) as node:
        fill_and_mend(node, "backend_behind", lambda: resize(1024))
