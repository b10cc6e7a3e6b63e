"""`make bench-openstack`: what Cinder's driver and the daemon add to what Cinder takes by itself.

The driver is made as cinder-volume makes it, from the lab's configuration, in front of the lab's
running node: RPC over RabbitMQ, verbs, registry, engine. Each verb is timed from the driver's call
to its return, beside it ``get_domain``, which is an RPC and nothing else.

Images: the driver's copy into an empty volume beside ``qemu-img convert`` into a raw file (and an
fsync of it, as the volume has it) on the same disk, in turns. Both read the same local image.

Prints a table and, as its last line, ``RESULT {json}``: milliseconds (medians), and the image's
speed as a ratio, where more than 1 means faster than the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cinder import context as cinder_context
from cinder import objects
from cinder.common import config as cinder_config
from cinder.image import image_utils
from cinder.volume import configuration
from cinder.volume import driver as base_driver

from ovs_cinder.driver import OVSVolumeDriver
from ovs_daemon.client import Client
from ovs_nova.options import RUN_DIRS_VARIABLE
from tests.openstack.lab import layout
from tests.support.openstack import Makers

ZONE = layout.ZONES[0]
SIZE_GIB = 100
IMAGE_GIB = 2
MIB = 1 << 20


class LocalImages:
    """What of Glance a copy uses, for one image that lies here."""

    temp_images: image_utils.TemporaryImages | None = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def show(self, context: Any, image_id: str) -> dict[str, Any]:
        """The image's record."""
        return {"id": image_id, "disk_format": "qcow2", "container_format": "bare"}

    def download(self, context: Any, image_id: str, data: Any) -> None:
        """Copy the image to an open file."""
        with self._path.open("rb") as file:
            shutil.copyfileobj(file, data, MIB)


class Bench:
    """Timed calls of the driver."""

    def __init__(self) -> None:
        lab = layout.default()
        objects.register_all()
        config = lab.etc / "cinder" / "cinder.conf"
        cinder_config.CONF([], project="cinder", default_config_files=[str(config)])
        options = [*base_driver.volume_opts, *OVSVolumeDriver.get_driver_options()]
        section = configuration.Configuration(options, config_group=f"ovs-{ZONE.name}")
        self.context = cinder_context.get_admin_context()
        self.driver = OVSVolumeDriver(configuration=section, host=f"bench@ovs-{ZONE.name}")
        self.driver.do_setup(self.context)
        self.driver.check_for_setup_error()
        self.make = Makers(self.context, ZONE.name)
        self.state = lab.state
        # As where cinder-volume runs beside the node that has the volumes.
        os.environ[RUN_DIRS_VARIABLE] = str(lab.node_run(ZONE.storage))
        self.node = Client(lab.node_run(ZONE.storage) / "control.sock")
        self.milliseconds: dict[str, list[float]] = defaultdict(list)

    def timed(self, what: str, act: Callable[[], object]) -> float:
        """Do something and note how long it took."""
        began = time.perf_counter()
        act()
        taken = (time.perf_counter() - began) * 1e3
        self.milliseconds[what].append(taken)
        return taken

    def verbs(self, rounds: int) -> None:
        """Create, snapshot, clone and delete volumes of 100 GiB."""
        driver = self.driver
        for _ in range(rounds):
            volume, clone = self.make.volume(size=SIZE_GIB), self.make.volume(size=SIZE_GIB)
            snapshot = self.make.snapshot(volume)
            self.timed("rpc", driver.api.get_domain)
            self.timed("create", partial(driver.create_volume, volume))
            try:
                self.timed("snapshot", partial(driver.create_snapshot, snapshot))
                self.timed("clone", partial(driver.create_cloned_volume, clone, volume))
                self.timed("delete", partial(driver.delete_volume, clone))
                driver.delete_snapshot(snapshot)
            finally:
                driver.delete_volume(clone)
                driver.delete_volume(volume)

    def images(self, rounds: int) -> float:
        """Copy an image into a volume and into a raw file; the ratio of the speeds."""
        with tempfile.TemporaryDirectory(dir=self.state) as folder:
            image, raw = Path(folder) / "image.qcow2", Path(folder) / "image.raw"
            _make_image(image)
            service = LocalImages(image)
            ratios = []
            # Cinder, too, has fetched the image before the driver copies it.
            with image_utils.TemporaryImages.fetch(service, self.context, "bench"):
                for number in range(rounds):
                    turns = [lambda: self._to_volume(service), lambda: self._to_file(image, raw)]
                    order = (0, 1) if number % 2 == 0 else (1, 0)
                    taken = {one: turns[one]() for one in order}
                    ratios.append(taken[1] / taken[0])
        return statistics.median(ratios)

    def _to_volume(self, service: LocalImages) -> float:
        volume = self.make.volume(size=IMAGE_GIB)
        self.driver.create_volume(volume)
        # Both nodes of the lab are on one disk, onto which a copy elsewhere would go once more.
        self.node.set_dtl_mode(volume.name, "none")
        try:
            return self.timed(
                "image to volume",
                lambda: self.driver.copy_image_to_volume(self.context, volume, service, "bench"),
            )
        finally:
            self.driver.delete_volume(volume)

    def _to_file(self, image: Path, raw: Path) -> float:
        def convert() -> None:
            command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw)]
            subprocess.run(command, check=True)
            with raw.open("r+b") as file:
                os.fsync(file.fileno())

        taken = self.timed("image to raw file", convert)
        raw.unlink()
        return taken


def _make_image(path: Path) -> None:
    """A qcow2 image, half of it data that no compression helps with."""
    size = IMAGE_GIB << 30
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)
    with tempfile.NamedTemporaryFile(dir=path.parent) as data:
        for _ in range(size // 2 // MIB):
            data.write(os.urandom(MIB))
        data.flush()
        subprocess.run(
            ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", data.name, path], check=True
        )
    subprocess.run(["qemu-img", "resize", "-q", path, str(size)], check=True)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=20, help="of each verb")
    arguments.add_argument("--images", type=int, default=4, help="rounds of images")
    options = arguments.parse_args()
    bench = Bench()
    bench.verbs(options.rounds)
    ratio = bench.images(options.images)
    print(f"{'':20} {'median ms':>10} {'worst ms':>10} {'rounds':>7}")
    for what, taken in bench.milliseconds.items():
        print(f"{what:20} {statistics.median(taken):10.1f} {max(taken):10.1f} {len(taken):7}")
    medians = {what: statistics.median(taken) for what, taken in bench.milliseconds.items()}
    result = {f"{what}_ms": round(medians[what], 1) for what in ("create", "clone", "snapshot")}
    print("RESULT " + json.dumps(result | {"image_speed_ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
