"""Puts every tap that appears on this machine on the lab's bridge: `python -m ... BRIDGE`.

Woken by the kernel's link events, so that a guest is reachable before its kernel has booted. It
takes taps that have no bridge yet; Nova makes them and leaves that to an agent, which this is.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

_LINK_EVENTS = 1  # RTMGRP_LINK
_MESSAGE_BYTES_MAX = 1 << 16


def adopt(bridge: str) -> None:
    """Add taps without a bridge to ours; one that has gone again is no matter."""
    for tap in Path("/sys/class/net").glob("tap*"):
        if not (tap / "brport").exists():
            command = ["ip", "link", "set", tap.name, "master", bridge, "up"]
            subprocess.run(command, check=False, capture_output=True)


def main(bridge: str) -> None:
    """Adopt what is there, then what comes."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    events.bind((0, _LINK_EVENTS))
    while True:
        adopt(bridge)
        events.recv(_MESSAGE_BYTES_MAX)


if __name__ == "__main__":
    main(sys.argv[1])
