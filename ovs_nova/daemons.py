"""The vstorage daemons of this host: one in production, several where one machine plays several.

A daemon may restart at any time. Its node counts as reachable meanwhile, and a call waits for it.
"""

from __future__ import annotations

import logging
import socket as unix
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ovs_daemon.client import Client
from ovs_daemon.errors import Code, VStorageError
from ovs_nova import options

LOG = logging.getLogger(__name__)

# Somebody else's attach must not wait long for a daemon of ours that hangs.
_LOOK_TIMEOUT_S = 5.0

# How long a call waits for a daemon that restarts.
_RESTART_S = 30.0
_PAUSE_S = 0.1

_guard = threading.Lock()
#: names by control socket; a daemon that starts makes a new one, and may have a new name
_names: dict[tuple[Path, int, int], str] = {}
#: the last name of the daemon of each control socket
_last: dict[Path, str] = {}


def nodes() -> dict[str, Path]:
    """This host's daemons that answer, or have answered this process: control sockets by the names
    of their nodes."""
    found: dict[str, Path] = {}
    for folder in options.run_dirs():
        socket = folder / "control.sock"
        try:
            found[_name(socket)] = socket
        except (OSError, VStorageError) as failure:
            if socket in _last:
                found[_last[socket]] = socket
            unused = LOG.debug if isinstance(failure, FileNotFoundError) else LOG.warning
            unused("the vstorage daemon in %s does not answer: %s", folder, failure)
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
            f"it goes through node {node!r}, and of the daemons in {where} these answer: {names}",
            "start vstorage-daemon, or correct run_dirs in section [ovs]",
        )
    _wait_for(found[node])
    connection = Client(found[node])
    try:
        yield connection
    finally:
        connection.close()


def _wait_for(socket: Path) -> None:
    """Return when somebody listens, or when it has taken too long."""
    deadline = time.monotonic() + _RESTART_S
    while time.monotonic() < deadline:
        try:
            _knock(socket)
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(_PAUSE_S)
        else:
            return


def _knock(socket: Path) -> None:
    """Raises OSError if nobody listens."""
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # So many knock that this one would have to wait: somebody listens.
        with suppress(BlockingIOError):
            probe.connect(str(socket))


def _name(socket: Path) -> str:
    """The name of the node whose daemon listens on a socket."""
    _knock(socket)
    state = socket.stat()
    key = (socket, state.st_ino, state.st_ctime_ns)
    with _guard:
        known = _names.get(key)
    if known is not None:
        _last[socket] = known
        return known
    connection = Client(socket, _LOOK_TIMEOUT_S)
    try:
        name = str(connection.status()["node"])
    finally:
        connection.close()
    with _guard:
        _names[key] = _last[socket] = name
    return name
