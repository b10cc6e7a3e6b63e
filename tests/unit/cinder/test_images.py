"""Images into volumes and back, by the real qemu-img; qemu-nbd serves what the twin does not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cinder import exception

from tests.unit.cinder.served import GIB, MIB, Glance, Served, allocated


def same(first: Path, second: Path) -> bool:
    """Whether two images hold the same; what one has beyond the other's end must be zeroes."""
    command = ["qemu-img", "compare", "-U", str(first), str(second)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def fill(served: Served, volume: Any, image: Path, disk_format: str = "qcow2") -> None:
    glance = Glance(image, disk_format)
    served.cloud.driver.copy_image_to_volume(served.cloud.context, volume, glance, "image")


def test_only_the_images_data_is_written(served: Served, image: Path) -> None:
    volume = served.volume()
    fill(served, volume, image)
    assert same(served.data(volume), image)
    assert allocated(served.data(volume)) < 5 * MIB
    assert served.cloud.verbs.show_volume(volume.name)["attachments"] == []


def test_over_what_was_there(served: Served, image: Path) -> None:
    """A volume that does not read as zeroes gets the image's zeroes, too (reimage)."""
    origin = served.volume()
    volume = served.cloud.make.volume()
    served.cloud.driver.create_cloned_volume(volume, origin)
    uuid = served.cloud.verbs.show_volume(volume.name)["uuid"]
    with served.file(uuid).open("wb") as file:
        file.write(b"old!" * MIB)
        file.truncate(GIB)
    served.serve(uuid, served.file(uuid))
    fill(served, volume, image)
    assert same(served.data(volume), image)


def test_images_that_are_refused(served: Served, image: Path) -> None:
    volume = served.volume()
    large = served.folder / "large.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", large, "2G"], check=True)
    backed = served.folder / "backed.qcow2"
    backing = ["-b", str(image), "-F", "qcow2"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, backed], check=True)
    for file, disk_format in ((large, "qcow2"), (backed, "qcow2"), (image, "raw")):
        with pytest.raises((exception.ImageUnacceptable, exception.Invalid)):
            fill(served, volume, file, disk_format)
    assert allocated(served.data(volume)) == 0
    assert served.cloud.verbs.show_volume(volume.name)["attachments"] == []


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_upload(served: Served, image: Path, disk_format: str) -> None:
    volume = served.volume()
    fill(served, volume, image)
    # A guest goes on using it; and an upload that was killed has left its clone.
    served.cloud.verbs.attach_volume(volume.name, "edge", "nova@compute1")
    leftover = f"{volume.name}.upload"
    served.cloud.verbs.create_volume(leftover, None, {"volume": volume.name})
    served.cloud.verbs.attach_volume(leftover, "direct", "image@dead", read_only=True)
    upload = served.folder / "upload"
    glance = Glance(upload, disk_format)
    create = served.cloud.house.engine.create_volume

    def create_and_serve(spec_json: str, /) -> None:
        create(spec_json)
        served.serve(json.loads(spec_json)["uuid"], served.data(volume))

    served.cloud.house.engine.create_volume = create_and_serve  # type: ignore[method-assign]
    served.stop()
    served.cloud.driver.copy_volume_to_image(
        served.cloud.context, volume, glance, dict(glance.image)
    )
    info = subprocess.run(
        ["qemu-img", "info", "--output=json", upload], check=True, capture_output=True
    )
    assert json.loads(info.stdout)["format"] == disk_format
    assert same(served.data(volume), upload)
    names = [one["name"] for one in served.cloud.verbs.list_volumes()["volumes"]]
    assert names == [volume.name]
