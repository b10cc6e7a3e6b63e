"""The vstorage daemons of this host: one in production, several where one machine plays several."""

from __future__ import annotations

import logging
import socket as unix
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ovs_daemon.client import Client
from ovs_daemon.errors import Code, VStorageError
from ovs_nova import options

LOG = logging.getLogger(__name__)

# Somebody else's attach must not wait long for a daemon of ours that hangs.
_LOOK_TIMEOUT_S = 5.0

_guard = threading.Lock()
#: names by control socket; a daemon that starts makes a new one, and may have a new name
_names: dict[tuple[Path, int, int], str] = {}


def nodes() -> dict[str, Path]:
    """The daemons that answer on this host: control sockets by the names of their nodes."""
    found: dict[str, Path] = {}
    for folder in options.run_dirs():
        socket = folder / "control.sock"
        try:
            found[_name(socket)] = socket
        except FileNotFoundError:
            LOG.debug("no vstorage daemon in %s", folder)
        except (OSError, VStorageError) as failure:
            LOG.warning("the vstorage daemon in %s cannot be used: %s", folder, failure)
    return found


@contextmanager
def client(node: str, what: str) -> Iterator[Client]:
    """A connection to the daemon of a node, which must run on this host.

    :raises VStorageError: ``daemon_unavailable``
    """
    found = nodes()
    if node not in found:
        where = ", ".join(str(folder) for folder in options.run_dirs())
        names = ", ".join(sorted(found)) or "none"
        raise VStorageError(
            Code.DAEMON_UNAVAILABLE,
            what,
            f"node {node!r} has it, and of the daemons in {where} these answer: {names}",
            "start vstorage-daemon, or correct run_dirs in section [ovs]",
        )
    connection = Client(found[node])
    try:
        yield connection
    finally:
        connection.close()


def _name(socket: Path) -> str:
    """The name of the node whose daemon listens on a socket."""
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # So many knock that this one would have to wait: somebody listens.
        with suppress(BlockingIOError):
            probe.connect(str(socket))
    state = socket.stat()
    key = (socket, state.st_ino, state.st_ctime_ns)
    with _guard:
        known = _names.get(key)
    if known is not None:
        return known
    connection = Client(socket, _LOOK_TIMEOUT_S)
    try:
        name = str(connection.status()["node"])
    finally:
        connection.close()
    with _guard:
        _names[key] = name
    return name
