"""Volumes with data: real qemu-nbd on the sockets where the engine's twin would serve them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        subprocess.run(["cp", "--sparse=always", self.file, target.name], check=True)

    def update(self, context: Any, image_id: str, meta: Any, data: Any, **more: Any) -> None:
        subprocess.run(["cp", "--sparse=always", data.name, self.file], check=True)


@dataclass
class Served:
    """Volumes whose data is in files, which qemu-nbd serves on the engine's sockets."""

    cloud: Cloud
    folder: Path

    def file(self, uuid: str) -> Path:
        return self.folder / f"{uuid}.raw"

    def serve(self, uuid: str, file: Path) -> None:
        socket = self.folder / "direct" / f"{uuid}.sock"
        command = ["qemu-nbd", "-k", str(socket), "-f", "raw", "--persistent", "--discard=unmap"]
        pid_file = self.folder / f"{uuid}.pid"
        done = [*command, "--detect-zeroes=unmap", "--fork", f"--pid-file={pid_file}", str(file)]
        subprocess.run(done, check=True)

    def serve_new(self) -> None:
        """Serve each volume from the moment in which the engine makes it."""
        create = self.cloud.house.engine.create_volume

        def create_and_serve(spec_json: str, /) -> None:
            create(spec_json)
            spec = json.loads(spec_json)
            with self.file(spec["uuid"]).open("wb") as file:
                file.truncate(spec["size"])
            self.serve(spec["uuid"], self.file(spec["uuid"]))

        self.cloud.house.engine.create_volume = create_and_serve  # type: ignore[method-assign]

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

    def stop(self) -> None:
        """End the servers so far, so that others may open their files."""
        for pid_file in self.folder.glob("*.pid"):
            subprocess.run(["kill", pid_file.read_text().strip()], check=True)
            pid_file.unlink()


def allocated(file: Path) -> int:
    return file.stat().st_blocks * 512
