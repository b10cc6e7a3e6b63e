"""Sockets of tests: a port that is free, and one question to a control socket of JSON lines."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from pathlib import Path
from typing import Any

# Below those that the kernel gives to outgoing connections: while a server is dead, one of them
# could take its port. Above the ports of `make openstack`.
_PORTS = random.sample(range(23000, 32768), 32768 - 23000)


def free_port() -> int:
    """A TCP port of the loopback on which nobody listens; one that this process never had before.

    :raises IndexError: all were given away
    """
    while True:
        port = _PORTS.pop()
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def ask(path: Path, request: dict[str, Any], seconds_max: float) -> dict[str, Any]:
    """Send one request, and return its answer; OSError when there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(seconds_max)
        control.connect(str(path))
        control.sendall(json.dumps(request).encode() + b"\n")
        line = control.makefile("rb").readline()
    if not line:
        raise ConnectionError(f"{path} was closed without an answer to {request}")
    answer: dict[str, Any] = json.loads(line)
    return answer
