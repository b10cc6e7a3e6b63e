"""An ML2 mechanism driver that binds every port as a plain tap; `network.py` puts taps on a bridge.

Neutron loads it by entry point; `configuration.py` writes the metadata for that. The lab has no
agents: nothing of networking is tested here, guests only need to be reached by SSH.
"""

from __future__ import annotations

from typing import Any

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class TapPorts(api.MechanismDriver):  # type: ignore[misc]
    """Binds to the first segment that is offered, and calls the port active."""

    def initialize(self) -> None:
        """Nothing to prepare."""

    @property
    def connectivity(self) -> str:
        """A bridge is all there is."""
        return "l2"

    def bind_port(self, context: Any) -> None:
        """Bind as vif type `tap`, without a filter."""
        segment = context.segments_to_bind[0]
        context.set_binding(
            segment[api.ID],
            "tap",
            {portbindings.CAP_PORT_FILTER: False},
            status=constants.PORT_STATUS_ACTIVE,
        )
