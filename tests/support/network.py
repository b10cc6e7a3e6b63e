"""A network of hosts, each in a network namespace of its own, whose links can be cut one way.

`tests/support/switch.py` is the process behind it. Unix sockets, files and mounts are those of the
whole machine: only what goes over TCP passes here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from tests.support.process import ProcessError

_END_SECONDS_MAX = 30.0

#: hosts, or the name of one
Hosts = str | Iterable[str]


class Network:
    """:param names: of the hosts
    :param folder: for the log
    """

    def __init__(self, names: Iterable[str], folder: Path) -> None:
        if os.geteuid() != 0:
            raise ProcessError("these tests make network namespaces: run them as root")
        self._log = folder / "switch.log"
        command = [sys.executable, str(Path(__file__).with_name("switch.py")), *names]
        with self._log.open("ab") as log:
            self._switch = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._lost: set[tuple[str, str]] = set()
        self._late: dict[tuple[str, str], float] = {}
        self._hosts = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._switch.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._switch.stdin.close()
        try:
            self._switch.wait(_END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._switch.kill()
            self._switch.wait()
        assert self._switch.stdout is not None
        self._switch.stdout.close()

    def address(self, name: str) -> str:
        """A host's address."""
        return str(self._hosts[name]["address"])

    def inside(self, name: str) -> tuple[str, ...]:
        """What to put before a command so that it runs on that host."""
        return ("nsenter", f"--net=/proc/{self._switch.pid}/fd/{self._hosts[name]['file']}", "--")

    def lose(self, senders: Hosts, receivers: Hosts) -> None:
        """From now on nothing that one of the senders sends reaches one of the receivers."""
        self._lost |= set(itertools.product(_names(senders), _names(receivers)))
        self._tell()

    def part(self, some: Hosts, others: Hosts) -> None:
        """Lose what passes between them, in both directions."""
        pairs = set(itertools.product(_names(some), _names(others)))
        self._lost |= pairs | {(there, here) for here, there in pairs}
        self._tell()

    def delay(self, some: Hosts, others: Hosts, seconds: float) -> None:
        """Have what passes between them take so long, in each direction."""
        for here, there in itertools.product(_names(some), _names(others)):
            self._late[here, there] = self._late[there, here] = seconds
        self._tell()

    def heal(self) -> None:
        """Nothing is lost or late any more."""
        self._lost.clear()
        self._late.clear()
        self._tell()

    def _tell(self) -> None:
        assert self._switch.stdin is not None
        late = [[here, there, seconds] for (here, there), seconds in self._late.items()]
        line = json.dumps({"lost": sorted(self._lost), "late": late})
        try:
            self._switch.stdin.write(f"{line}\n")
            self._switch.stdin.flush()
        except BrokenPipeError:
            pass
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._switch.stdout is not None
        line = self._switch.stdout.readline()
        if not line:
            self._switch.wait()
            raise ProcessError(f"the switch has ended; its log says\n{self._log.read_text()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _names(hosts: Hosts) -> tuple[str, ...]:
    return (hosts,) if isinstance(hosts, str) else tuple(hosts)
