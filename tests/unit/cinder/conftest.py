"""Cinder's driver in front of a daemon of twins, over oslo.messaging's in-process bus.

Everything between the driver's methods and the engine runs for real: RPC, verbs, registry.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cinder import context as cinder_context
from cinder import objects
from cinder import utils as cinder_utils
from cinder.common import config as cinder_config
from cinder.privsep import sys_admin_pctxt
from cinder.volume import configuration
from cinder.volume import driver as base_driver
from oslo_config import cfg

from ovs_cinder.driver import OVSVolumeDriver
from ovs_daemon.control.verbs import Verbs
from ovs_daemon.rpc.server import RpcServer, make_transport
from tests.support.house import House
from tests.support.openstack import Makers
from tests.support.town import Inhabitant
from tests.unit.cinder.served import MIB, Served

_domains = (f"domain{number}" for number in itertools.count())


@dataclass
class Cloud:
    """A Domain with one node, and the backend section that offers it."""

    house: House
    domain: str
    driver: OVSVolumeDriver
    make: Makers
    context: Any
    server: RpcServer

    @property
    def verbs(self) -> Verbs:
        """The daemon's verbs, past the bus."""
        return Verbs(self.house.host, lambda: True)


@pytest.fixture(scope="session", autouse=True)
def _cinder() -> None:
    objects.register_all()
    cfg.CONF([], project="cinder", default_config_files=[])
    assert cinder_config.CONF is cfg.CONF


@contextlib.contextmanager
def serve(house: House | Inhabitant, domain: str) -> Iterator[RpcServer]:
    """Let a house's daemon listen for its Domain."""
    node = house.host.settings.node
    conf = cfg.ConfigOpts()
    conf([])
    transport = make_transport(conf, "fake:///")
    server = RpcServer(transport, Verbs(house.host, lambda: True), domain, node, 4)
    server.start()
    assert server.wait_listening(60)
    try:
        yield server
    finally:
        server.stop()


def make_driver(domain: str, **settings: Any) -> OVSVolumeDriver:
    """The driver as cinder-volume makes it, its section holding the settings."""
    section = f"ovs-{domain}"
    # As cinder-volume does it, and with all options so that the section can be filled.
    backend_options = [*base_driver.volume_opts, *OVSVolumeDriver.get_driver_options()]
    section_configuration = configuration.Configuration(backend_options, config_group=section)
    ours = {"ovs_domain": domain, "ovs_transport_url": "fake:///", "ovs_rpc_timeout": 10.0}
    settings = {**ours, **settings}
    for name, value in settings.items():
        cfg.CONF.set_override(name, value, group=section)
    return OVSVolumeDriver(configuration=section_configuration, host=f"host@{section}")


@pytest.fixture
def domain() -> str:
    """A name that no other test uses, since the bus outlives them."""
    return next(_domains)


@pytest.fixture
def cloud(domain: str) -> Iterator[Cloud]:
    house = House(domain)
    context = cinder_context.get_admin_context()
    with serve(house, domain) as server:
        driver = make_driver(domain)
        driver.do_setup(context)
        driver.check_for_setup_error()
        driver.set_initialized()
        yield Cloud(house, domain, driver, Makers(context, domain), context, server)
    house.check()


@pytest.fixture
def served(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    for tool in ("qemu-img", "qemu-nbd"):
        assert shutil.which(tool), f"{tool} is not installed: apt install qemu-utils"
    # What Cinder does as root, it does as we are.
    monkeypatch.setattr(cinder_utils, "get_root_helper", lambda: "env")
    monkeypatch.setattr(sys_admin_pctxt, "client_mode", False)
    with tempfile.TemporaryDirectory(prefix="ovs-") as name:
        folder = Path(name)
        (folder / "direct").mkdir()
        cfg.CONF.set_override("image_conversion_dir", str(folder))
        monkeypatch.setattr(cloud.house.engine, "_run_dir", name)
        made = Served(cloud, folder)
        try:
            yield made
        finally:
            cfg.CONF.clear_override("image_conversion_dir")
            made.stop()


@pytest.fixture
def image(served: Served) -> Path:
    """A qcow2 image of 300 MiB of which 3 MiB are data."""
    raw, image = served.folder / "image.raw", served.folder / "image.qcow2"
    with raw.open("wb") as file:
        for offset in (0, 123 * MIB, 299 * MIB):
            file.seek(offset)
            file.write(b"data" * (MIB // 4))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, image], check=True)
    return image
