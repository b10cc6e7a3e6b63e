"""Starting, refusing to start, and what the scheduler is told."""

from __future__ import annotations

from typing import Any

import pytest
from cinder import exception
from cinder.interface import util, volume_driver
from oslo_config import cfg

from ovs_cinder.driver import OVSVolumeDriver
from ovs_daemon.control.domains import set_domain
from ovs_daemon.control.store import put
from ovs_daemon.control.topology import Node
from tests.support.house import House
from tests.support.in_turns import InTurns
from tests.unit.cinder.conftest import Cloud, make_driver, serve


def started(domain: str, **settings: Any) -> OVSVolumeDriver:
    driver = make_driver(domain, **settings)
    driver.do_setup(None)
    driver.check_for_setup_error()
    return driver


def test_cinder_finds_a_complete_driver() -> None:
    """Cinder's own compliance test, over what its registry knows after our module is loaded."""
    (ours,) = [one for one in util.get_volume_drivers() if one.cls is OVSVolumeDriver]
    assert issubclass(ours.cls, volume_driver.VolumeDriverCore)
    assert ours.class_fqn == "ovs_cinder.driver.OVSVolumeDriver"
    assert ours.version == "1.0.0"
    assert ours.ci_wiki_name
    assert ours.version in str(OVSVolumeDriver.__doc__)
    assert {option.name for option in ours.driver_options} >= {"ovs_domain", "ovs_transport_url"}
    assert OVSVolumeDriver.SUPPORTS_ACTIVE_ACTIVE


def test_nobody_serves_the_domain(domain: str) -> None:
    with pytest.raises(exception.VolumeBackendAPIException, match=f"{domain}.*no node of it"):
        started(domain, ovs_rpc_timeout=1.0)


def test_one_node_that_hangs_does_not_keep_the_backend_down(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(domain)
    house.host.store.commit(put(Node("node2", domain)))
    driver = make_driver(domain)
    driver.do_setup(None)
    for listeners in ((house, None), (None, house), (None, None, house)):
        client = InTurns(*listeners)
        monkeypatch.setattr(driver.api, "_client", client)
        driver.check_for_setup_error()
        assert 0 < client.waited_s <= 20
        # Whoever is asked next.
        driver.get_volume_stats(refresh=True)
        assert driver.api.cluster == house.host.store.cluster_id()


def test_a_domain_whose_nodes_all_hang_does_not_start(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make_driver(domain)
    driver.do_setup(None)
    client = InTurns(None)
    monkeypatch.setattr(driver.api, "_client", client)
    with pytest.raises(exception.VolumeBackendAPIException, match="no node of it"):
        driver.check_for_setup_error()
    assert client.longest_s == 10, "one that is only slow has its time"


def test_the_zone_must_be_the_domains(domain: str) -> None:
    house = House(domain)
    set_domain(house.host, domain, availability_zone="az1")
    with serve(house, domain):
        with pytest.raises(exception.InvalidConfigurationValue, match="availability zone az1"):
            started(domain, backend_availability_zone="az2")
        started(domain, backend_availability_zone="az1")
        started(domain, backend_availability_zone=None)


def test_a_bus_that_cannot_be(domain: str) -> None:
    with pytest.raises(exception.InvalidInput, match="ovs_transport_url"):
        started(domain, ovs_transport_url="pigeon://host")


def test_names_must_not_be_uuids(cloud: Cloud) -> None:
    cfg.CONF.set_override("volume_name_template", "%s")
    try:
        with pytest.raises(exception.InvalidConfigurationValue, match="volume_name_template"):
            cloud.driver.check_for_setup_error()
    finally:
        cfg.CONF.clear_override("volume_name_template")


def test_statistics(cloud: Cloud) -> None:
    cloud.driver.create_volume(cloud.make.volume(size=3))
    cloud.driver.create_volume(cloud.make.volume(size=4))
    stats = cloud.driver.get_volume_stats(refresh=True)
    assert stats["storage_protocol"] == "ovs"
    assert stats["shared_targets"] is False
    assert stats["driver_version"] == "1.0.0"
    (pool,) = stats["pools"]
    assert pool["pool_name"] == cloud.domain == cloud.driver.get_pool(cloud.make.volume())
    assert pool["backend_state"] == "up"
    assert (pool["total_capacity_gb"], pool["free_capacity_gb"]) == (100, 60)
    assert (pool["provisioned_capacity_gb"], pool["total_volumes"]) == (7, 2)
    assert pool["max_over_subscription_ratio"] == 20
    assert pool["filter_function"] is None
    assert "free_capacity_gb / capabilities.total_capacity_gb" in pool["goodness_function"]
    real = {name for name, value in pool.items() if value is True}
    assert real == {
        "QoS_support",
        "consistent_group_snapshot_enabled",
        "multiattach",
        "thin_provisioning_support",
    }


def test_online_extend_is_reported_as_configured(domain: str) -> None:
    with serve(House(domain), domain):
        driver = started(domain, ovs_online_extend=True)
        (pool,) = driver.get_volume_stats(refresh=True)["pools"]
        assert pool["online_extend_support"] is True


def test_a_domain_that_went_away_is_down(domain: str) -> None:
    with serve(House(domain), domain):
        driver = started(domain, ovs_rpc_timeout=1.0)
    (pool,) = driver.get_volume_stats(refresh=True)["pools"]
    assert (pool["backend_state"], pool["total_capacity_gb"]) == ("down", 0)


def test_what_went_to_another_domain_can_still_be_scheduled(domain: str) -> None:
    house = House(domain)
    store = house.host.store
    store.commit(put(Node("node2", "elsewhere")))
    with serve(house, domain):
        driver = started(domain, ovs_rpc_timeout=1.0)
        driver.get_volume_stats(refresh=True)
    (pool,) = driver.get_volume_stats(refresh=True)["pools"]
    assert (pool["backend_state"], pool["total_capacity_gb"]) == ("down", 100)


def test_vendor_properties(cloud: Cloud) -> None:
    cloud.driver.init_capabilities()
    assert cloud.driver.capabilities["vendor_prefix"] == "ovs"
    assert "ovs:preset" in cloud.driver.capabilities["properties"]
    assert "ovs:sco_size" in cloud.driver.capabilities["properties"]
