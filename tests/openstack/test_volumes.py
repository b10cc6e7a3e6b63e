"""Volumes from end to end: zones, images, clones, backups; what is written and read below."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from openstack import exceptions

from tests.openstack.conftest import Made
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import ZONES
from tests.openstack.lab.registration import Registration
from tests.openstack.nodes import NodeView
from tests.openstack.user import Unexpected, User

GIB = 1 << 30
MIB = 1 << 20
IMAGE_BYTES = 8 * GIB
DATA_BYTES = 16 * MIB
# Clusters are 4 KiB; what an image format adds, such as a partition table, is less than this.
SLACK_BYTES = MIB


def test_a_volume_is_made_in_the_zone_that_was_asked_for(made: Made, nodes: list[NodeView]) -> None:
    for node, other in (nodes, reversed(nodes)):
        volume = made.volume(availability_zone=node.zone.name)
        assert node.has(volume)
        assert not other.has(volume)


def test_clones_and_snapshots_stay_in_their_zone(
    made: Made, user: User, nodes: list[NodeView]
) -> None:
    source = made.volume(availability_zone=ZONES[1].name)
    snapshot = user.create_snapshot(source, made.name())
    from_snapshot = user.create_volume(made.name(), 2, snapshot_id=snapshot.id)
    clone = user.create_volume(made.name(), 3, source_volume_id=source)
    for volume, gibibytes in ((from_snapshot, 2), (clone, 3)):
        assert volume.availability_zone == ZONES[1].name
        assert nodes[1].volume(volume.id)["size"] == gibibytes * GIB
        assert nodes[1].volume(volume.id)["counters"].get("mapped_bytes", 0) == 0


def test_a_zone_that_does_not_exist_is_refused(made: Made, user: User) -> None:
    with pytest.raises(exceptions.BadRequestException, match="az9"):
        user.cloud.block_storage.create_volume(name=made.name(), size=1, availability_zone="az9")


def test_the_user_is_told_when_no_node_serves_the_zone(
    made: Made, user: User, cloud: Cloud, nodes: list[NodeView]
) -> None:
    node = nodes[1]
    cloud.processes.stop(node.storage_daemon)
    try:
        refused = user.cloud.block_storage.create_volume(
            name=made.name(), size=1, availability_zone=node.zone.name
        )
        with pytest.raises(Unexpected, match="is error"):
            user.wait_volume(refused.id, "available")
        log = (cloud.lab.log / "cinder-volume.log").read_text()
        assert f"the Domain '{node.zone.name}'" in log
    finally:
        cloud.services.start([cloud.services.find(node.storage_daemon)])
        Registration(cloud.lab).wait_for_backends()
    made.volume(availability_zone=node.zone.name)


@pytest.fixture
def sparse_image(tmp_path: Path) -> Path:
    """A large qcow2 image with little in it, in two places."""
    image = tmp_path / "sparse.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(IMAGE_BYTES)], check=True)
    half = DATA_BYTES // 2
    script = [f"write -P 0x5a 1M {half}", f"write -P 0xa5 {IMAGE_BYTES - half} {half}"]
    arguments = [word for line in script for word in ("-c", line)]
    subprocess.run(["qemu-io", *arguments, image], check=True, stdout=subprocess.DEVNULL)
    return image


def test_an_image_costs_what_is_in_it_both_ways(
    made: Made, user: User, nodes: list[NodeView], sparse_image: Path, tmp_path: Path
) -> None:
    images = user.cloud.image
    image = user.cloud.create_image(
        made.name(), filename=str(sparse_image), disk_format="qcow2", container_format="bare",
        wait=True,
    )  # fmt: skip
    uploaded = None
    try:
        volume = made.volume(IMAGE_BYTES // GIB, image_id=image.id)
        mapped = nodes[0].volume(volume)["counters"]["mapped_bytes"]
        assert DATA_BYTES <= mapped <= DATA_BYTES + SLACK_BYTES
        answer = user.cloud.block_storage.upload_volume_to_image(
            volume, made.name(), disk_format="qcow2", container_format="bare"
        )
        uploaded = answer["image_id"]
        user.wait_volume(volume, "available")
        copy = tmp_path / "copy.qcow2"
        with copy.open("wb") as file:
            images.download_image(uploaded, output=file)
        assert copy.stat().st_size < 2 * DATA_BYTES
        compared = subprocess.run(
            ["qemu-img", "compare", "-s", "-f", "qcow2", "-F", "qcow2", sparse_image, copy],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        # Strict mode also compares what is allocated: that may differ, the content may not.
        assert compared.returncode in (0, 1), compared.stderr
        subprocess.run(["qemu-img", "compare", "-q", sparse_image, copy], check=True)
    finally:
        for one in (image.id, uploaded):
            if one is not None:
                images.delete_image(one, ignore_missing=True)
