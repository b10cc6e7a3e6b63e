"""Our rows in upstream's tables, the doors by which they get there, and what stops them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

import pytest
from nova.virt.libvirt import config, driver
from os_brick.initiator import connector
from oslo_utils import importutils

from ovs_nova import registration


def test_the_rows_lead_to_our_classes() -> None:
    registration.register_nova()
    registration.register_nova()
    for name in (connector._connector_mapping_linux["OVS"], driver.VOLUME_DRIVERS["ovs"]):
        assert importutils.import_class(name).__module__.startswith("ovs_nova.")
    assert connector.unix_connector_list.count(registration.CONNECTOR) == 1


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (connector, "_connector_mapping_linux"),
        (connector, "_connector_mapping_linux_s390x"),
        (connector, "unix_connector_list"),
        (driver, "VOLUME_DRIVERS"),
        (config, "LibvirtConfigGuestDisk"),
    ],
)
def test_a_table_that_moved_stops_the_service(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    monkeypatch.delattr(module, name)
    with pytest.raises(registration.RegistrationError, match=rf"{name}.* with nova \d+.*os-brick"):
        registration.register_nova()


def test_a_table_of_something_else_stops_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "VOLUME_DRIVERS", {"iscsi": object})
    with pytest.raises(registration.RegistrationError, match="VOLUME_DRIVERS is no table"):
        registration.register_nova()


def test_a_disk_that_does_not_take_sockets_stops_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config.LibvirtConfigGuestDisk, "parse_dom", lambda self, xml: None)
    with pytest.raises(registration.RegistrationError, match="unix socket"):
        registration.register_nova()


@pytest.mark.parametrize("group", ["os_vif", "oslo.messaging.notify.drivers"])
def test_the_doors_are_installed(group: str) -> None:
    (door,) = entry_points(group=group, name="open_vstorage")
    assert door.load().__module__.startswith("ovs_nova.")


def run(code: str, lines: int = 1) -> list[str]:
    """The last lines that a fresh process prints."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-lines:]


TABLES = """
from os_brick.initiator import connector
import sys
nova = sys.modules.get("nova.virt.libvirt.driver")
print("OVS" in connector._connector_mapping_linux, bool(nova and "ovs" in nova.VOLUME_DRIVERS))
"""


def test_nova_compute_registers_and_recovers_when_it_loads_os_vif() -> None:
    threads = """
import threading
from ovs_nova.recovery import THREAD
print([one.daemon for one in threading.enumerate() if one.name == THREAD])
"""
    start = """
from nova.cmd import compute
import os_vif
compute.CONF.set_override("auth_type", "password", group="cinder")
os_vif.initialize()
"""
    assert run(f"{start}\n{TABLES}{threads}", 2) == ["True True", "[True]"]


def test_another_user_of_os_vif_is_left_alone() -> None:
    assert run(f"import os_vif\nos_vif.initialize()\n{TABLES}") == ["False False"]


def test_a_service_registers_when_it_makes_its_notifier() -> None:
    code = """
from oslo_config import cfg
import oslo_messaging
conf = cfg.ConfigOpts()
transport = oslo_messaging.get_notification_transport(conf, url="fake:/")
conf.set_override("driver", ["open_vstorage"], group="oslo_messaging_notifications")
notifier = oslo_messaging.Notifier(transport, "test")
notifier.info({}, "event", {})
"""
    assert run(code + TABLES) == ["True False"]


def test_cinder_volume_registers_when_it_loads_the_driver() -> None:
    assert run(f"import ovs_cinder.driver\n{TABLES}") == ["True False"]
