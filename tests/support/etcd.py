"""A real etcd of one member, and a carrier in front of it that loses, delays and cuts."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from tests.support.process import Process, find_program
from tests.support.sockets import free_port

Fate = str
_SERVES = b"serving client traffic"


class Etcd:
    """One member that can be killed and started again on its data.

    :param host: the address that it listens on
    :param inside: put before the program's name, when that address is not one of this machine
    :param operations_max: in one transaction
    """

    def __init__(
        self, host: str = "127.0.0.1", inside: Sequence[str] = (), operations_max: int = 4096
    ) -> None:
        self._operations_max = operations_max
        self.folder = Path(tempfile.mkdtemp(prefix="ovs-etcd-"))
        self._log = self.folder / "log"
        self._host, self._inside = host, tuple(inside)
        self.port, self._peer_port = free_port(), free_port()
        self._process: Process | None = None
        try:
            self.start()
        except BaseException:
            # Nobody has it yet who could end it.
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, prefix: str, *, port: int | None = None, timeout_s: float = 30.0) -> str:
        """A registry's url, perhaps through another port."""
        return f"etcd://{self._host}:{port or self.port}/{prefix}?timeout={timeout_s}"

    def start(self) -> None:
        """Start it; returns when it answers."""
        client, peer = (f"http://{self._host}:{port}" for port in (self.port, self._peer_port))
        options = {
            "data-dir": str(self.folder / "data"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "max-txn-ops": str(self._operations_max),
            "logger": "zap",
        }
        options_given = (f"--{key}={value}" for key, value in options.items())
        command = [*self._inside, find_program("etcd"), *options_given]
        before = self._times_ready()
        self._process = Process("etcd", command, self._log)
        if self._inside:
            # It cannot be asked from here, and says itself when it serves.
            ready = f"another line {_SERVES!r} in its log"
            self._process.wait_until(lambda: self._times_ready() > before, ready)
        else:
            self._process.wait_until(self._healthy, f"an answer on port {self.port}")

    def kill9(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill9()

    def compact(self, revision: int) -> None:
        """Forget the history up to a revision."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("POST", "/v3/kv/compaction", json.dumps({"revision": revision}))
        assert connection.getresponse().status == 200
        connection.close()

    def _times_ready(self) -> int:
        return self._log.read_bytes().count(_SERVES) if self._log.exists() else 0

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request("GET", "/health")
            return b'"true"' in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Carrier:
    """Stands between clients and etcd; ``decide`` says what becomes of each request.

    * ``pass``: it is carried there and back;
    * ``lose_request``: etcd never sees it;
    * ``lose_answer``: etcd performs it, the client hears nothing;
    * ``delay``: the client hears nothing, and etcd gets it when :meth:`deliver` is called.
    """

    def __init__(self, etcd: Etcd, decide: Callable[[str, bytes], Fate]) -> None:
        self._etcd = etcd
        self._decide = decide
        self._delayed: list[tuple[str, bytes]] = []
        carrier = self

        class Handler(BaseHTTPRequestHandler):
            """One connection carries one request."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = carrier._carry(self.path, body)
                self.close_connection = True
                if answer is not None:
                    self.send_response(answer[0])
                    self.send_header("Content-Length", str(len(answer[1])))
                    self.end_headers()
                    self.wfile.write(answer[1])

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def deliver(self) -> list[bytes]:
        """Hand over what was delayed; returns etcd's answers."""
        delayed, self._delayed = self._delayed, []
        return [self._forward(path, body)[1] for path, body in delayed]

    def _carry(self, path: str, body: bytes) -> tuple[int, bytes] | None:
        match self._decide(path, body):
            case "lose_request":
                return None
            case "lose_answer":
                self._forward(path, body)
                return None
            case "delay":
                self._delayed.append((path, body))
                return None
        return self._forward(path, body)

    def _forward(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd.port)
        connection.request("POST", path, body)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer


@contextlib.contextmanager
def running() -> Iterator[Etcd]:
    """An etcd for as long as the context lasts."""
    with Etcd() as etcd:
        yield etcd
