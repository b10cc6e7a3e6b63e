"""The verbs as methods that oslo.messaging may call."""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import oslo_messaging

from ovs_daemon.control.verbs import Verbs
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.registry import Conflict
from ovs_daemon.rpc.contract import CLUSTER, SLOW, VERSION, wrap_answer, wrap_error
from ovs_daemon.rpc.turnstile import Turnstile, stopping

LOG = logging.getLogger(__name__)

VERBS = tuple(
    name for name, _ in inspect.getmembers(Verbs, inspect.isfunction) if not name.startswith("_")
)

# Slow calls that may wait for others of them; cinder-volume has 64 threads for all it does.
SLOW_WAITING = 64

_Remote = Callable[..., dict[str, Any]]


class Endpoint:
    """One method for each of :data:`VERBS`: ``method(context, **arguments)``.

    It takes calls from :meth:`open` to :meth:`close` only: the bus may deliver one before the
    daemon has recovered, or while it stops.

    :param at_once: how many calls are worked on at a time, and how many slow ones besides
    """

    target = oslo_messaging.Target(version=VERSION)

    def __init__(self, verbs: Verbs, at_once: int = 8) -> None:
        self._verbs = verbs
        self._quick = Turnstile(at_once, math.inf)
        self._slow = Turnstile(at_once, SLOW_WAITING)
        self._guard = threading.Condition()
        self._running = 0
        self._closed = False
        for name in VERBS:
            setattr(self, name, self._remote(name))

    def close(self) -> None:
        """Take no more calls; returns when those at work are answered, the others refused."""
        self.refuse()
        with self._guard:
            self._guard.wait_for(lambda: self._running == 0)

    def refuse(self) -> None:
        """Begin no call any more, not those either that wait for their turn."""
        with self._guard:
            self._closed = True
        self._quick.close()
        self._slow.close()

    def _remote(self, name: str) -> _Remote:
        verb = getattr(self._verbs, name)
        signature = inspect.signature(verb)
        turnstile = self._slow if name in SLOW else self._quick

        def call(context: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
            with self._guard:
                if self._closed:
                    return wrap_error(stopping(name))
                self._running += 1
            try:
                self._refuse_others(name, context)
                signature.bind(**arguments)
                with turnstile.passing(name):
                    return wrap_answer(verb(**arguments))
            except VStorageError as failure:
                LOG.info("%s: %s", name, failure)
                return wrap_error(failure)
            except Conflict as conflict:
                why = f"somebody else changed it at the same time ({conflict})"
                return wrap_error(VStorageError(Code.BUSY, name, why, "try again"))
            except Exception as bug:
                LOG.exception("%s failed", name)
                return wrap_error(_internal(name, bug))
            finally:
                with self._guard:
                    self._running -= 1
                    self._guard.notify_all()

        # `close` and whatever else there is on the object are nobody's to call from afar.
        return cast(_Remote, oslo_messaging.expose(call))

    def _refuse_others(self, name: str, context: Mapping[str, Any]) -> None:
        """Do nothing for who means another cluster: its volumes are not ours to know or to miss."""
        meant = context.get(CLUSTER)
        if meant is None or meant == self._verbs.cluster_uuid:
            return
        raise VStorageError(
            Code.WRONG_CLUSTER,
            f"perform {name} for cluster {meant}",
            f"the node that got it is of cluster {self._verbs.cluster_uuid}: two clusters have a "
            "Domain of this name on one message bus, or the cluster was made anew",
            "give each cluster a message bus (or virtual host) or names of Domains of its own; if "
            "it was made anew, restart the service that asked",
        )


def _internal(name: str, bug: Exception) -> VStorageError:
    why = f"{type(bug).__name__}: {bug}"
    return VStorageError(Code.INTERNAL, name, why, "see the daemon's log, and report it")
