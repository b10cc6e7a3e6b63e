"""NBD servers under test, behind one interface.

``direct`` and ``edge`` are ours through daemon and CLI, ``edge-tcp`` through an Edge elsewhere that
reaches the engine over TCP; ``serve`` is the engine alone in the plain
binary ``ovs-serve``. ``qemu-nbd`` is a peer: running a suite against it tests the suite.
Nothing falls back from one to another: a server that cannot start is an error.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tests.support.far_edge import FarEdge, listening_node, token_of
from tests.support.node import Node
from tests.support.process import Process, accepts, find_program
from tests.support.sockets import free_port

KINDS = ("direct", "edge", "edge-tcp", "serve", "qemu-nbd")


@dataclass(frozen=True)
class Export:
    """A volume that some server serves: socket, export name, size in bytes."""

    socket: Path
    name: str
    size: int

    @property
    def uri(self) -> str:
        """The NBD URI that nbdinfo, libnbd, qemu and fio understand."""
        return f"nbd+unix:///{quote(self.name)}?socket={self.socket}"


class Server(ABC):
    """Something that serves new, empty volumes over NBD on unix sockets."""

    kind: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close(*details)

    @abstractmethod
    def export(self, size: int) -> Export:
        """Serve a new volume of ``size`` bytes that reads as zeroes."""

    @abstractmethod
    def pids(self) -> list[int]:
        """Return the ids of all processes that serve."""

    @abstractmethod
    def check_alive(self) -> None:
        """Raise ProcessError if a process of the server has ended."""

    @abstractmethod
    def close(self, *details: object) -> None:
        """End the processes and remove what they stored."""


class NodeServer(Server):
    """Our daemon, reached in process (``direct``) or through the Edge process."""

    def __init__(self, *, direct: bool) -> None:
        self.kind = "direct" if direct else "edge"
        self._direct = direct
        self._volumes: dict[Path, str] = {}
        self.node = Node()
        try:
            self.node.start()
        except BaseException as error:
            self.node.__exit__(type(error))
            raise

    def export(self, size: int) -> Export:
        name = f"disk-{len(self._volumes) + 1}"
        self.node.create(name, size)
        socket, export = self.node.attach(name, direct=self._direct)
        self._volumes[socket] = name
        return Export(socket, export, size)

    def volume_of(self, export: Export) -> str:
        """Return the name of the volume behind ``export``."""
        return self._volumes[export.socket]

    def pids(self) -> list[int]:
        return [p.pid for p in (self.node.daemon, self.node.edge) if p is not None]

    def check_alive(self) -> None:
        for process in (self.node.daemon, self.node.edge):
            if process is not None:
                process.wait_until(process.running, "the end of the test")

    def close(self, *details: object) -> None:
        self.node.__exit__(details[0] if details else None)


class FarEdgeServer(Server):
    """Our engine, reached over TCP by an Edge that knows it by its address only."""

    kind = "edge-tcp"

    def __init__(self) -> None:
        self._port = free_port()
        self._volumes: dict[Path, str] = {}
        self.node = listening_node(self._port)
        self._edge: FarEdge | None = None
        try:
            self.node.start_daemon()
            self._edge = FarEdge()
        except BaseException as error:
            self.close(type(error))
            raise

    @property
    def edge(self) -> FarEdge:
        """The Edge elsewhere."""
        assert self._edge is not None
        return self._edge

    def export(self, size: int) -> Export:
        name = f"disk-{len(self._volumes) + 1}"
        uuid = self.node.cli("volume", "create", name, str(size))["uuid"]
        answer = self.edge.attach(name, uuid, token_of(self.node, uuid), self._port)
        assert answer["ok"], answer
        socket = self.edge.socket_of(uuid)
        self._volumes[socket] = name
        return Export(socket, name, size)

    def volume_of(self, export: Export) -> str:
        """Return the name of the volume behind ``export``."""
        return self._volumes[export.socket]

    def pids(self) -> list[int]:
        return [p.pid for p in (self.node.daemon, self.edge.process) if p is not None]

    def check_alive(self) -> None:
        for process in (self.node.daemon, self.edge.process):
            if process is not None:
                process.wait_until(process.running, "the end of the test")

    def close(self, *details: object) -> None:
        if self._edge is not None:
            self._edge.__exit__()
        self.node.__exit__(details[0] if details else None)


class PerVolumeServer(Server):
    """A server that is one process per volume."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ovs-"))
        self._processes: list[Process] = []

    @abstractmethod
    def command(self, folder: Path, size: int, socket: Path) -> list[str]:
        """Return the command that serves a new volume in ``folder`` on ``socket``."""

    def export(self, size: int) -> Export:
        folder = self.root / str(len(self._processes))
        folder.mkdir()
        socket = folder / "nbd.sock"
        command = self.command(folder, size, socket)
        process = Process(self.kind, command, folder / "log")
        self._processes.append(process)
        process.wait_until(lambda: accepts(socket), f"a listener on {socket}")
        return Export(socket, "", size)

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def check_alive(self) -> None:
        for process in self._processes:
            process.wait_until(process.running, "the end of the test")

    def close(self, *_: object) -> None:
        for process in self._processes:
            process.kill9()
        shutil.rmtree(self.root, ignore_errors=True)


class OvsServe(PerVolumeServer):
    """The engine without Python and without a daemon."""

    kind = "serve"

    def command(self, folder: Path, size: int, socket: Path) -> list[str]:
        data = folder / "data"
        data.mkdir()
        program = find_program("ovs-serve")
        return [program, "--dir", str(data), "--size", str(size), "--socket", str(socket)]


class QemuNbd(PerVolumeServer):
    """QEMU's server on a raw file."""

    kind = "qemu-nbd"

    def command(self, folder: Path, size: int, socket: Path) -> list[str]:
        disk = folder / "disk.raw"
        with disk.open("wb") as file:
            file.truncate(size)
        options = ["-t", "-e", "0", "--discard=unmap", "--aio=threads", "-f", "raw"]
        return [find_program("qemu-nbd"), "-k", str(socket), *options, str(disk)]


def open_server(kind: str) -> Server:
    """Start a server of ``kind`` (one of KINDS)."""
    if kind in ("direct", "edge"):
        return NodeServer(direct=kind == "direct")
    if kind == "edge-tcp":
        return FarEdgeServer()
    if kind == "serve":
        return OvsServe()
    if kind == "qemu-nbd":
        return QemuNbd()
    raise ValueError(f"unknown NBD server {kind!r}; the kinds are {', '.join(KINDS)}")
