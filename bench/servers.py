"""The servers that are measured: ours, ours behind the Edge process, qemu-nbd, nbdkit.

Each serves one volume from a directory of its own, on a unix socket, and is started anew for every
round, so that no round inherits another's fragmentation.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tests.support.process import Process, accepts, find_program
from tests.support.sockets import ask

REPOSITORY = Path(__file__).resolve().parent.parent
CLOCK_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PINNED_CPU = 0


class BenchError(Exception):
    """A measurement could not be made; nothing stands in for its figure."""


def release_binary(name: str) -> str:
    """Return the path of our release build of ``name``; raise BenchError if it is not built."""
    target = os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "ovs_daemon" / "native" / "target")
    path = Path(target) / "release" / name
    if not path.exists():
        raise BenchError(
            f"{path} does not exist; build it with `cargo build --release --manifest-path "
            "ovs_daemon/native/Cargo.toml`"
        )
    return str(path)


def cpu_seconds(pid: int) -> float:
    """Return user + system time of all threads of ``pid``, ended ones included.

    io_uring's kernel workers are threads of the process that owns the ring (Linux 5.12 and later),
    so their time is in it; `check_cpu_accounting` holds the sum over live threads against it.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_SECOND


def check_cpu_accounting(pid: int) -> None:
    """Raise BenchError if threads of ``pid`` used time that the process was not charged for."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_SECOND
    charged = cpu_seconds(pid)
    threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    # Each thread's two figures are rounded on their own.
    if total > charged + 2 * threads / CLOCK_TICKS_PER_SECOND:
        raise BenchError(f"threads of {pid} used {total:.2f} s, the process {charged:.2f} s")


class Server(ABC):
    """A server of one volume of ``size`` bytes in a new directory below ``store``."""

    kind = ""

    def __init__(self, store: Path, size: int, *, pinned: bool) -> None:
        self.size = size
        self.pinned = pinned
        store.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="ovsb-", dir=store))
        # A socket's path is limited to 107 bytes, the store's path is not.
        self.sockets = Path(tempfile.mkdtemp(prefix="ovsb-"))
        self.socket = self.sockets / "nbd.sock"
        self.export = ""
        self.processes: list[Process] = []
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """The NBD URI for fio."""
        return f"nbd+unix:///{quote(self.export)}?socket={self.socket}"

    @abstractmethod
    def start(self) -> None:
        """Start the processes and wait until the socket accepts connections."""

    def launch(self, name: str, command: Sequence[str], listener: Path) -> None:
        """Start one process, on one CPU if pinned, and wait for its listener."""
        prefix = ["taskset", "-c", str(PINNED_CPU)] if self.pinned else []
        process = Process(name, [*prefix, *command], self.folder / f"{name}.log")
        self.processes.append(process)
        process.wait_until(lambda: accepts(listener), f"a listener on {listener}")

    def cpu_seconds(self) -> float:
        """Return what all processes of the server have used so far."""
        for process in self.processes:
            if not process.running():
                raise BenchError(f"{process.name} ended during a run:\n{process.tail()}")
            check_cpu_accounting(process.pid)
        return sum(cpu_seconds(process.pid) for process in self.processes)

    def close(self) -> None:
        """End the processes and remove the directory."""
        for process in reversed(self.processes):
            process.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.sockets, ignore_errors=True)


class Ours(Server):
    """The engine with the NBD front end in its own process."""

    kind = "ours"

    def start(self) -> None:
        data = self.folder / "data"
        data.mkdir()
        command = [release_binary("ovs-serve"), "--dir", str(data), "--size", str(self.size)]
        self.launch("ovs-serve", [*command, "--socket", str(self.socket)], self.socket)

    @property
    def engine_socket(self) -> Path:
        """Where the engine takes Edges."""
        return self.folder / "data" / "run" / "engine.sock"

    @property
    def volume(self) -> str:
        """UUID of the one volume."""
        return only_volume(self.folder / "data")


class OursThroughEdge(Server):
    """The engine, and before it the Edge process: two processes, shared memory between them."""

    kind = "edge"

    def start(self) -> None:
        data = self.folder / "data"
        data.mkdir()
        direct = self.sockets / "direct.sock"
        command = [release_binary("ovs-serve"), "--dir", str(data), "--size", str(self.size)]
        self.launch("ovs-serve", [*command, "--socket", str(direct)], direct)
        run_dir = data / "run"
        control = run_dir / "edge.sock"
        self.launch(
            "vstorage-edge", [release_binary("vstorage-edge"), "--run-dir", str(run_dir)], control
        )
        request = {
            "op": "attach",
            "volume": only_volume(data),
            "name": "bench",
            "socket": str(self.socket),
            "owner": None,
            "mode": 0o600,
            "read_only": False,
        }
        answer = ask(control, request, 30.0)
        if not answer.get("ok"):
            raise BenchError(f"vstorage-edge refused {request}: {answer}")


def only_volume(data: Path) -> str:
    """Return the UUID of the one volume that ovs-serve serves from ``data``."""
    volumes = [path.name for path in (data / "buffer").iterdir() if path.is_dir()]
    if len(volumes) != 1:
        raise BenchError(f"{data / 'buffer'} holds {volumes}, expected one volume")
    return volumes[0]


class QemuNbd(Server):
    """The peer: qemu-nbd on a raw file, with the options people run it with."""

    kind = "qemu-nbd"

    def start(self) -> None:
        disk = self.folder / "disk.raw"
        with disk.open("wb") as file:
            file.truncate(self.size)
        options = ["-t", "-e", "0", "--cache=writeback", "--aio=threads", "-f", "raw"]
        command = [find_program("qemu-nbd"), "-k", str(self.socket), *options, str(disk)]
        self.launch("qemu-nbd", command, self.socket)


class Nbdkit(Server):
    """For orientation: nbdkit's memory plugin, which stores nothing."""

    kind = "nbdkit"

    def start(self) -> None:
        command = [find_program("nbdkit"), "-f", "-U", str(self.socket), "memory", str(self.size)]
        self.launch("nbdkit", command, self.socket)


SERVERS: dict[str, type[Server]] = {
    server.kind: server for server in (Ours, OursThroughEdge, QemuNbd, Nbdkit)
}
