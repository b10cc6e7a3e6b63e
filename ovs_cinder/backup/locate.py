"""Where a volume's daemons are, as cinder-backup finds them: by the volume's backend section."""

from __future__ import annotations

from typing import Any

from cinder.volume import configuration, volume_utils
from oslo_config import cfg

from ovs_cinder.api import DomainApi, transport_of
from ovs_cinder.options import VOLUME_OPTS

CONF = cfg.CONF

DRIVER = "ovs_cinder.driver.OVSVolumeDriver"

# Cinder's volume manager has this option, which cinder-backup does not load.
_DRIVER_OPTION = cfg.StrOpt("volume_driver", default="cinder.volume.drivers.lvm.LVMVolumeDriver")


def api_of(volume: Any) -> DomainApi | None:
    """The Domain of a volume; None when another driver made the volume.

    cinder-backup must read the backend sections of cinder-volume's configuration.

    :raises VStorageError: ``bad_request``, its message bus cannot be used
    """
    backend = volume_utils.extract_host(volume.host, "backend")
    section = backend.partition("@")[2] if backend else ""
    if not section:
        return None
    settings = configuration.Configuration([*VOLUME_OPTS, _DRIVER_OPTION], config_group=section)
    if settings.volume_driver != DRIVER:
        return None
    transport = transport_of(CONF, settings.ovs_transport_url)
    return DomainApi(transport, settings.ovs_domain, settings.ovs_rpc_timeout)
