"""The control connection to the Edge process: one JSON object a line, one answer a request."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs_daemon.errors import Code, VStorageError

_TIMEOUT_S = 30.0


class EdgeUnavailable(VStorageError):
    """The Edge process did not answer.

    :param gone: True when nobody listens: its guests' sockets are gone with it
    """

    def __init__(self, what: str, path: Path, why: str, gone: bool) -> None:
        super().__init__(
            Code.EDGE_UNAVAILABLE,
            what,
            f"the Edge process does not answer on {path} ({why})",
            "start vstorage-edge with the same run directory, or attach with --direct",
        )
        self.gone = gone


@dataclass(frozen=True)
class Where:
    """Where the Edge finds a volume.

    :param targets: ("shm", socket) or ("tcp", "ADDRESS:PORT"), the likeliest first; empty: the
        engine of this host
    :param token: attach token in hexadecimal digits, for targets over TCP
    :param host: the host for which the token was made
    :param epoch: no engine with an older one owns the volume; 0: nothing is known
    """

    targets: tuple[tuple[str, str], ...] = ()
    token: str | None = None
    host: str = ""
    epoch: int = 0

    def fields(self) -> dict[str, Any]:
        """As the Edge's requests have it."""
        return {
            "targets": [{kind: place} for kind, place in self.targets],
            "token": self.token,
            "host": self.host,
            "epoch": self.epoch,
        }

    def describe(self) -> str:
        """For the log; the token is nobody's business."""
        places = " or ".join(place for _, place in self.targets) or "this host's engine"
        return f"{places}, epoch {self.epoch}"


@dataclass(frozen=True)
class Serving:
    """What the Edge is to do for a volume.

    :param socket: where guests connect over NBD; None: not over NBD
    :param file: where the volume appears as a file; None: not as a file
    :param owner: "uid:gid" of socket and file, None to leave it
    :param mode: their permission bits
    :param drop_on_resize: close guests' connections when the size changes
    :param where: who serves it to the Edge
    """

    uuid: str
    name: str
    socket: str | None
    file: str | None
    owner: str | None
    mode: int
    read_only: bool
    drop_on_resize: bool
    where: Where = Where()


class EdgeClient:
    """Asks the Edge process to serve volumes to guests. Calls are serialized; any thread may call.

    :param path: the Edge's control socket
    """

    #: whether the Edge answered last time
    reachable = False
    #: what it said to the last ping of its release, empty if it tells none; None: it is not there
    release: str | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._received = b""

    def attach(self, serving: Serving) -> None:
        """Serve a volume; repeating it is harmless, and in another way changes what differs."""
        self._call(
            f"attach volume {serving.name!r}",
            {
                "op": "attach",
                "volume": serving.uuid,
                "name": serving.name,
                "socket": serving.socket,
                "file": serving.file,
                "owner": serving.owner,
                "mode": serving.mode,
                "read_only": serving.read_only,
                "drop_on_resize": serving.drop_on_resize,
                **(serving.where.fields() if serving.where.targets else {}),
            },
        )

    def retarget(self, uuid: str, where: Where) -> None:
        """Have a volume found elsewhere from now on; its guests see a pause at most."""
        request = {"op": "retarget", "volume": uuid, **where.fields()}
        self._call(f"tell where volume {uuid} is", request)

    def drop_connections(self, uuid: str) -> None:
        """Close the connections of a volume's guests over NBD; they may connect again."""
        self._call(f"reconnect volume {uuid}", {"op": "drop", "volume": uuid})

    def detach(self, uuid: str) -> bool:
        """Stop serving a volume and remove its socket; one not served is fine.

        :returns: whether it is certain that nothing that its guests had asked for can change the
            volume any more. It is not when the engine does not say so, nor when this Edge does not
            serve the volume: an earlier life of it may have, and left writes behind
        """
        try:
            answer = self._call(f"detach volume {uuid}", {"op": "detach", "volume": uuid})
        except VStorageError as failure:
            if not failure.code.startswith("unknown_"):
                raise
            return False
        # An Edge of an earlier release says that it is done also where it has given up waiting.
        return answer.get("confirmed") is True

    def attached(self) -> set[str]:
        """The volumes (UUID) that the Edge has attached."""
        return {str(one["volume"]) for one in self.sessions()}

    def sessions(self) -> list[dict[str, Any]]:
        """Of each volume that the Edge has attached: volume, name, state, in_flight and so on."""
        answer = self._call("list the Edge's volumes", {"op": "list"})
        volumes: list[dict[str, Any]] = answer["volumes"]
        return volumes

    def ping(self) -> None:
        """Return if the Edge answers; raises :class:`EdgeUnavailable` if not."""
        self.release = self._asked_release()

    def _asked_release(self) -> str | None:
        try:
            return str(self._call("reach the Edge", {"op": "ping"}).get("release", ""))
        except VStorageError:
            self.release = None
            raise

    def close(self) -> None:
        """Drop the connection; the next call makes a new one."""
        with self._lock:
            self._drop()

    def _call(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            try:
                answer = self._exchange(what, request)
                self.reachable = True
            except EdgeUnavailable:
                self.reachable = False
                raise
        if not answer.get("ok"):
            error = VStorageError.from_dict(answer.get("error", {}))
            raise VStorageError.from_native(error.code, error.what, error.why, error.fix)
        return answer

    def _exchange(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        """Send on the connection at hand; if the Edge was restarted since, on a new one."""
        line = json.dumps(request).encode() + b"\n"
        reused = self._socket is not None
        try:
            return self._exchange_once(line)
        except (OSError, ValueError) as failure:
            self._drop()
            timed_out = isinstance(failure, TimeoutError)
            if not reused or timed_out:
                raise self._unavailable(what, failure) from failure
        try:
            return self._exchange_once(line)
        except (OSError, ValueError) as failure:
            self._drop()
            raise self._unavailable(what, failure) from failure

    def _exchange_once(self, line: bytes) -> dict[str, Any]:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.connect(str(self._path))
        self._socket.sendall(line)
        while b"\n" not in self._received:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionResetError("it closed the connection")
            self._received += chunk
        answer_line, _, self._received = self._received.partition(b"\n")
        answer = json.loads(answer_line)
        if not isinstance(answer, dict):
            raise ValueError("its answer is not a JSON object")
        return answer

    def _unavailable(self, what: str, failure: Exception) -> EdgeUnavailable:
        gone = isinstance(failure, FileNotFoundError | ConnectionError)
        return EdgeUnavailable(what, self._path, str(failure), gone)

    def _drop(self) -> None:
        self._received = b""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None
