"""The door into nova-compute: a plugin of os-vif that plugs nothing.

nova-compute loads all plugins of os-vif when it starts, before its compute driver, and stops if
one of them fails to load: just when and how the registration should happen. What looks after the
things that a killed nova-compute has left (`recovery`) starts here, too. Neutron's Open vSwitch
agent, which happens to share our protocol's three letters, loads them, too; there is nothing to
register in it.
"""

from __future__ import annotations

import sys
from typing import Any, Self

from os_vif import objects, plugin

from ovs_nova import registration

_NOVA_COMPUTE = "nova.cmd.compute"


class RegistrationPlugin(plugin.PluginBase):
    """Registers, and starts the recovery, when it is loaded in nova-compute."""

    @classmethod
    def load(cls, plugin_name: str) -> Self:
        """Called by os-vif.

        :raises RegistrationError: Nova or os-brick is not as expected
        """
        if _is_nova_compute():
            registration.register_nova()
            # Nova's classes are for nova-compute only.
            from ovs_nova import recovery

            recovery.start()
        loaded: Self = super().load(plugin_name)
        return loaded

    def describe(self) -> Any:
        """No interfaces."""
        return objects.host_info.HostPluginInfo(plugin_name="open_vstorage", vif_info=[])

    def plug(self, vif: Any, instance_info: Any) -> None:
        """Never called: no interface names this plugin."""

    def unplug(self, vif: Any, instance_info: Any) -> None:
        """Never called: no interface names this plugin."""


def _is_nova_compute() -> bool:
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return _NOVA_COMPUTE in sys.modules or getattr(main, "name", None) == _NOVA_COMPUTE
