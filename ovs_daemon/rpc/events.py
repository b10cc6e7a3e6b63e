"""What happens in the cluster, told to whoever listens on the message bus.

Notifications of oslo.messaging on the topic ``vstorage_notifications``, from publisher
``vstorage.NODE``:

* ``dtl.STATE``, a log's new state: ``volume`` (UUID), ``node`` (its keeper), ``before``;
* ``volume.taken_over``: ``volume``, ``name``, ``from``, ``to``;
* ``volume.stopped``, by its engine, fenced or without a lease: ``volume``.

They are for people and dashboards: one may be lost, and nothing of ours waits for one. A thread
sends them, because a bus that is away must not hold up a takeover.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from typing import Any

import oslo_messaging
from oslo_config import cfg

LOG = logging.getLogger(__name__)

TOPIC = "vstorage_notifications"
_WAITING_MAX = 1000
_STOP_S = 5.0
_WARNINGS = frozenset({"dtl.degraded", "volume.taken_over", "volume.stopped"})


class Events:
    """Tells, never waits and never fails."""

    def __init__(self, notifier: oslo_messaging.Notifier) -> None:
        self._notifier = notifier
        self._waiting: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(_WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def tell(self, what: str, payload: dict[str, Any]) -> None:
        """Have one notification sent."""
        try:
            self._waiting.put_nowait((what, payload))
        except queue.Full:
            LOG.warning("nobody is told of %s %s: the bus is too slow", what, payload)

    def stop(self) -> None:
        """Send what waits, if the bus takes it."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        while (one := self._waiting.get()) is not None:
            self._send(*one)

    def _send(self, what: str, payload: dict[str, Any]) -> None:
        try:
            if what in _WARNINGS:
                self._notifier.warn({}, what, payload)
            else:
                self._notifier.info({}, what, payload)
        except Exception as failure:
            LOG.warning("nobody was told of %s %s: %s", what, payload, failure)


def make_events(conf: cfg.ConfigOpts, driver: str = "messagingv2") -> Events | None:
    """What tells on the bus that the configuration names; None when it names none."""
    url = oslo_messaging.TransportURL.parse(conf, conf.rpc.transport_url)
    if str(url) == "rabbit:///":
        return None
    transport = oslo_messaging.get_notification_transport(conf, url=url)
    notifier = oslo_messaging.Notifier(
        transport,
        publisher_id=f"vstorage.{conf.host}",
        driver=driver,
        topics=[TOPIC],
        retry=0,
    )
    return Events(notifier)
