"""The door into any other service: a notification driver of oslo.messaging that notifies nobody.

    [oslo_messaging_notifications]
    driver = open_vstorage

A service loads its notification drivers when it sets up its messaging, before it does any work.
The option may be given several times, so that drivers which do notify stay as they are.
cinder-backup and glance-api need this; cinder-volume has the volume driver, nova-compute os-vif.
"""

from __future__ import annotations

from typing import Any

from oslo_messaging.notify import notifier

from ovs_nova import registration


class RegistrationDriver(notifier.Driver):
    """Registers when it is loaded."""

    def __init__(self, conf: Any, topics: Any, transport: Any) -> None:
        """Called by oslo.messaging.

        :raises RegistrationError: os-brick is not as expected
        """
        super().__init__(conf, topics, transport)
        registration.register_connector()

    def notify(self, ctxt: Any, msg: Any, priority: Any, retry: Any) -> None:
        """Nobody is notified."""
