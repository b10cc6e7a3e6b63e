"""A QEMU guest whose serial console is a stream of timed lines that a test waits for."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.process import ProcessError, find_program

MEMORY_MIB = 256
# What must never appear on the console, whoever prints it: our init, or the kernel itself.
FAILURE = re.compile(r"IOERROR|I/O error|EXT4-fs (error|warning)|Kernel panic|Oops", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """One console line and when it arrived (seconds, monotonic)."""

    at: float
    text: str


class Guest:
    """QEMU without KVM, its disk an NBD export on a unix socket.

    The block driver gets no reconnect delay: if the server's connection breaks, the guest sees I/O
    errors. So a guest that goes on proves that its connection never broke.
    """

    def __init__(self, socket: Path, export: str = "") -> None:
        drive = (
            f"if=virtio,format=raw,cache=none,discard=unmap,file.driver=nbd,"
            f"file.server.type=unix,file.server.path={socket},file.export={export}"
        )
        self._child = subprocess.Popen(
            [
                find_program("qemu-system-x86_64"), "-accel", "tcg", "-m", str(MEMORY_MIB),
                "-display", "none", "-monitor", "none", "-net", "none", "-no-reboot",
                "-serial", "stdio", "-drive", drive,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self.lines: list[Line] = []
        self._fresh: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill9()

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._child.pid

    def _read(self) -> None:
        assert self._child.stdout is not None
        for raw in self._child.stdout:
            line = Line(time.monotonic(), raw.decode(errors="replace").strip())
            self.lines.append(line)
            self._fresh.put(line)
        self._fresh.put(None)

    def wait_for(self, pattern: str, seconds_max: float) -> re.Match[str]:
        """Return the match of ``pattern`` in the next console line that has one.

        Lines are consumed in order. Raises ProcessError if the guest reports a failure, if QEMU
        ends, or after ``seconds_max``.
        """
        deadline = time.monotonic() + seconds_max
        while True:
            try:
                line = self._fresh.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ProcessError(
                    f"the guest printed no line that matches {pattern!r} within {seconds_max} s"
                ) from None
            if line is None:
                raise ProcessError(f"QEMU ended while waiting for {pattern!r}")
            if FAILURE.search(line.text):
                raise ProcessError(f"the guest reports a failure: {line.text}")
            match = re.search(pattern, line.text)
            if match is not None:
                return match

    def drain(self, seconds: float) -> list[Line]:
        """Return the lines that arrive within ``seconds``; failures raise as in wait_for."""
        deadline = time.monotonic() + seconds
        drained: list[Line] = []
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._fresh.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                raise ProcessError("QEMU ended")
            if FAILURE.search(line.text):
                raise ProcessError(f"the guest reports a failure: {line.text}")
            drained.append(line)
        return drained

    def kill9(self) -> None:
        """Kill QEMU with SIGKILL: the guest loses power."""
        if self._child.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._child.wait()
        self._reader.join()

    def tail(self, count: int = 20) -> str:
        """Return the last console lines."""
        return "\n".join(line.text for line in self.lines[-count:])
