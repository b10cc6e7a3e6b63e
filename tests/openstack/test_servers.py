"""Servers with volumes: attach, detach, zones, live migration."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.openstack.conftest import Made
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import ZONES
from tests.openstack.nodes import NodeView, traces, traces_in_the_end
from tests.openstack.user import User


def test_what_a_server_wrote_is_there_for_the_next(
    made: Made, user: User, nodes: list[NodeView]
) -> None:
    before = traces(nodes)
    root, data = made.bootable(), made.volume()
    server = made.server(root)
    user.attach(server, data)
    mark = user.wait_console(server, r"GUEST: marked vdb (\S+)\n").group(1)
    user.detach(server, data)
    user.wait_console(server, r"GUEST: disk vdb gone\n")
    user.attach(server, data)
    user.wait_console(server, rf"GUEST: disk vdb 2097152 sectors, mark {mark}\n")
    user.delete_server(server)
    second = made.server(root)
    user.wait_console(second, r"GUEST: boot 2\n")
    user.remove([second], [root, data])
    assert traces_in_the_end(nodes, before) == before


def test_an_attached_volume_grows_under_the_server(made: Made, user: User) -> None:
    server = made.server(made.bootable())
    data = made.volume()
    user.attach(server, data)
    user.wait_console(server, r"GUEST: marked vdb \S+\n")
    user.cloud.block_storage.extend_volume(data, 3)
    user.wait_console(server, r"GUEST: disk vdb resized to 6291456 sectors\n")
    assert user.wait_volume(data, "in-use").size == 3
    user.wait_tick_after(server, user.tick(server))


def test_a_server_moves_with_its_volumes_and_writes_on(made: Made, user: User) -> None:
    server = made.server(made.bootable())
    data = made.volume()
    user.attach(server, data)
    user.wait_console(server, r"GUEST: marked vdb \S+\n")
    source = user.cloud.compute.get_server(server).compute_host
    (target,) = ({zone.hypervisor for zone in ZONES}) - {source}
    tick = user.tick(server)
    user.cloud.compute.live_migrate_server(server, host=target, block_migration=False)
    user.wait_migration(server, target)
    user.wait_tick_after(server, tick)
    user.detach(server, data)
    user.wait_console(server, r"GUEST: disk vdb gone\n")


def test_a_server_uses_volumes_of_another_zone(
    made: Made, user: User, nodes: list[NodeView]
) -> None:
    before = traces(nodes)
    near, far = ZONES[1], ZONES[0]
    root, data = made.bootable(availability_zone=far.name), made.volume()
    server = made.server(root, near.name)
    user.attach(server, data)
    user.wait_console(server, r"GUEST: marked vdb \S+\n")
    for volume in (root, data):
        found = nodes[1].record(volume)
        assert found["node"] == far.storage
        assert [one["node"] for one in found["attachments"]] == [near.hypervisor]
    user.cloud.block_storage.extend_volume(data, 2)
    user.wait_console(server, r"GUEST: disk vdb resized to 4194304 sectors\n")
    user.wait_volume(data, "in-use")
    user.detach(server, data)
    user.remove([server], [root, data])
    assert traces_in_the_end(nodes, before) == before


@pytest.fixture
def zones_kept_apart(cloud: Cloud) -> Iterator[None]:
    """Nova with cross_az_attach=False."""
    # Which of them looks, depends on the version of the API that the user asks for.
    services = ["nova-api", "nova-conductor", *(f"nova-{zone.hypervisor}" for zone in ZONES)]
    cloud.configuration.write(cross_az_attach=False)
    try:
        cloud.restart_and_wait(services)
        yield
    finally:
        cloud.configuration.write()
        cloud.restart_and_wait(services)


@pytest.mark.usefixtures("zones_kept_apart")
def test_without_cross_az_attach_servers_stay_with_their_volumes(made: Made, user: User) -> None:
    near, far = ZONES[1], ZONES[0]
    root = made.bootable(availability_zone=near.name)
    server = made.server(root)
    assert user.cloud.compute.get_server(server).compute_host == near.hypervisor
    foreign = made.volume(availability_zone=far.name)
    # Later versions of the API answer before they look.
    refused = user.cloud.compute.post(
        f"/servers/{server}/os-volume_attachments",
        json={"volumeAttachment": {"volumeId": foreign}},
        microversion="2.95",
    )
    assert refused.status_code == 400
    assert "not in the same availability_zone" in refused.text
    data = made.volume(availability_zone=near.name)
    user.attach(server, data)
    user.wait_console(server, r"GUEST: marked vdb \S+\n")
