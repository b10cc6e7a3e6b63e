"""The control API on a real socket in front of a host of twins."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ovs_daemon.control.api import Api
from ovs_daemon.control.server import ControlServer
from ovs_daemon.control.verbs import Verbs
from tests.support.house import House


@contextlib.contextmanager
def serving(house: House) -> Iterator[Path]:
    """Serve the house; yields its run directory, which is short as socket paths must be."""
    with tempfile.TemporaryDirectory(prefix="ovs-") as folder:
        api = Api(Verbs(house.host, lambda: house.edge.up))
        server = ControlServer(api, Path(folder) / "control.sock")
        # How long stopping may take: cheroot looks for connections to expire that often.
        server._server.expiration_interval = 0.01
        server.start()
        try:
            yield Path(folder)
        finally:
            server.stop()
