"""Processes that outlive their starter: recorded by pid and start time, ended by that record only.

A pid alone may belong to somebody else by now; pid and start time together name one process for
ever (until the machine starts anew, which the recorded boot id tells).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.05
LOG_TAIL_LINES = 25
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LabError(Exception):
    """The lab cannot do what was asked; the message says what, why and where to look."""


@dataclass(frozen=True)
class Record:
    """A process that was started, ``ticks`` after the machine's start of the name ``boot``."""

    pid: int
    ticks: int
    boot: str
    log: str

    def alive(self) -> bool:
        """Tell whether exactly this process still runs."""
        return boot_id() == self.boot and start_ticks(self.pid) == self.ticks


def boot_id() -> str:
    """The name of this run of the kernel."""
    return _BOOT_ID.read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended."""
    try:
        # The second field, the name, may hold anything: what matters comes after its last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _reap(pid: int) -> None:
    """Let a child of ours that has ended go; it is often a child of another."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def wait_until(ready: Callable[[], bool], what: str, seconds_max: float) -> None:
    """Wait until ``ready()``; raise LabError naming ``what`` when time is over."""
    deadline = time.monotonic() + seconds_max
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds_max:.0f} s for {what}: it did not happen")
        time.sleep(POLL_SECONDS)


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return f"({log} does not exist)"
    return "\n".join(lines[-LOG_TAIL_LINES:])


class Processes:
    """Starts, watches and ends processes; their records lie in ``run``, their output in ``log``."""

    def __init__(self, run: Path, log: Path) -> None:
        self._run = run
        self._log = log

    def _path(self, name: str) -> Path:
        return self._run / f"{name}.pid"

    def record(self, name: str) -> Record | None:
        """The record of a process that runs; None if it does not."""
        try:
            record = Record(**json.loads(self._path(name).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            # Killed while it wrote the record: what it started ends with the namespace, or is
            # found by its port, which the next start then reports.
            return None
        return record if record.alive() else None

    def running(self, name: str) -> bool:
        """Tell whether a process runs."""
        return self.record(name) is not None

    def names(self) -> list[str]:
        """All processes that run, in the order of their start."""
        paths = sorted(self._run.glob("*.pid"), key=lambda path: path.stat().st_mtime_ns)
        return [path.stem for path in paths if self.running(path.stem)]

    def start(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str]
    ) -> Record:
        """Start a process, in a session of its own so that a Ctrl-C here does not end it."""
        log = self._log / f"{name}.out"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._run,
                env=dict(environment),
                start_new_session=True,
            )
        # A child that has ended stays a zombie until it is waited for: its start time is there.
        record = Record(child.pid, start_ticks(child.pid) or 0, boot_id(), str(log))
        # It shall outlive us: without this, Python complains about it when we end.
        child.returncode = 0
        temporary = self._path(name).with_suffix(".new")
        temporary.write_text(json.dumps(asdict(record)))
        temporary.rename(self._path(name))
        return record

    def wait_ready(
        self, name: str, ready: Callable[[], bool], seconds_max: float = START_SECONDS_MAX
    ) -> None:
        """Wait until ``ready()``; raise LabError with the log's end if the process ends before."""

        deadline = time.monotonic() + seconds_max
        while not ready():
            if not self.running(name):
                raise LabError(f"{name} ended at once; {self.explain(name)}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{name} is not ready after {seconds_max:.0f} s; {self.explain(name)}"
                )
            time.sleep(POLL_SECONDS)

    def explain(self, name: str) -> str:
        """The ends of a process's logs, for messages."""
        logs = [self._log / f"{name}.log", self._log / f"{name}.out"]
        return "\n".join(f"the end of {log}:\n{tail(log)}" for log in logs if log.exists())

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal and wait for the end; nothing happens if it has ended.

        Raises LabError when it does not end in time.
        """
        record = self.record(name)
        if record is None:
            return
        try:
            handle = os.pidfd_open(record.pid)
        except ProcessLookupError:
            return
        try:
            # Between the check above and the handle the pid may have changed its owner.
            if not record.alive():
                return
            signal.pidfd_send_signal(handle, number)
            ended, _, _ = select.select([handle], [], [], STOP_SECONDS_MAX)
        except ProcessLookupError:
            ended = [handle]
        finally:
            os.close(handle)
        if not ended:
            raise LabError(f"{name} (pid {record.pid}) did not end on {number.name}")
        _reap(record.pid)

    def stop(self, *names: str) -> None:
        """End processes with SIGTERM, all at once; with SIGKILL who does not end in time."""
        records = {name: record for name in names if (record := self.record(name)) is not None}
        for record in records.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for name, record in records.items():
            while record.alive() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            if record.alive():
                self._kill_session(record)
                self.kill(name, signal.SIGKILL)
            _reap(record.pid)
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def _kill_session(self, record: Record) -> None:
        """Kill what a process that hangs has started in its own process group: it led it."""
        with contextlib.suppress(ProcessLookupError):
            if record.alive() and os.getpgid(record.pid) == record.pid:
                os.killpg(record.pid, signal.SIGKILL)
