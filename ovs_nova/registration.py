"""Puts the connector and the volume driver into upstream's tables.

os-brick and Nova have no entry points for connectors and volume drivers: both look a protocol up
in a table of their modules. `register_connector` and `register_nova` add our rows, in memory, in
the processes that load this package; nothing of upstream's is changed on disk. Every change is
checked against what upstream has: if a table or a method is not where it was, the service does not
start, and says with which versions.
"""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSequence
from importlib import metadata
from typing import Any

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

PROTOCOL = "OVS"
DRIVER_TYPE = "ovs"
CONNECTOR = "ovs_nova.connector.OvsConnector"
VOLUME_DRIVER = "ovs_nova.volume_driver.LibvirtOvsVolumeDriver"

_MAPPINGS = (
    "_connector_mapping_linux",
    "_connector_mapping_linux_s390x",
    "_connector_mapping_linux_ppc64",
)


class RegistrationError(RuntimeError):
    """Upstream is not as this release knows it."""

    def __init__(self, why: str) -> None:
        versions = ", ".join(f"{name} {_version(name)}" for name in ("nova", "os-brick"))
        super().__init__(
            f"cannot make Open vStorage's volumes attachable here: {why}; this is open-vstorage "
            f"{_version('open-vstorage')} with {versions}: install releases that go together"
        )


def register_connector() -> None:
    """Make os-brick know our protocol, in this process; again is fine.

    :raises RegistrationError: os-brick has other tables than expected
    """
    from os_brick.initiator import connector

    for name in _MAPPINGS:
        mapping = getattr(connector, name, None)
        if not isinstance(mapping, MutableMapping) or not _names_classes(mapping.values()):
            raise RegistrationError(f"os_brick.initiator.connector.{name} is no table of classes")
        mapping[PROTOCOL] = CONNECTOR
    known = getattr(connector, "unix_connector_list", None)
    if not isinstance(known, MutableSequence) or not _names_classes(known):
        why = "os_brick.initiator.connector.unix_connector_list is no list of classes"
        raise RegistrationError(why)
    if CONNECTOR not in known:
        known.append(CONNECTOR)
    LOG.info("registered protocol %s with os-brick %s", PROTOCOL, _version("os-brick"))


def register_nova() -> None:
    """Make Nova's libvirt driver know our volumes, in this process; again is fine.

    :raises RegistrationError: Nova has another table, or another class of a disk, than expected
    """
    register_connector()
    from nova.virt.libvirt import config, driver

    table = getattr(driver, "VOLUME_DRIVERS", None)
    if not isinstance(table, MutableMapping) or not _names_classes(table.values()):
        raise RegistrationError("nova.virt.libvirt.driver.VOLUME_DRIVERS is no table of classes")
    table[DRIVER_TYPE] = VOLUME_DRIVER
    disk = getattr(config, "LibvirtConfigGuestDisk", None)
    if disk is None:
        raise RegistrationError("nova.virt.libvirt.config has no LibvirtConfigGuestDisk")
    from ovs_nova.disk import install

    try:
        install(disk)
        _try_disk(disk)
    except RegistrationError:
        raise
    except Exception as failure:
        why = f"Nova's class of a disk does not work with unix sockets ({failure!r})"
        raise RegistrationError(why) from failure
    LOG.info("registered volumes of type %s with Nova %s", DRIVER_TYPE, _version("nova"))


def _try_disk(disk: type[Any]) -> None:
    """Write a disk on a unix socket, read it and write it again."""
    first = disk()
    first.source_type, first.source_protocol = "network", "nbd"
    first.target_dev, first.target_bus = "vda", "virtio"
    first.source_socket, first.reconnect_delay = "/run/vstorage/nbd/try.sock", 1
    text = first.to_xml()
    second = disk()
    second.parse_str(text)
    if second.to_xml() != text or first.source_socket not in text:
        raise RegistrationError("Nova's class of a disk loses a unix socket on the way")


def _names_classes(values: Any) -> bool:
    return all(isinstance(value, str) and value.count(".") > 1 for value in values)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
