"""The Edge's control connection against a stand-in on a real unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ovs_daemon.edge import EdgeClient, EdgeUnavailable, Serving
from ovs_daemon.errors import VStorageError

Answer = Callable[[dict[str, Any]], bytes]


class ToyEdge:
    """Answers each line by ``answer``; an empty answer closes the connection."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.requests: list[dict[str, Any]] = []
        self.connections = 0
        self._answer = answer
        self._path = path
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._open:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        for line in connection.makefile("rb"):
            request = json.loads(line)
            self.requests.append(request)
            reply = self._answer(request)
            if not reply:
                connection.shutdown(socket.SHUT_RDWR)
                return
            # In two pieces: a reader must not count on whole lines.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(reply[:3])
                connection.sendall(reply[3:])


def fine(request: dict[str, Any]) -> bytes:
    volumes = [{"volume": "u1", "state": "ready"}] if request["op"] == "list" else []
    return json.dumps({"ok": True, "volumes": volumes}).encode() + b"\n"


@pytest.fixture
def path() -> Iterator[Path]:
    with TemporaryDirectory(prefix="ovs-") as folder:
        yield Path(folder) / "edge.sock"


def attach(client: EdgeClient) -> None:
    client.attach(
        Serving(
            uuid="u1",
            name="web1",
            socket="/run/x.sock",
            file=None,
            owner="107:107",
            mode=0o660,
            read_only=False,
            drop_on_resize=True,
        )
    )


def test_requests_as_agreed(path: Path) -> None:
    edge = ToyEdge(path, fine)
    client = EdgeClient(path)
    attach(client)
    client.drop_connections("u1")
    assert not client.detach("u1"), "an Edge of an earlier release does not say"
    client.ping()
    assert client.attached() == {"u1"}
    assert edge.requests == [
        {
            "op": "attach",
            "volume": "u1",
            "name": "web1",
            "socket": "/run/x.sock",
            "file": None,
            "owner": "107:107",
            "mode": 432,
            "read_only": False,
            "drop_on_resize": True,
        },
        {"op": "drop", "volume": "u1"},
        {"op": "detach", "volume": "u1"},
        {"op": "ping"},
        {"op": "list"},
    ]
    assert edge.connections == 1
    client.close()
    edge.stop()


def test_a_refusal_is_the_edges_own(path: Path) -> None:
    error = {
        "code": "unknown_volume",
        "what": "attach volume u1",
        "why": "no such",
        "fix": "create",
    }
    edge = ToyEdge(path, lambda _: json.dumps({"ok": False, "error": error}).encode() + b"\n")
    client = EdgeClient(path)
    with pytest.raises(VStorageError) as caught:
        attach(client)
    assert caught.value.to_dict() == error
    assert not client.detach("u1"), "an earlier life of it may have left writes behind"
    client.close()
    edge.stop()


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_detach_says_whether_all_has_ended(path: Path, confirmed: bool) -> None:
    answer = {"ok": True, "confirmed": confirmed}
    edge = ToyEdge(path, lambda _: json.dumps(answer).encode() + b"\n")
    client = EdgeClient(path)
    assert client.detach("u1") is confirmed
    client.close()
    edge.stop()


def test_nobody_there(path: Path) -> None:
    client = EdgeClient(path)
    with pytest.raises(EdgeUnavailable) as caught:
        client.ping()
    assert caught.value.gone
    assert str(path) in caught.value.why


def test_a_restarted_edge_is_found_again(path: Path) -> None:
    first = ToyEdge(path, fine)
    client = EdgeClient(path)
    assert not client.reachable
    client.ping()
    assert client.reachable
    first.stop()
    with pytest.raises(EdgeUnavailable) as caught:
        client.ping()
    assert caught.value.gone
    assert not client.reachable
    second = ToyEdge(path, fine)
    client.ping()
    client.close()
    second.stop()


def test_restarted_between_two_requests(path: Path) -> None:
    first = ToyEdge(path, fine)
    client = EdgeClient(path)
    client.ping()
    first.stop()
    second = ToyEdge(path, fine)
    client.ping()
    assert second.requests == [{"op": "ping"}]
    client.close()
    second.stop()


@pytest.mark.parametrize("reply", [b"", b"garbage\n", b"[]\n", b"\xff\n"])
def test_nonsense_is_an_edge_that_does_not_work(path: Path, reply: bytes) -> None:
    edge = ToyEdge(path, lambda _: reply)
    client = EdgeClient(path)
    with pytest.raises(EdgeUnavailable):
        client.ping()
    client.close()
    edge.stop()


def test_threads_do_not_mix_their_answers(path: Path) -> None:
    edge = ToyEdge(path, fine)
    client = EdgeClient(path)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(50):
            client.ping()
            if client.attached() != {"u1"}:
                wrong.append("mixed")

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert edge.connections == 1
    client.close()
    edge.stop()
