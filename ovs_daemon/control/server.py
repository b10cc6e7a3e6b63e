"""The control API's server: HTTP on a unix socket for its owner, and a group if one is named."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

from cheroot import wsgi

from ovs_daemon.control.api import Api

_SOCKET_MODE = 0o600
_GROUP_SOCKET_MODE = 0o660
_THREADS = 8
# Connections that wait for a thread; a unix socket refuses further ones at once.
_WAITING_MAX = 1024


class _UnixServer(wsgi.Server):
    """cheroot's server with a socket that is never open to others, not even for a moment."""

    def bind_unix_socket(self, bind_addr: str) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(bind_addr)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # On Linux a unix socket's file takes its mode from the descriptor when it is bound.
        os.fchmod(listener.fileno(), _SOCKET_MODE)
        listener.bind(bind_addr)
        self.socket, self.bind_addr = listener, bind_addr
        return listener


class ControlServer:
    """Serves the API until told to stop.

    :param path: of the socket; one left by a killed daemon is replaced
    :param group: gid of those who may use it besides the owner; None: nobody
    """

    def __init__(self, api: Api, path: Path, group: int | None = None) -> None:
        self._path = path
        self._group = group
        self._server = _UnixServer(
            str(path), api, numthreads=_THREADS, request_queue_size=_WAITING_MAX
        )
        self._thread = threading.Thread(target=self._server.serve, name="control", daemon=True)

    def start(self) -> None:
        """Listen; a client may connect as soon as this returns."""
        self._server.prepare()
        if self._group is not None:
            os.chown(self._path, -1, self._group)
            os.chmod(self._path, _GROUP_SOCKET_MODE)
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests at work, take no more, remove the socket."""
        self._server.stop()
        self._thread.join()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
