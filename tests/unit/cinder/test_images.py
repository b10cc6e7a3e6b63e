"""Images into volumes and back, by the real qemu-img; qemu-nbd serves what the twin does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cinder import exception
from cinder import utils as cinder_utils
from cinder.privsep import sys_admin_pctxt
from oslo_config import cfg

from tests.unit.cinder.conftest import Cloud

MIB = 1 << 20
GIB = 1 << 30


class Glance:
    """An image service with one image, which is a file."""

    temp_images = None

    def __init__(self, file: Path, disk_format: str) -> None:
        self.file = file
        self.image = {"id": "image", "disk_format": disk_format, "container_format": "bare"}

    def show(self, context: Any, image_id: str) -> dict[str, Any]:
        return {**self.image, "size": self.file.stat().st_size}

    def download(self, context: Any, image_id: str, target: Any) -> None:
        target.write(self.file.read_bytes())

    def update(self, context: Any, image_id: str, meta: Any, data: Any, **more: Any) -> None:
        subprocess.run(["cp", "--sparse=always", data.name, self.file], check=True)


@dataclass
class Served:
    """Volumes whose data is in files, which qemu-nbd serves on the engine's sockets."""

    cloud: Cloud
    folder: Path
    processes: list[subprocess.Popen[bytes]]

    def file(self, uuid: str) -> Path:
        return self.folder / f"{uuid}.raw"

    def serve(self, uuid: str, file: Path) -> None:
        socket = self.folder / "direct" / f"{uuid}.sock"
        command = ["qemu-nbd", "-k", str(socket), "-f", "raw", "--persistent", "--discard=unmap"]
        pid_file = self.folder / f"{uuid}.pid"
        done = [*command, "--detect-zeroes=unmap", "--fork", f"--pid-file={pid_file}", str(file)]
        subprocess.run(done, check=True)

    def volume(self, size: int = 1, **more: Any) -> Any:
        volume = self.cloud.make.volume(size=size, **more)
        self.cloud.driver.create_volume(volume)
        uuid = self.cloud.verbs.show_volume(volume.name)["uuid"]
        with self.file(uuid).open("wb") as file:
            file.truncate(size * GIB)
        self.serve(uuid, self.file(uuid))
        return volume

    def data(self, volume: Any) -> Path:
        return self.file(self.cloud.verbs.show_volume(volume.name)["uuid"])


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
        made = Served(cloud, folder, [])
        try:
            yield made
        finally:
            cfg.CONF.clear_override("image_conversion_dir")
            for pid_file in folder.glob("*.pid"):
                subprocess.run(["kill", pid_file.read_text().strip()], check=True)


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


def same(first: Path, second: Path) -> bool:
    """Whether two images hold the same; what one has beyond the other's end must be zeroes."""
    command = ["qemu-img", "compare", "-U", str(first), str(second)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def allocated(file: Path) -> int:
    return file.stat().st_blocks * 512


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
    subprocess.run(["kill", *pids(served)], check=True)
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


def pids(served: Served) -> list[str]:
    """Of the servers so far, whose files another one is to open; they are ended."""
    found = []
    for pid_file in served.folder.glob("*.pid"):
        found.append(pid_file.read_text().strip())
        pid_file.unlink()
    return found
