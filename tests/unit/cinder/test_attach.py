"""What hosts are told, and which are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cinder import exception

from ovs_daemon.control.store import put
from ovs_daemon.policy.model import Role
from tests.unit.cinder.conftest import Cloud

GIB = 1 << 30


@pytest.fixture
def volume(cloud: Cloud) -> Any:
    made = cloud.make.volume(size=2, multiattach=True)
    cloud.driver.create_volume(made)
    return made


def test_connection_info(cloud: Cloud, volume: Any) -> None:
    info = cloud.driver.initialize_connection(volume, cloud.make.connector("node1", "node2"))
    assert info == {
        "driver_volume_type": "ovs",
        "data": {
            "volume_uuid": cloud.verbs.show_volume(volume.name)["uuid"],
            "name": volume.name,
            "size": 2 * GIB,
            "node": "node1",
            "domain": cloud.domain,
            "read_only": False,
            "access_mode": "rw",
            "discard": True,
            "multi_attach": True,
        },
    }


def test_a_host_without_the_plugin_is_told_what_to_do(cloud: Cloud, volume: Any) -> None:
    connector = {"host": "compute1", "initiator": "iqn.2026-01.example:1"}
    for refusing in (
        lambda: cloud.driver.validate_connector(connector),
        lambda: cloud.driver.initialize_connection(volume, connector),
    ):
        with pytest.raises(exception.InvalidConnectorException, match="has not loaded"):
            refusing()


def test_a_host_without_a_daemon_of_the_cluster_is_told_what_to_do(
    cloud: Cloud, volume: Any
) -> None:
    refused = exception.InvalidConnectorException
    with pytest.raises(refused, match=r"through node2: none of these is a node of this cluster"):
        cloud.driver.initialize_connection(volume, cloud.make.connector("node2"))
    with pytest.raises(refused, match="reaches no vstorage-daemon of its own"):
        cloud.driver.initialize_connection(volume, cloud.make.connector())


def test_a_host_attaches_through_its_own_daemon(cloud: Cloud, volume: Any) -> None:
    """Whoever owns the volume."""
    store = cloud.house.host.store
    owner = store.node("node1")
    assert owner is not None
    store.commit(put(replace(owner, addresses={"edge_tcp": "127.0.0.1:6640"})))
    here = replace(owner, name="compute1", roles=(Role.EDGE,), addresses={}, version=0)
    store.commit(put(here))
    info = cloud.driver.initialize_connection(volume, cloud.make.connector("compute1"))
    assert info["data"]["node"] == "compute1"


def test_force_detach_ends_all_attachments(cloud: Cloud, volume: Any) -> None:
    for host in ("compute1", "compute2"):
        cloud.verbs.attach_volume(volume.name, "edge", f"nova@{host}", shared=True)
    cloud.driver.terminate_connection(volume, cloud.make.connector("node1"))
    assert len(cloud.verbs.show_volume(volume.name)["attachments"]) == 2
    cloud.driver.terminate_connection(volume, None, force=True)
    assert cloud.verbs.show_volume(volume.name)["attachments"] == []
    cloud.driver.terminate_connection(cloud.make.volume(), None, force=True)


@pytest.mark.parametrize(
    ("program", "multi_attach", "left"),
    [
        ("nova-compute", False, ["cinder-volume@compute1", "nova-compute@compute2"]),
        ("nova-compute", True, ["cinder-volume@compute1", "nova-compute@compute2"]),
        # It may have another copy going.
        ("cinder-volume", False, ["all"]),
    ],
)
def test_what_a_killed_host_left_attached_ends_with_cinders_attachment(
    cloud: Cloud, program: str, multi_attach: bool, left: list[str]
) -> None:
    volume = cloud.make.volume(multiattach=multi_attach)
    cloud.driver.create_volume(volume)
    holders = ["cinder-volume@compute1", "nova-compute@compute1", "nova-compute@compute2"]
    for holder in holders:
        cloud.verbs.attach_volume(volume.name, "edge", holder, shared=True)
    connector = cloud.make.connector("node1", program=program)
    for _ in range(2):
        cloud.driver.terminate_connection(volume, connector)
    found = cloud.verbs.show_volume(volume.name)["attachments"]
    assert [one["holder"] for one in found] == (holders if left == ["all"] else left)


def test_a_volume_of_several_servers_is_a_hosts_until_its_last_server_is_done(cloud: Cloud) -> None:
    volume = cloud.make.volume(multiattach=True)
    cloud.driver.create_volume(volume)
    for host in ("compute1", "compute2"):
        cloud.verbs.attach_volume(volume.name, "edge", f"nova-compute@{host}", shared=True)
    mine = cloud.make.connector("node1")
    theirs = {**mine, "ovs": {"nodes": ["node2"], "holder": "nova-compute@compute2"}}
    # Two servers here, one elsewhere, and one that is not on a host yet.
    volume.volume_attachment.objects.extend(
        cloud.make.attachment(volume, connector=one) for one in (mine, theirs, mine, None)
    )

    def holders() -> list[str]:
        return [one["holder"] for one in cloud.verbs.show_volume(volume.name)["attachments"]]

    cloud.driver.terminate_connection(volume, mine)
    assert holders() == ["nova-compute@compute1", "nova-compute@compute2"]
    del volume.volume_attachment.objects[0]
    cloud.driver.terminate_connection(volume, mine)
    assert holders() == ["nova-compute@compute2"]


def test_a_node_that_is_down_does_not_keep_an_attachment_at_cinder(cloud: Cloud) -> None:
    volume = cloud.make.volume()
    cloud.driver.create_volume(volume)
    cloud.verbs.attach_volume(volume.name, "edge", "nova-compute@compute1")
    cloud.server.stop()
    cloud.driver.api._timeout_s = 0.2
    cloud.driver.terminate_connection(volume, cloud.make.connector("node1"))
    assert len(cloud.verbs.show_volume(volume.name)["attachments"]) == 1


def test_a_snapshot_is_attached_as_a_read_only_clone(cloud: Cloud, volume: Any) -> None:
    snapshot = cloud.make.snapshot(volume)
    connector = cloud.make.connector("node1")
    cloud.driver.create_snapshot(snapshot)
    cloud.driver.create_export_snapshot(cloud.context, snapshot, connector)
    # Whoever lost the answer asks again.
    cloud.driver.create_export_snapshot(cloud.context, snapshot, connector)
    data = cloud.driver.initialize_connection_snapshot(snapshot, connector)["data"]
    assert (data["read_only"], data["access_mode"]) == (True, "ro")
    assert cloud.verbs.show_volume(data["name"])["parent"]["snapshot"] == snapshot.name
    cloud.verbs.attach_volume(data["name"], "edge", "cinder@host")
    cloud.driver.terminate_connection_snapshot(snapshot, connector)
    # Also what the host left attached goes.
    cloud.driver.remove_export_snapshot(cloud.context, snapshot)
    cloud.driver.remove_export_snapshot(cloud.context, snapshot)
    assert [one["name"] for one in cloud.verbs.list_volumes()["volumes"]] == [volume.name]
    cloud.driver.delete_snapshot(snapshot)
