"""Tells whoever started this process how far it is (the protocol of sd_notify(3)).

A datagram to the unix socket named in NOTIFY_SOCKET; systemd sets it, and so do our tests, which
thereby wait for an event instead of polling.
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send ``state`` ("READY=1", "STOPPING=1", ...); nothing happens when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as messenger:
        messenger.sendto(state.encode(), address)
