"""Child processes of tests: started with a log file, killed by their own id, never left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import NeverHappened, wait_until

LOG_TAIL_LINES = 40


class ProcessError(Exception):
    """A child process did not start, ended early or would not end; the message has its log."""


def find_program(name: str) -> str:
    """Return the path of program ``name``.

    Looked for in ``$OVS_BIN_DIR`` (a developer's own build), beside the running Python, on
    ``PATH``. Raises ProcessError when it is nowhere: a test never goes on without the program it
    tests.
    """
    folders = [Path(sys.executable).parent]
    if "OVS_BIN_DIR" in os.environ:
        folders.insert(0, Path(os.environ["OVS_BIN_DIR"]))
    for folder in folders:
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        places = ", ".join(map(str, folders))
        raise ProcessError(
            f"program {name} is neither in {places} nor on PATH; install the project "
            "(`make install`) or the Debian package that holds it (see bindep.txt)"
        )
    return found


class Process:
    """A running child whose output goes to ``log``."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own: a Ctrl-C at the terminal ends the test, which ends us.
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill9()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    def running(self) -> bool:
        """Tell whether the child has not ended yet."""
        return self._child.poll() is None

    def tail(self) -> str:
        """Return the last lines of the log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def kill9(self) -> None:
        """Kill the child with SIGKILL and reap it; nothing happens if it ended already."""
        if self.running():
            os.kill(self.pid, signal.SIGKILL)
        self._child.wait()

    def suspend(self) -> None:
        """Have the child stand still, all its threads, until :meth:`resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on where it was."""
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self, seconds_max: float = 30.0) -> int:
        """Send SIGTERM, wait for the end and return the exit status.

        Raises ProcessError (after SIGKILL) if the child is still there after ``seconds_max``.
        """
        if self.running():
            os.kill(self.pid, signal.SIGTERM)
        try:
            return self._child.wait(seconds_max)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise ProcessError(
                f"{self.name} did not end within {seconds_max} s of SIGTERM; its log ends with\n"
                f"{self.tail()}"
            ) from None

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until ``ready()``; raise ProcessError if the child ends or time runs out."""

        def look() -> bool:
            if ready():
                return True
            if not self.running():
                raise ProcessError(
                    f"{self.name} ended with status {self._child.returncode} before {what}; its "
                    f"log {self.log} ends with\n{self.tail()}"
                )
            return False

        def tail() -> str:
            return f"{self.name} runs; its log {self.log} ends with\n{self.tail()}"

        try:
            wait_until(look, what, tail)
        except NeverHappened as never:
            raise ProcessError(str(never)) from None


def accepts(path: Path) -> bool:
    """Tell whether something accepts connections on the unix socket ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
