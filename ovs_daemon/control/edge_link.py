"""Keeps an eye on the Edge process, which starts, stops and is upgraded on its own.

A thread asks the Edge for a sign of life; when it answers for the first time, or again after it
did not, the Edge is told what it should serve; and, while it answers, who owns that now. It does so
at an interval, and when it is woken because something has changed in the registry.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ovs_daemon.control.attachments import reconcile_edge
from ovs_daemon.control.host import Host
from ovs_daemon.control.remote import Follower
from ovs_daemon.edge import EdgeUnavailable
from ovs_daemon.errors import VStorageError

LOG = logging.getLogger(__name__)

_LOOKS_APART_S = 0.1


class EdgeLink:
    """:param interval_s: asked before every wait, so that a reload changes it; seconds"""

    def __init__(self, host: Host, interval_s: Callable[[], float]) -> None:
        self._host = host
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._connected = False
        self._follower = Follower(host)
        self._thread = threading.Thread(target=self._run, name="edge-link", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the Edge has been told what to serve, and answered since."""
        return self._connected

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when the thread has ended."""
        self._stopping.set()
        self._woken.set()
        self._thread.join()

    def wake(self) -> None:
        """Something has changed in the registry: perhaps who owns what guests wait for."""
        self._woken.set()

    def check(self) -> None:
        """One look: what the thread does at every interval."""
        try:
            self._host.edge.ping()
            if not self._connected:
                reconcile_edge(self._host)
                self._follower.forget()
                LOG.info("the Edge process is there")
            self._follower.look()
            self._connected = True
        except EdgeUnavailable as failure:
            if self._connected:
                LOG.warning("lost the Edge process: %s", failure.why)
            self._connected = False
        except VStorageError as failure:
            # It answers, but did not take its list: told again next time.
            LOG.error("%s", failure)
            self._connected = False
        except Exception:
            # Without this thread no guest would follow its volume any more.
            LOG.exception("the Edge process is told again next time; report this")
            self._connected = False

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            self.check()
            # Many changes in a row are one reason to look.
            self._stopping.wait(min(_LOOKS_APART_S, self._interval_s()))
            self._woken.wait(self._interval_s())
