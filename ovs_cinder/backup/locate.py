"""Where a volume's daemons are, as cinder-backup finds them: by the volume's backend section.

The Domain of a section may be dead, and its volumes be with another one. Which others there are,
only nodes can tell: so a Domain is asked while it answers, and its answer is remembered; where it
has not answered since this service started, the Domains of the other sections are asked instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from cinder.volume import configuration, volume_utils
from oslo_config import cfg
from oslo_log import log as logging

from ovs_cinder.api import DomainApi, transport_of
from ovs_cinder.options import VOLUME_OPTS
from ovs_daemon.errors import Code, VStorageError

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

DRIVER = "ovs_cinder.driver.OVSVolumeDriver"

# Cinder's volume manager has this option, which cinder-backup does not load.
_DRIVER_OPTION = cfg.StrOpt("volume_driver", default="cinder.volume.drivers.lvm.LVMVolumeDriver")

_Key = tuple[str | None, str, float]

_guard = threading.Lock()
_apis: dict[_Key, DomainApi] = {}


def api_of(volume: Any) -> DomainApi | None:
    """The Domain of a volume; None when another driver made the volume.

    cinder-backup must read the backend sections of cinder-volume's configuration.

    :raises VStorageError: ``bad_request``, its message bus cannot be used; ``daemon_unavailable``,
        nobody answers who could know of the volume
    """
    backend = volume_utils.extract_host(volume.host, "backend")
    section = backend.partition("@")[2] if backend else ""
    settings = _settings(section) if section else None
    if settings is None:
        return None
    url, domain, timeout_s = key = _key(settings)
    # Outside of the lock: it reads configuration, and two that are made do no harm.
    fresh = DomainApi(transport_of(CONF, url), domain, timeout_s)
    with _guard:
        api = _apis.setdefault(key, fresh)
    if not api.others:
        _learn(api, url)
    return api


def _learn(api: DomainApi, url: str | None) -> None:
    """Have somebody tell which Domains there are besides this one."""
    try:
        api.get_domain()
    except VStorageError as failure:
        if failure.code != Code.DAEMON_UNAVAILABLE:
            raise
        if not any(api.learn_from(other) for other in _other_domains(api.domain, url)):
            raise
        LOG.warning("going on with other Domains (%s): %s", ", ".join(api.others), failure)


def _other_domains(domain: str, url: str | None) -> Iterator[str]:
    """Domains on the same message bus that other sections offer."""
    for section in CONF.enabled_backends or ():
        settings = _settings(section)
        if settings is None or settings.ovs_transport_url != url:
            continue
        if settings.ovs_domain != domain:
            yield str(settings.ovs_domain)


def _settings(section: str) -> Any | None:
    """What a section says; None if it is another driver's."""
    settings = configuration.Configuration([*VOLUME_OPTS, _DRIVER_OPTION], config_group=section)
    return settings if settings.volume_driver == DRIVER else None


def _key(settings: Any) -> _Key:
    return settings.ovs_transport_url, str(settings.ovs_domain), float(settings.ovs_rpc_timeout)
