"""Volumes and snapshots that were there before, and what happens around a migration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cinder import exception, objects

from ovs_daemon.control.verbs import Verbs
from ovs_daemon.errors import VStorageError
from tests.support.cinder_database import database
from tests.support.house import House
from tests.support.openstack import Makers
from tests.unit.cinder.conftest import Cloud, make_driver, serve

GIB = 1 << 30
MIB = 1 << 20
PAGE: tuple[Any, ...] = (None, 100, 0, ["size", "reference"], ["asc", "asc"])


@pytest.fixture
def records() -> Iterator[Any]:
    """Cinder's database; yields an administrator's context."""
    with database() as context:
        yield context


def test_manage_and_unmanage(cloud: Cloud) -> None:
    made = cloud.verbs.create_volume("old", 3 * GIB // 2)
    volume = cloud.make.volume(size=2)
    for reference in ({"source-name": "old"}, {"source-id": made["uuid"]}):
        assert cloud.driver.manage_existing_get_size(volume, reference) == 2
    cloud.driver.manage_existing(volume, {"source-name": "old"})
    found = cloud.verbs.show_volume(volume.name)
    # What Cinder counts is there.
    assert (found["uuid"], found["size"]) == (made["uuid"], 2 * GIB)
    cloud.driver.unmanage(volume)
    assert cloud.verbs.show_volume(volume.name)["uuid"] == made["uuid"]


def test_what_cannot_be_managed(cloud: Cloud) -> None:
    volume = cloud.make.volume()
    cloud.verbs.create_volume("busy", GIB)
    cloud.verbs.attach_volume("busy", "edge")
    cloud.verbs.create_volume("gold", GIB)
    cloud.verbs.set_template("gold", True)
    for reference, why in (
        ({}, "source-name or source-id"),
        ({"source-name": "nope"}, "no such volume"),
        ({"source-name": "busy"}, "attached"),
        ({"source-name": "gold"}, "template"),
    ):
        with pytest.raises(exception.ManageExistingInvalidReference, match=why):
            cloud.driver.manage_existing_get_size(volume, reference)


def test_manageable_volumes(cloud: Cloud) -> None:
    managed = cloud.make.volume(size=5)
    cloud.driver.create_volume(managed)
    cloud.verbs.create_volume("free", 10 * MIB)
    cloud.verbs.create_volume("busy", 2 * GIB)
    cloud.verbs.attach_volume("busy", "edge")
    cloud.verbs.create_volume("gold", 3 * GIB)
    cloud.verbs.set_template("gold", True)
    cloud.verbs.create_volume("some.view", 4 * GIB)
    found = cloud.driver.get_manageable_volumes([managed], *PAGE)
    assert [
        (one["reference"]["source-name"], one["size"], one["reason_not_safe"], one["cinder_id"])
        for one in found
    ] == [
        ("free", 1, None, None),
        ("busy", 2, "attached", None),
        ("gold", 3, "a template", None),
        ("some.view", 4, "made by the driver for itself", None),
        (managed.name, 5, "already managed", managed.id),
    ]
    assert [one["safe_to_manage"] for one in found] == [True, False, False, False, False]
    (second,) = cloud.driver.get_manageable_volumes([managed], None, 1, 1, ["size"], ["asc"])
    assert second["reference"] == {"source-name": "busy"}


def test_snapshots(cloud: Cloud) -> None:
    volume = cloud.make.volume()
    cloud.driver.create_volume(volume)
    cloud.verbs.create_snapshot(volume.name, "monday")
    snapshot = cloud.make.snapshot(volume)
    reference = {"source-name": "monday"}
    (found,) = cloud.driver.get_manageable_snapshots([], *PAGE)
    assert found["reference"] == reference
    assert found["source_reference"] == {"source-name": volume.name}
    assert found["safe_to_manage"]
    assert cloud.driver.manage_existing_snapshot_get_size(snapshot, reference) == 1
    cloud.driver.manage_existing_snapshot(snapshot, reference)
    (found,) = cloud.driver.get_manageable_snapshots([snapshot], *PAGE)
    assert (found["cinder_id"], found["safe_to_manage"]) == (snapshot.id, False)
    with pytest.raises(exception.ManageExistingInvalidReference, match="no such snapshot"):
        cloud.driver.manage_existing_snapshot(snapshot, reference)
    cloud.driver.unmanage_snapshot(snapshot)
    cloud.driver.delete_snapshot(snapshot)
    assert cloud.verbs.list_snapshots() == {"snapshots": []}


def test_another_sections_volume_stays_its_owners(records: Any, cloud: Cloud) -> None:
    """Also one that came here by a takeover, or is in another section of this Domain."""
    theirs = objects.Volume(records, size=1, host="other@ovs2#elsewhere", status="available")
    theirs.create()
    migrated = objects.Volume(records, size=1, host="other@ovs2#elsewhere", status="available")
    migrated.create()
    migrated._name_id = "5c4bf8ae-5a33-4b54-8b5d-66ac8c0c5d4c"
    migrated.save()
    gone = objects.Volume(records, size=1, host="other@ovs2#elsewhere", status="available")
    gone.create()
    name = gone.name
    gone.destroy()
    uuids = {
        one: cloud.verbs.create_volume(one, GIB)["uuid"]
        for one in (theirs.name, migrated.name, name)
    }
    found = cloud.driver.get_manageable_volumes([], *PAGE)
    assert {
        one["reference"]["source-name"]: (one["reason_not_safe"], one["cinder_id"]) for one in found
    } == {
        theirs.name: ("already managed", theirs.id),
        migrated.name: ("already managed", migrated.id),
        name: (None, None),
    }
    volume = cloud.make.volume()
    for taken in (theirs.name, migrated.name):
        for reference in ({"source-name": taken}, {"source-id": uuids[taken]}):
            for manage in (cloud.driver.manage_existing, cloud.driver.manage_existing_get_size):
                with pytest.raises(exception.ManageExistingAlreadyManaged, match=taken):
                    manage(volume, reference)
        assert cloud.verbs.show_volume(taken)["uuid"] == uuids[taken]
    cloud.driver.manage_existing(volume, {"source-name": name})
    assert cloud.verbs.show_volume(volume.name)["uuid"] == uuids[name]


def test_another_snapshot_of_cinders_stays_what_it_is(records: Any, cloud: Cloud) -> None:
    volume = cloud.make.volume()
    cloud.driver.create_volume(volume)
    theirs = objects.Snapshot(records, volume_id=volume.id, volume_size=1, status="available")
    theirs.create()
    cloud.verbs.create_snapshot(volume.name, theirs.name)
    (found,) = cloud.driver.get_manageable_snapshots([], *PAGE)
    assert (found["safe_to_manage"], found["cinder_id"]) == (False, theirs.id)
    with pytest.raises(exception.ManageExistingAlreadyManaged, match=theirs.name):
        cloud.driver.manage_existing_snapshot(
            cloud.make.snapshot(volume), {"source-name": theirs.name}
        )


def test_what_the_driver_made_for_itself_is_nobodys_to_manage(cloud: Cloud) -> None:
    volume, refused = cloud.make.volume(), exception.ManageExistingInvalidReference
    cloud.driver.create_volume(volume)
    cloud.verbs.create_volume(f"{volume.name}.upload", GIB)
    anchor = "backup-6f1d2a0c-7a0b-4c52-9d0e-3b1f7a5c9e42"
    cloud.verbs.create_snapshot(volume.name, anchor)
    with pytest.raises(refused, match="made by the driver"):
        cloud.driver.manage_existing(cloud.make.volume(), {"source-name": f"{volume.name}.upload"})
    with pytest.raises(refused, match="made by the driver"):
        cloud.driver.manage_existing_snapshot(cloud.make.snapshot(volume), {"source-name": anchor})


def test_a_migrated_volume_gets_its_name_back(cloud: Cloud) -> None:
    volume, migrated = cloud.make.volume(), cloud.make.volume()
    cloud.driver.create_volume(migrated)
    uuid = cloud.verbs.show_volume(migrated.name)["uuid"]
    update = cloud.driver.update_migrated_volume(cloud.context, volume, migrated, "available")
    assert update == {"_name_id": None, "provider_location": None}
    assert cloud.verbs.show_volume(volume.name)["uuid"] == uuid


@pytest.mark.parametrize("case", ["taken", "in use"])
def test_a_name_that_cannot_be_had_back(cloud: Cloud, case: str) -> None:
    volume, migrated = cloud.make.volume(), cloud.make.volume()
    cloud.driver.create_volume(migrated)
    if case == "taken":
        cloud.driver.create_volume(volume)
    else:
        cloud.verbs.attach_volume(migrated.name, "edge", "nova@compute1")
    update = cloud.driver.update_migrated_volume(cloud.context, volume, migrated, "in-use")
    assert update["_name_id"] == migrated.id
    volume._name_id = update["_name_id"]
    assert cloud.verbs.show_volume(volume.name)["size"] == GIB


def test_nothing_moves_within_a_domain(cloud: Cloud) -> None:
    volume = cloud.make.volume()
    cloud.driver.create_volume(volume)
    (pool,) = cloud.driver.get_volume_stats(refresh=True)["pools"]
    here = {"host": f"other@ovs#{cloud.domain}", "capabilities": pool}
    assert cloud.driver.migrate_volume(cloud.context, volume, here) == (True, None)
    there = {"host": "other@ovs#b", "capabilities": {**pool, "location_info": "lvm"}}
    assert cloud.driver.migrate_volume(cloud.context, volume, there) == (False, None)


def test_domains_of_one_name_in_two_clusters_are_two(domain: str) -> None:
    """As `default` is, which every cluster has: data must not stay behind, nor be missed."""
    house, other = House(domain), House(domain)
    with serve(house, domain):
        here = make_driver(domain)
        here.do_setup(None)
        here.check_for_setup_error()
        (own,) = here.get_volume_stats(refresh=True)["pools"]
        volume = Makers(None, domain).volume()
        here.create_volume(volume)
    with serve(other, domain):
        there = make_driver(domain)
        there.do_setup(None)
        there.check_for_setup_error()
        (pool,) = there.get_volume_stats(refresh=True)["pools"]
        host = {"host": f"other@ovs#{domain}", "capabilities": pool}
        assert here.migrate_volume(None, volume, host) == (False, None)
        host["capabilities"] = own
        assert here.migrate_volume(None, volume, host) == (True, None)
        # Whoever takes what is meant for the other does nothing, and says so: a volume that it
        # does not know is not deleted.
        with pytest.raises(exception.VolumeBackendAPIException, match="two clusters have a Domain"):
            here.delete_volume(volume)
        (pool,) = here.get_volume_stats(refresh=True)["pools"]
        assert pool["backend_state"] == "down"
    with serve(house, domain):
        here.delete_volume(volume)
        with pytest.raises(VStorageError, match="no volume"):
            Verbs(house.host, lambda: True).show_volume(volume.name)
