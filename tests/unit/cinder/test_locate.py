"""How cinder-backup finds a volume's daemons while the Domain of its section is dead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import oslo_messaging
import pytest
from oslo_config import cfg

from ovs_cinder.api import DomainApi, transport_of
from ovs_cinder.backup import locate
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.rpc import contract
from tests.support.house import House
from tests.support.openstack import Makers
from tests.support.town import Inhabitant, Town
from tests.unit.cinder.conftest import make_driver, serve

GIB = 1 << 30


class Bus:
    """The bus in this process, which returns what nobody listens for, as RabbitMQ does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.topics: set[str] = set()
        driver = transport_of(cfg.CONF, "fake:///")._driver
        send = driver.send

        def send_or_return(target: Any, *args: Any, **more: Any) -> Any:
            if target.topic not in self.topics:
                raise oslo_messaging.MessageUndeliverable(None, "vstorage", target.topic, None)
            return send(target, *args, **more)

        monkeypatch.setattr(driver, "send", send_or_return)

    @contextlib.contextmanager
    def serve(self, house: House | Inhabitant, domain: str) -> Iterator[None]:
        """Let a daemon listen for its Domain."""
        with serve(house, domain):
            node = house.host.settings.node
            self.topics |= {contract.topic(domain), contract.node_topic(domain, node)}
            try:
                yield
            finally:
                self.topics.clear()


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    return Bus(monkeypatch)


@contextlib.contextmanager
def sections(*domains: str) -> Iterator[None]:
    """Backend sections of ours for these Domains, and one of another driver."""
    option = cfg.StrOpt("volume_driver")
    for domain in domains:
        section = f"ovs-{domain}"
        make_driver(domain, ovs_rpc_timeout=60.0)
        cfg.CONF.register_opt(option, group=section)
        cfg.CONF.set_override("volume_driver", locate.DRIVER, group=section)
    cfg.CONF.set_override("enabled_backends", ["lvm", *(f"ovs-{one}" for one in domains)])
    try:
        yield
    finally:
        cfg.CONF.clear_override("enabled_backends")


def located(volume: Any) -> DomainApi:
    """A volume's daemons, as a cinder-backup that has just started finds them."""
    locate._apis.clear()
    api = locate.api_of(volume)
    assert api is not None
    return api


def test_a_domain_that_was_dead_from_the_start(domain: str, bus: Bus) -> None:
    other = f"{domain}-other"
    town = Town({"one": (domain, other), "two": (other, domain)})
    volume = Makers(None, domain).volume()
    with sections(domain, other):
        with bus.serve(town["one"], domain):
            uuid = located(volume).create_volume(volume.name, GIB)["uuid"]
            made = town.volume(uuid)
        town.tend()
        town.in_sync(made)
        town["one"].kill()
        town.pass_time()
        town.tend()
        with bus.serve(town["two"], other):
            api = located(volume)
            assert api.show_volume(volume.name)["domain"] == other
            assert api.create_snapshot(volume.name, "s1")["volume"] == volume.name
            assert locate.api_of(volume) is api


def test_what_a_domain_told_while_it_lived_is_remembered(domain: str, bus: Bus) -> None:
    other = f"{domain}-other"
    town = Town({"one": (domain, other), "two": (other, domain)})
    volume = Makers(None, domain).volume()
    # No section offers the other one.
    with sections(domain):
        with bus.serve(town["one"], domain):
            assert located(volume).others == (other,)
        with bus.serve(town["two"], other):
            again = locate.api_of(volume)
            assert again is not None
            assert again.list_volumes() == []


def test_another_cluster_is_not_asked(domain: str, bus: Bus) -> None:
    """It would say that there is no such volume, and a backup's snapshot would count as gone."""
    other = f"{domain}-other"
    volume = Makers(None, domain).volume()
    with sections(domain, other), bus.serve(House(other), other):
        with pytest.raises(VStorageError, match=f"{domain}'.*no node of it answers") as caught:
            located(volume)
        assert caught.value.code == Code.DAEMON_UNAVAILABLE
