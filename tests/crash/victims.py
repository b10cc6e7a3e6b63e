"""What gets killed: a server with one volume that can be killed and started again."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from tests.support.node import CliError, Node
from tests.support.process import Process, ProcessError, accepts, find_program

VOLUME = "victim"
# As small as can be: every round closes, uploads, evicts and compacts SCOs, takes checkpoints and
# meets the throttle, and the kill falls into all of it.
ENGINE_OPTIONS = {
    "sco_size": str(1 << 20),
    "buffer_size": str(8 << 20),
    "checkpoint_scos": "2",
    "compaction_rate": str(256 << 20),
}


class Victim(ABC):
    """One volume behind processes that die."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close(*details)

    @abstractmethod
    def endpoint(self) -> tuple[Path, str]:
        """Return the NBD socket and the export name; the server serves when this returns."""

    @abstractmethod
    def kill9(self) -> None:
        """Kill the process that holds the engine."""

    @abstractmethod
    def start(self, *, wait: bool = True) -> None:
        """Start it again; with ``wait`` until it serves."""

    @abstractmethod
    def logs(self) -> str:
        """Return the ends of the logs."""

    @abstractmethod
    def close(self, *details: object) -> None:
        """End everything and remove what was stored."""


class NodeVictim(Victim):
    """Our node; ``direct`` serves the volume from the daemon, else the Edge stands between."""

    def __init__(self, size: int, *, direct: bool) -> None:
        self.direct = direct
        self.node = Node(ENGINE_OPTIONS)
        try:
            self.node.start()
            self.node.create(VOLUME, size)
        except BaseException as error:
            self.node.__exit__(type(error))
            raise

    def endpoint(self) -> tuple[Path, str]:
        self.node.wait_for_daemon()
        return self.node.attach(VOLUME, direct=self.direct)

    def kill9(self) -> None:
        self.node.kill9_daemon()

    def start(self, *, wait: bool = True) -> None:
        self.node.start_daemon(wait=wait)

    def kill9_everything(self) -> None:
        """Kill daemon and Edge."""
        self.node.kill9_daemon()
        self.node.kill9_edge()

    def start_everything(self) -> None:
        """Start daemon and Edge."""
        self.node.start()

    def drain(self) -> None:
        """End Edge and daemon with SIGTERM."""
        self.node.stop()

    def logs(self) -> str:
        try:
            status = json.dumps(self.node.cli("status"))
        except (CliError, ProcessError, OSError, subprocess.TimeoutExpired) as error:
            status = str(error)
        return f"status: {status}\n{self.node.tails()}"

    def close(self, *details: object) -> None:
        self.node.__exit__(details[0] if details else None)


class PeerVictim(Victim):
    """qemu-nbd on a raw file: shows that the suite lets a correct server pass.

    ``forgetful`` starts it with ``--snapshot``: a server that acknowledges and then forgets, which
    the suite must catch.
    """

    def __init__(self, size: int, *, forgetful: bool) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ovs-"))
        self.disk = self.root / "disk.raw"
        with self.disk.open("wb") as file:
            file.truncate(size)
        self._options = ["--snapshot"] if forgetful else []
        self._process: Process | None = None
        self.start()

    def endpoint(self) -> tuple[Path, str]:
        return self.root / "nbd.sock", ""

    def kill9(self) -> None:
        if self._process is not None:
            self._process.kill9()

    def start(self, *, wait: bool = True) -> None:
        socket, _ = self.endpoint()
        socket.unlink(missing_ok=True)
        command = [find_program("qemu-nbd"), "-k", str(socket), "-t", "-e", "0", "-f", "raw"]
        command += ["--discard=unmap", *self._options, str(self.disk)]
        self._process = Process("qemu-nbd", command, self.root / "log")
        if wait:
            self._process.wait_until(lambda: accepts(socket), f"a listener on {socket}")

    def logs(self) -> str:
        return self._process.tail() if self._process is not None else ""

    def close(self, *details: object) -> None:
        self.kill9()
        shutil.rmtree(self.root, ignore_errors=True)
