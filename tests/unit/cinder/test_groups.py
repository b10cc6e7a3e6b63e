"""Consistent groups: one instant over several volumes."""

from __future__ import annotations

from typing import Any

import pytest
from cinder import exception
from cinder.volume import volume_utils

from ovs_daemon.errors import Code, VStorageError
from tests.unit.cinder.conftest import Cloud


@pytest.fixture(autouse=True)
def consistent(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What the group's type says, which Cinder looks up in its database."""
    says = {"consistent": True}
    monkeypatch.setattr(
        volume_utils, "is_group_a_cg_snapshot_type", lambda group: says["consistent"]
    )
    return says


@pytest.fixture
def volumes(cloud: Cloud) -> list[Any]:
    made = [cloud.make.volume() for _ in range(3)]
    for number, volume in enumerate(made):
        cloud.driver.create_volume(volume)
        data(cloud, volume).content = number
    return made


def data(cloud: Cloud, volume: Any) -> Any:
    return cloud.house.disk.volumes[cloud.verbs.show_volume(volume.name)["uuid"]]


def test_other_groups_are_left_to_cinder(
    cloud: Cloud, volumes: list[Any], consistent: dict[str, bool]
) -> None:
    consistent["consistent"] = False
    for verb in (
        lambda: cloud.driver.create_group(cloud.context, None),
        lambda: cloud.driver.update_group(cloud.context, None),
        lambda: cloud.driver.delete_group(cloud.context, None, volumes),
        lambda: cloud.driver.create_group_from_src(cloud.context, None, []),
        lambda: cloud.driver.create_group_snapshot(cloud.context, None, []),
        lambda: cloud.driver.delete_group_snapshot(cloud.context, None, []),
    ):
        with pytest.raises(NotImplementedError):
            verb()
    assert len(cloud.verbs.list_volumes()["volumes"]) == 3


def test_snapshot_clone_delete(cloud: Cloud, volumes: list[Any]) -> None:
    assert cloud.driver.create_group(cloud.context, None) == {"status": "available"}
    assert cloud.driver.update_group(cloud.context, None) == (None, None, None)
    snapshots = [cloud.make.snapshot(volume) for volume in volumes]
    cloud.driver.create_group_snapshot(cloud.context, None, snapshots)
    for volume in volumes:
        data(cloud, volume).content += 10
    clones = [cloud.make.volume(snapshot_id=snapshot.id) for snapshot in snapshots]
    cloud.driver.create_group_from_src(
        cloud.context, None, clones, group_snapshot=object(), snapshots=snapshots
    )
    assert [data(cloud, clone).content for clone in clones] == [0, 1, 2]
    model, updates = cloud.driver.delete_group_snapshot(cloud.context, None, snapshots)
    assert model == {"status": "deleted"}
    assert [one["status"] for one in updates or ()] == ["deleted"] * 3
    model, updates = cloud.driver.delete_group(cloud.context, None, [*volumes, *clones])
    assert model == {"status": "deleted"}
    assert cloud.verbs.list_volumes(everything=True) == {"volumes": []}


def test_clone_of_a_group_is_of_one_instant(cloud: Cloud, volumes: list[Any]) -> None:
    clones = [cloud.make.volume(source_volid=volume.id) for volume in volumes]
    cloud.driver.create_group_from_src(
        cloud.context, None, clones, source_group=object(), source_vols=volumes
    )
    assert [data(cloud, clone).content for clone in clones] == [0, 1, 2]
    assert cloud.verbs.list_snapshots() == {"snapshots": []}


def test_all_or_none(cloud: Cloud, volumes: list[Any]) -> None:
    snapshots = [cloud.make.snapshot(volume) for volume in volumes]
    cloud.house.engine.fail.add("snapshot_group")
    with pytest.raises(exception.VolumeBackendAPIException, match="the disk failed"):
        cloud.driver.create_group_snapshot(cloud.context, None, snapshots)
    assert cloud.verbs.list_snapshots() == {"snapshots": []}
    cloud.house.engine.fail.clear()
    cloud.driver.create_group_snapshot(cloud.context, None, snapshots)
    taken = [cloud.make.snapshot(volume) for volume in volumes[:2]]
    with pytest.raises(exception.VolumeBackendAPIException, match="already has a snapshot"):
        cloud.driver.create_group_snapshot(cloud.context, None, [*taken, snapshots[2]])
    assert len(cloud.verbs.list_snapshots()["snapshots"]) == 3


def test_a_snapshot_of_a_group_that_cannot_be_deleted_now_goes_with_its_volume(
    cloud: Cloud, volumes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clones = [cloud.make.volume(source_volid=volume.id) for volume in volumes]
    delete = cloud.driver.api.delete_snapshot
    failed: list[str] = []

    def fail_once(volume: str, snapshot: str) -> bool:
        if not failed:
            failed.append(volume)
            raise VStorageError(Code.DAEMON_UNAVAILABLE, "ask", "nobody answers", "wait")
        return delete(volume, snapshot)

    monkeypatch.setattr(cloud.driver.api, "delete_snapshot", fail_once)
    cloud.driver.create_group_from_src(
        cloud.context, None, clones, source_group=object(), source_vols=volumes
    )
    assert [data(cloud, clone).content for clone in clones] == [0, 1, 2]
    # Those behind the one that failed are gone.
    left = cloud.verbs.list_snapshots()["snapshots"]
    assert [one["volume"] for one in left] == failed == [volumes[0].name]
    for volume in (*clones, *volumes):
        cloud.driver.delete_volume(volume)
    assert cloud.verbs.list_volumes(everything=True) == {"volumes": []}


def test_snapshots_of_a_group_that_were_taken_without_an_answer_go(
    cloud: Cloud, volumes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = cloud.driver.api.create_snapshots

    def unheard(members: Any) -> Any:
        take(members)
        raise VStorageError(Code.DAEMON_UNAVAILABLE, "ask", "no answer in time", "wait")

    monkeypatch.setattr(cloud.driver.api, "create_snapshots", unheard)
    clones = [cloud.make.volume(source_volid=volume.id) for volume in volumes]
    with pytest.raises(exception.VolumeBackendAPIException, match="no answer in time"):
        cloud.driver.create_group_from_src(
            cloud.context, None, clones, source_group=object(), source_vols=volumes
        )
    assert cloud.verbs.list_snapshots() == {"snapshots": []}


def test_each_deletion_answers_for_itself(
    cloud: Cloud, volumes: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    cloud.verbs.attach_volume(volumes[1].name, "edge", "nova@compute1")
    volumes[1].volume_attachment.objects.append(cloud.make.attachment(volumes[1]))
    model, updates = cloud.driver.delete_group(cloud.context, None, volumes)
    assert model == {"status": "error_deleting"}
    assert [one["status"] for one in updates or ()] == ["deleted", "error_deleting", "deleted"]
    assert f"{volumes[1].name} could not be deleted with its group" in caplog.text
