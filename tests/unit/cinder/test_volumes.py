"""Volumes and snapshots through the driver."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cinder import exception

from ovs_daemon.errors import VStorageError
from tests.unit.cinder.conftest import Cloud

GIB = 1 << 30


def shown(cloud: Cloud, volume: Any) -> dict[str, Any]:
    return cloud.verbs.show_volume(volume.name)


def test_create_extend_delete(cloud: Cloud) -> None:
    volume = cloud.make.volume(size=3)
    cloud.driver.create_volume(volume)
    assert shown(cloud, volume)["size"] == 3 * GIB
    cloud.driver.extend_volume(volume, 5)
    assert shown(cloud, volume)["size"] == 5 * GIB
    cloud.driver.delete_volume(volume)
    assert cloud.verbs.list_volumes(everything=True) == {"volumes": []}
    cloud.driver.delete_volume(volume)


def test_the_name_is_that_of_name_id(cloud: Cloud) -> None:
    """After a migration a volume's data is under another id than its own."""
    volume = cloud.make.volume()
    volume._name_id = "5c4bf8ae-5a33-4b54-8b5d-66ac8c0c5d4c"
    cloud.driver.create_volume(volume)
    (found,) = cloud.verbs.list_volumes()["volumes"]
    assert found["name"] == "volume-5c4bf8ae-5a33-4b54-8b5d-66ac8c0c5d4c"


def test_snapshot_and_larger_volume_from_it(cloud: Cloud) -> None:
    volume = cloud.make.volume(size=1)
    snapshot = cloud.make.snapshot(volume)
    larger = cloud.make.volume(size=4)
    cloud.driver.create_volume(volume)
    cloud.driver.create_snapshot(snapshot)
    cloud.driver.create_volume_from_snapshot(larger, snapshot)
    found = shown(cloud, larger)
    assert (found["size"], found["parent"]["snapshot"]) == (4 * GIB, snapshot.name)
    cloud.driver.delete_snapshot(snapshot)
    cloud.driver.delete_snapshot(snapshot)
    cloud.driver.delete_volume(volume)
    cloud.driver.delete_snapshot(snapshot)
    # Both are hidden for the clone only, and go with it.
    cloud.driver.delete_volume(larger)
    assert cloud.verbs.list_volumes(everything=True) == {"volumes": []}


def test_clone_is_of_now_and_may_be_larger(cloud: Cloud) -> None:
    source, clone = cloud.make.volume(size=1), cloud.make.volume(size=2)
    cloud.driver.create_volume(source)
    cloud.house.disk.volumes[shown(cloud, source)["uuid"]].content = 7
    cloud.driver.create_cloned_volume(clone, source)
    found = shown(cloud, clone)
    assert found["size"] == 2 * GIB
    assert cloud.house.disk.volumes[found["uuid"]].content == 7


def test_revert(cloud: Cloud) -> None:
    volume = cloud.make.volume()
    snapshot = cloud.make.snapshot(volume)
    cloud.driver.create_volume(volume)
    data = cloud.house.disk.volumes[shown(cloud, volume)["uuid"]]
    data.content = 1
    cloud.driver.create_snapshot(snapshot)
    data.content = 2
    cloud.driver.revert_to_snapshot(cloud.context, volume, snapshot)
    assert data.content == 1
    assert cloud.driver.snapshot_revert_use_temp_snapshot() is False


def test_what_is_missing_is_named(cloud: Cloud) -> None:
    volume = cloud.make.volume()
    with pytest.raises(exception.VolumeNotFound, match=volume.name):
        cloud.driver.extend_volume(volume, 2)
    cloud.driver.create_volume(volume)
    with pytest.raises(exception.SnapshotNotFound):
        cloud.driver.create_volume_from_snapshot(cloud.make.volume(), cloud.make.snapshot(volume))
    with pytest.raises(exception.VolumeBackendAPIException, match="already a volume"):
        cloud.driver.create_volume(volume)


def test_an_attached_volume_is_busy(cloud: Cloud) -> None:
    volume = cloud.make.volume()
    cloud.driver.create_volume(volume)
    cloud.verbs.attach_volume(volume.name, "direct", "nova@compute1")
    volume.volume_attachment.objects.append(cloud.make.attachment(volume))
    with pytest.raises(exception.VolumeIsBusy, match="nova@compute1"):
        cloud.driver.delete_volume(volume)
    # Without an attachment in Cinder the one in the daemon is what a dead host left.
    volume.volume_attachment.objects.clear()
    cloud.driver.delete_volume(volume)
    with pytest.raises(VStorageError, match="no volume"):
        shown(cloud, volume)


def test_a_failure_leaves_nothing(cloud: Cloud) -> None:
    volume = cloud.make.volume()
    cloud.house.engine.fail.add("create_volume")
    with pytest.raises(exception.VolumeBackendAPIException, match="the disk failed"):
        cloud.driver.create_volume(volume)
    assert cloud.verbs.list_volumes(everything=True) == {"volumes": []}
    cloud.house.engine.fail.clear()
    cloud.driver.create_volume(volume)


def test_what_killed_services_left_goes_with_what_it_was_made_of(cloud: Cloud) -> None:
    """Clones of which nobody but the driver knows, still attached by who was killed."""
    volume = cloud.make.volume()
    snapshot = cloud.make.snapshot(volume)
    cloud.driver.create_volume(volume)
    cloud.driver.create_snapshot(snapshot)
    cloud.driver.create_export_snapshot(cloud.context, snapshot, None)
    cloud.verbs.attach_volume(f"{snapshot.name}.view", "edge", "cinder-backup@host")
    cloud.verbs.create_volume(f"{volume.name}.upload", None, {"volume": volume.name})
    cloud.verbs.attach_volume(f"{volume.name}.upload", "direct", "image@host")
    cloud.driver.delete_snapshot(snapshot)
    left = {one["name"] for one in cloud.verbs.list_volumes()["volumes"]}
    assert left == {volume.name, f"{volume.name}.upload"}
    cloud.driver.delete_volume(volume)
    assert cloud.verbs.list_volumes(everything=True) == {"volumes": []}


def test_many_at_once(cloud: Cloud) -> None:
    """As from several cinder-volumes of one cluster: no error, nothing left behind."""
    source = cloud.make.volume()
    cloud.driver.create_volume(source)

    def live(_: int) -> None:
        volume = cloud.make.volume()
        snapshot, clone = cloud.make.snapshot(volume), cloud.make.volume(size=2)
        cloud.driver.create_cloned_volume(volume, source)
        cloud.driver.create_snapshot(snapshot)
        cloud.driver.create_volume_from_snapshot(clone, snapshot)
        cloud.driver.initialize_connection(clone, cloud.make.connector("node1"))
        cloud.driver.delete_snapshot(snapshot)
        cloud.driver.delete_volume(volume)
        cloud.driver.terminate_connection(clone, None)
        cloud.driver.delete_volume(clone)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(live, range(24)))
    cloud.driver.delete_volume(source)
    assert cloud.verbs.list_volumes(everything=True) == {"volumes": []}
    assert cloud.verbs.list_snapshots() == {"snapshots": []}
