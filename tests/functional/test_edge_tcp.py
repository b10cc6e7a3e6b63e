"""An Edge elsewhere: its guests see pauses, never errors, and every acknowledged write is there."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import libnbd
from tests.support.far_edge import FarEdge, listening_node, token_of
from tests.support.node import Node
from tests.support.sockets import free_port

nbd = libnbd.load()
BLOCK = 4096
BLOCKS = 512


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def node(port: int) -> Iterator[Node]:
    with listening_node(port) as made:
        made.start_daemon()
        yield made


@pytest.fixture
def far() -> Iterator[FarEdge]:
    with FarEdge() as made:
        yield made


def connect(path: Path) -> Any:
    client = nbd.NBD()
    client.connect_unix(str(path))
    return client


class Guest:
    """Writes numbered blocks one after the other, and remembers which were acknowledged."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._stop = threading.Event()
        self._acknowledged: dict[int, int] = {}
        self._count = 0
        self._moved = threading.Condition()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                number = self._count + 1
                self._client.pwrite(number.to_bytes(8, "little") * (BLOCK // 8), self._at(number))
                with self._moved:
                    self._acknowledged[self._at(number)] = number
                    self._count = number
                    self._moved.notify_all()
        except Exception as failure:
            with self._moved:
                self._failure = failure
                self._moved.notify_all()

    @staticmethod
    def _at(number: int) -> int:
        return number * 7 % BLOCKS * BLOCK

    def wait_for_more(self, count: int) -> None:
        """Return when so many more writes were acknowledged."""
        with self._moved:
            wanted = self._count + count
            reached = self._moved.wait_for(lambda: self._failure or self._count >= wanted, 60)
        assert self._failure is None
        assert reached, "nothing is acknowledged any more"

    def finish(self) -> None:
        """Stop, and compare everything with what was acknowledged."""
        self._stop.set()
        self._thread.join()
        assert self._failure is None
        for at, number in self._acknowledged.items():
            assert self._client.pread(BLOCK, at) == number.to_bytes(8, "little") * (BLOCK // 8)


def attached(node: Node, far: FarEdge, *ports: int) -> tuple[str, Guest]:
    uuid = node.cli("volume", "create", "web1", str(BLOCKS * BLOCK))["uuid"]
    assert far.attach("web1", uuid, token_of(node, uuid), *ports)["ok"]
    return uuid, Guest(connect(far.socket_of(uuid)))


def test_a_guest_outlives_an_engine_elsewhere(node: Node, far: FarEdge, port: int) -> None:
    _, guest = attached(node, far, port)
    for _ in range(3):
        guest.wait_for_more(200)
        node.restart_daemon()
    guest.wait_for_more(200)
    guest.finish()


def test_a_volume_is_followed_to_its_next_owner(node: Node, far: FarEdge, port: int) -> None:
    uuid, guest = attached(node, far, port)
    guest.wait_for_more(200)
    node.stop()
    other = free_port()
    paths = {"state_dir": str(node.root / "state")}
    heir = Node(
        engine={"backend_dir": str(node.root / "backend")},
        options={"DEFAULT": paths, "edge": {"listen": f"127.0.0.1:{other}"}},
    )
    with heir:
        heir.start_daemon()
        far.retarget(uuid, token_of(node, uuid), other, port)
        guest.wait_for_more(200)
        guest.finish()
        (served,) = far.ask({"op": "list"})["volumes"]
        assert (served["state"], served["target"]) == ("serving", f"127.0.0.1:{other}")


class Cable:
    """A connection between the Edge and a port that can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._guard = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._whole = True
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Both ends see their connections break, in the middle of whatever they sent."""
        with self._guard:
            self._whole = False
            for one in (end for pair in self._pairs for end in pair):
                one.close()
            self._pairs.clear()

    def mend(self) -> None:
        with self._guard:
            self._whole = True

    def close(self) -> None:
        self._ends = True
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self.cut()
        self._listener.close()

    def _run(self) -> None:
        while not self._ends:
            with self._guard:
                pairs = list(self._pairs)
            ends = {one: other for a, b in pairs for one, other in ((a, b), (b, a))}
            try:
                ready, _, _ = select.select([self._listener, *ends], [], [], 0.05)
            except (OSError, ValueError):
                continue
            for one in ready:
                if one is self._listener:
                    self._accept()
                else:
                    self._pass(one, ends[one])

    def _accept(self) -> None:
        taken, _ = self._listener.accept()
        with self._guard:
            if not self._whole or self._ends:
                taken.close()
                return
            with contextlib.suppress(OSError):
                self._pairs.append((taken, socket.create_connection(("127.0.0.1", self._to))))
                return
            taken.close()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            data = one.recv(1000)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        with self._guard:
            self._pairs = [pair for pair in self._pairs if one not in pair]
        one.close()
        other.close()


def test_a_network_that_is_cut_is_a_pause(node: Node, far: FarEdge, port: int) -> None:
    cable = Cable(port)
    try:
        _, guest = attached(node, far, cable.port)
        for _ in range(5):
            guest.wait_for_more(50)
            cable.cut()
            cable.mend()
        guest.wait_for_more(50)
        guest.finish()
    finally:
        cable.close()


def test_tokens_say_who_may_attach_what(node: Node, far: FarEdge, port: int) -> None:
    uuid = node.cli("volume", "create", "web1", "16MiB")["uuid"]
    other = node.cli("volume", "create", "web2", "16MiB")["uuid"]
    for token, why in (
        (None, "without an attach token"),
        (token_of(node, other), "not signed"),
        ("00" * 63 + "01", "token version"),
        (token_of(node, uuid, may_write=False), "reading only"),
    ):
        answer = far.attach("web1", uuid, token, port)
        assert not answer["ok"]
        assert answer["error"]["code"] == "bad_token", answer
        assert why in answer["error"]["why"] or "limits" in answer["error"]["why"], answer
    assert "refused" in (node.root / "daemon.log").read_text()
    assert far.attach("web1", uuid, token_of(node, uuid), port)["ok"]


def test_bytes_that_make_no_sense_harm_nobody(node: Node, far: FarEdge, port: int) -> None:
    _, guest = attached(node, far, port)
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"OVSE" + b"\xff" * 100, b"\0" * 64, b""):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(nonsense)
            stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(60)
            while stranger.recv(4096):
                pass
    guest.wait_for_more(50)
    guest.finish()
