"""Sockets of tests: a port that is free, and one question to a control socket of JSON lines."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
