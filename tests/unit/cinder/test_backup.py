"""Backups: what is read, what is stored, and that restoring gives the same bytes.

Cinder's database, objects and chunked driver are real; the volume is bytes in memory whose writes
the engine's twin is told.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cinder import exception, objects
from cinder.interface import backup_driver, util
from oslo_config import cfg

from ovs_cinder.backup.extents import common, gaps, merge, pieces
from ovs_cinder.backup.posix import OVSPosixBackupDriver
from ovs_cinder.driver import OVSVolumeDriver
from ovs_daemon.control.verbs import Verbs
from tests.support.cinder_database import database
from tests.support.house import House
from tests.unit.cinder.conftest import make_driver, serve

GIB = 1 << 30
KIB = 1 << 10
MIB = 1 << 20


class Device(io.RawIOBase):
    """A sparse volume as a file that counts what is read from it and written to it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pages: dict[int, bytes] = {}
        self.bytes_read = self.bytes_written = 0
        self._position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.size - self._position)
        assert size % KIB == 0
        first = self._position // KIB
        self._position += size
        self.bytes_read += size
        if not any(first <= number < first + size // KIB for number in self.pages):
            return bytes(size)
        return b"".join(self.pages.get(first + n, bytes(KIB)) for n in range(size // KIB))

    def write(self, data: Any) -> int:
        content = bytes(data)
        first = self._position // KIB
        for n in range(len(content) // KIB):
            self.pages[first + n] = content[n * KIB : (n + 1) * KIB]
        self._position += len(content)
        self.bytes_written += len(content)
        return len(content)

    def fileno(self) -> int:
        raise OSError("not a descriptor")

    def content(self) -> dict[int, bytes]:
        """What is not zero."""
        return {number: page for number, page in self.pages.items() if any(page)}


@dataclass
class Site:
    """A volume, its daemon, and a backup service."""

    context: Any
    house: House
    driver: OVSVolumeDriver
    volume: Any
    device: Device
    random: random.Random = field(default_factory=lambda: random.Random(1))

    @property
    def verbs(self) -> Verbs:
        return Verbs(self.house.host, lambda: True)

    @property
    def service(self) -> OVSPosixBackupDriver:
        return OVSPosixBackupDriver(self.context)

    def write(self, offset: int, length: int, zero: bool = False) -> None:
        """A guest's write."""
        self.device.seek(offset)
        self.device.write(bytes(length) if zero else self.random.randbytes(length))
        uuid = self.verbs.show_volume(self.volume.name)["uuid"]
        self.house.disk.volumes[uuid].written.append([offset, length])

    def new_backup(self, parent: Any = None, **more: Any) -> Any:
        """A backup's record, as the API makes it."""
        values = {
            "volume_id": self.volume.id,
            "user_id": "user",
            "project_id": "project",
            "size": self.volume.size,
            "status": "creating",
            "parent_id": parent.id if parent else None,
        }
        backup = objects.Backup(self.context, **(values | more))
        backup.create()
        return backup

    def back_up(self, parent: Any = None, **more: Any) -> tuple[Any, int]:
        """Back up; returns the backup and how many bytes of the volume were read."""
        backup = self.new_backup(parent, **more)
        before = self.device.bytes_read
        self.device.seek(0)
        self.service.backup(backup, self.device)
        backup.status = "available"
        backup.save()
        return backup, self.device.bytes_read - before

    def restored(self, backup: Any, target: Device | None = None) -> dict[int, bytes]:
        """Restore, to a new volume unless told."""
        backup.status = "restoring"
        backup.save()
        device = Device(backup.size * GIB) if target is None else target
        self.service.restore(backup, self.volume.id, device, volume_is_new=target is None)
        return device.content()

    def kept(self) -> list[str]:
        """Names of the volume's snapshots."""
        found = self.verbs.list_snapshots(self.volume.name)["snapshots"]
        return [one["name"] for one in found]


@pytest.fixture
def site(domain: str, tmp_path: Path) -> Iterator[Site]:
    with database() as context:
        house = House(domain)
        cfg.CONF.set_override("backup_posix_path", str(tmp_path))
        cfg.CONF.set_override("backup_compression_algorithm", "none")
        with serve(house, domain):
            driver = make_driver(domain)
            driver.do_setup(context)
            section = f"ovs-{domain}"
            host = f"host@{section}#{domain}"
            volume = objects.Volume(context, size=64, host=host, status="backing-up")
            volume.create()
            driver.create_volume(volume)
            option = cfg.StrOpt("volume_driver")
            cfg.CONF.register_opt(option, group=section)
            name = "ovs_cinder.driver.OVSVolumeDriver"
            cfg.CONF.set_override("volume_driver", name, group=section)
            yield Site(context, house, driver, volume, Device(64 * GIB))
        house.check()


def test_cinder_finds_a_complete_driver() -> None:
    (ours,) = [one for one in util.get_backup_drivers() if one.cls is OVSPosixBackupDriver]
    assert issubclass(ours.cls, backup_driver.BackupDriver)


def test_full_backup_reads_what_was_written(site: Site) -> None:
    site.write(0, MIB)
    site.write(40 * GIB + 12 * KIB, 8 * KIB)
    backup, read = site.back_up()
    assert read == MIB + 32 * KIB
    assert site.kept() == [f"backup-{backup.id}"]
    assert site.restored(backup) == site.device.content()
    assert backup.object_count == 2


def test_incremental_reads_what_changed(site: Site) -> None:
    site.write(0, 100 * MIB)
    full, _ = site.back_up()
    site.write(10 * MIB, MIB)
    site.write(10 * MIB, MIB, zero=True)
    site.write(63 * GIB, 4 * KIB)
    second, read = site.back_up(full)
    assert read == MIB + 32 * KIB
    site.write(4 * KIB, 4 * KIB)
    third, read = site.back_up(second)
    assert read == 32 * KIB
    # Only the newest is of use.
    assert site.kept() == [f"backup-{third.id}"]
    assert site.restored(third) == site.device.content()


def test_restore_over_an_existing_volume_leaves_nothing_of_it(site: Site) -> None:
    site.write(MIB, MIB)
    full, _ = site.back_up()
    site.write(2 * MIB, 4 * KIB)
    increment, _ = site.back_up(full)
    wanted = dict(site.device.content())
    for offset in (0, 3 * MIB, 50 * GIB):
        site.write(offset, 8 * KIB)
    assert site.device.content() != wanted
    before = site.device.bytes_read
    assert site.restored(increment, site.device) == wanted
    assert site.device.bytes_read - before < MIB
    assert site.kept() == [f"backup-{increment.id}"]


def test_in_use_volume_is_backed_up_from_its_temporary_snapshot(site: Site) -> None:
    """Cinder deletes the temporary snapshot afterwards; its anchor must outlive it."""
    assert site.driver.backup_use_temp_snapshot() is True
    site.write(0, MIB)
    temporary = objects.Snapshot(
        site.context, volume_id=site.volume.id, volume_size=64, status="available"
    )
    temporary.create()
    site.driver.create_snapshot(temporary)
    site.driver.create_export_snapshot(site.context, temporary, None)
    full, _ = site.back_up(temp_snapshot_id=temporary.id)
    site.driver.remove_export_snapshot(site.context, temporary)
    site.driver.delete_snapshot(temporary)
    assert site.kept() == [f"backup-{full.id}"]
    site.write(9 * MIB, 4 * KIB)
    increment, read = site.back_up(full)
    assert read == 32 * KIB
    assert site.restored(increment) == site.device.content()


def test_backup_of_a_snapshot_needs_none_of_its_own(site: Site) -> None:
    site.write(0, MIB)
    snapshot = objects.Snapshot(
        site.context, volume_id=site.volume.id, volume_size=64, status="available"
    )
    snapshot.create()
    site.driver.create_snapshot(snapshot)
    full, _ = site.back_up(snapshot_id=snapshot.id)
    assert site.kept() == [snapshot.name]
    site.write(9 * MIB, 4 * KIB)
    increment, read = site.back_up(full)
    assert read == 32 * KIB
    assert site.restored(increment) == site.device.content()


def test_without_the_parents_snapshot_more_is_read_and_nothing_lost(site: Site) -> None:
    """What was written before, and is not any more, has to become zeroes."""
    site.write(0, MIB)
    site.write(8 * MIB, MIB)
    full, _ = site.back_up()
    site.verbs.delete_snapshot(site.volume.name, f"backup-{full.id}")
    uuid = site.verbs.show_volume(site.volume.name)["uuid"]
    site.house.disk.volumes[uuid].written.clear()
    site.device.pages.clear()
    site.write(20 * MIB, 4 * KIB)
    increment, read = site.back_up(full)
    assert read == 2 * MIB + 32 * KIB
    assert site.restored(increment) == site.device.content()


def test_a_failed_backup_leaves_no_snapshot(site: Site) -> None:
    site.write(0, MIB)
    site.device.size = 512 * KIB
    with pytest.raises(exception.InvalidBackup, match="ends"):
        site.back_up()
    assert site.kept() == []


def test_deleted_backup_takes_its_snapshot_along(site: Site, tmp_path: Path) -> None:
    site.write(0, MIB)
    backup, _ = site.back_up()
    site.service.delete_backup(backup)
    assert site.kept() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_anchors_do_not_keep_a_volume(site: Site) -> None:
    site.write(0, MIB)
    site.back_up()
    site.driver.delete_volume(site.volume)
    assert site.verbs.list_volumes(everything=True) == {"volumes": []}


def test_a_snapshot_of_somebody_else_is_no_anchor(site: Site) -> None:
    """Whatever it is called: a backup leaves it, and so does the volume's deletion."""
    site.verbs.create_snapshot(site.volume.name, "backup-monday")
    site.write(0, MIB)
    backup, _ = site.back_up()
    kept = sorted(["backup-monday", f"backup-{backup.id}"])
    assert sorted(site.kept()) == kept
    with pytest.raises(exception.VolumeIsBusy):
        site.driver.delete_volume(site.volume)
    assert sorted(site.kept()) == kept


def test_a_volume_of_another_driver_is_backed_up_as_ever(site: Site) -> None:
    section = f"ovs-{site.house.domain}"
    site.write(0, MIB)
    ours, _ = site.back_up()
    site.device.size = site.device.size // 64
    site.volume.size = 1
    site.volume.save()
    cfg.CONF.set_override("volume_driver", "some.other.Driver", group=section)
    theirs, read = site.back_up()
    assert read == GIB
    assert site.restored(theirs) == site.device.content()
    with pytest.raises(exception.InvalidBackup, match="Do a full backup"):
        site.back_up(ours)


def test_extents() -> None:
    merged = merge([[4096, 4096], [0, 1], [100_000, 10], [8192, 1]], 4096, 102_000)
    assert merged == [(0, 12_288), (98_304, 3_696)]
    assert gaps(merged, 200_000) == [(12_288, 86_016), (102_000, 98_000)]
    assert gaps([], 5) == [(0, 5)]
    assert gaps([(0, 5)], 5) == []
    assert list(pieces([(0, 10), (20, 3)], 4)) == [(0, 4), (4, 4), (8, 2), (20, 3)]
    assert merge([[50, 10]], 1, 50) == []
    assert common([(0, 10), (20, 10)], [(5, 20), (29, 9)]) == [(5, 5), (20, 5), (29, 1)]
    assert common([(0, 10)], []) == []
