"""A topic of RabbitMQ, as far as who gets its calls: its listeners, in turns."""

from __future__ import annotations

import itertools
from typing import Any

import oslo_messaging

from ovs_daemon.control.verbs import Verbs
from ovs_daemon.rpc.endpoint import Endpoint
from tests.support.house import House


class InTurns:
    """Stands for a `DomainApi`'s client. The in-process bus gives calls to whoever is first.

    :param listeners: daemons; None is one that hangs
    """

    def __init__(self, *listeners: House | None) -> None:
        self._turns = itertools.cycle(listeners)
        self._timeout_s = 0.0
        #: how long callers have waited in vain, together and once
        self.waited_s = self.longest_s = 0.0

    def prepare(self, *, timeout: float, **more: Any) -> InTurns:
        self._timeout_s = timeout
        return self

    def call(self, context: dict[str, Any], verb: str, **arguments: Any) -> Any:
        house = next(self._turns)
        if house is None:
            self.waited_s += self._timeout_s
            self.longest_s = max(self.longest_s, self._timeout_s)
            raise oslo_messaging.MessagingTimeout("no reply")
        return getattr(Endpoint(Verbs(house.host, lambda: True)), verb)(context, **arguments)
