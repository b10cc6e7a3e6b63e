"""A server whose volume has grown learns its new size.

An NBD client hears a volume's size when it connects, and QEMU refuses to grow a disk beyond what
it heard ("Cannot grow NBD nodes"). So its connection is closed, a request makes it connect again,
and from then on a resize succeeds. Between the two, requests of the guest must not meet the closed
connection: QEMU with a reconnect delay lets them wait, but libvirt passes one on only since 9.1.
Without it they would fail, so the server is paused for these few milliseconds.

The request is QEMU's own (`qemu-io` on its monitor), for which libvirt marks the domain as
"tainted: custom-monitor" in its log.

The server's disk is smaller than the volume where QEMU decrypts it, by the LUKS header.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

# A connection takes a millisecond or two; the server may be paused meanwhile.
_PATIENCE_S = 10.0
_PAUSE_S = 0.002
# The Edge of a volume of another host may hear of the size after the connection came back.
_AGAIN_S = 0.2


class CannotGrow(Exception):
    """QEMU did not take the new size; it has the old one, and works."""


class Qemu:
    """What is asked of a running QEMU.

    :param command: performs a command of its monitor (QMP), returns the answer's "return"; raises
        :class:`CannotGrow` for an error
    :param suspend: pauses the server
    :param resume: lets it go on
    """

    def __init__(
        self,
        command: Callable[[str, dict[str, Any]], Any],
        suspend: Callable[[], None],
        resume: Callable[[], None],
    ) -> None:
        self.command = command
        self.suspend = suspend
        self.resume = resume


def grow(qemu: Qemu, socket: str, size: int, waits: bool, reconnect: Callable[[], None]) -> int:
    """Have QEMU take a new size of the disk that it has on a socket.

    :param size: of the volume, bytes
    :param waits: requests wait for a connection, so that the server need not be paused
    :param reconnect: closes the disk's connections
    :returns: the size of the server's disk, bytes
    :raises CannotGrow: the disk is not there, or does not take the size in time
    """
    top, storage, header = _nodes(qemu, socket)
    size -= header
    with _paused(qemu, waits):
        reconnect()
        began = reconnected = time.monotonic()
        while True:
            # Its outcome goes to QEMU's own log; whether it helped shows in the resize.
            line = f'qemu-io {storage} "read 0 512"'
            qemu.command("human-monitor-command", {"command-line": line})
            try:
                qemu.command("block_resize", {"node-name": top, "size": size})
                return size
            except CannotGrow:
                now = time.monotonic()
                if now > began + _PATIENCE_S:
                    raise
                if now > reconnected + _AGAIN_S:
                    reconnect()
                    reconnected = now
            time.sleep(_PAUSE_S)


@contextmanager
def _paused(qemu: Qemu, waits: bool) -> Iterator[None]:
    if waits or not qemu.command("query-status", {})["running"]:
        yield
        return
    qemu.suspend()
    try:
        yield
    finally:
        qemu.resume()


def _nodes(qemu: Qemu, socket: str) -> tuple[str, str, int]:
    """A disk's nodes in QEMU: what its device uses, and the NBD client below; and the bytes of the
    volume before those that the device has."""
    named = {
        str(node["node-name"]): node
        for node in qemu.command("query-named-block-nodes", {"flat": True})
    }
    storage = next(
        (
            name
            for name, node in named.items()
            if node["drv"] == "nbd" and f"socket={socket}" in node["file"]
        ),
        None,
    )
    for device in qemu.command("query-block", {}):
        inserted = device.get("inserted")
        # How QEMU writes down where the disk is depends on what is in between.
        if inserted is not None and storage is not None and socket in json.dumps(inserted):
            top = str(inserted["node-name"])
            return top, storage, _header_bytes(named[top])
    raise CannotGrow(f"no disk of this server is on {socket}")


def _header_bytes(node: dict[str, Any]) -> int:
    if node["drv"] != "luks":
        return 0
    return int(node["image"]["format-specific"]["data"]["payload-offset"])
