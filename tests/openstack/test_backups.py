"""Backups read what was written, incremental ones what was changed; restored, it is all there."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.openstack.conftest import Made
from tests.openstack.host_side import HostSide
from tests.openstack.nodes import NodeView
from tests.openstack.user import User

TEBIBYTE_GIB = 1024
GIB = 1 << 30
MIB = 1 << 20
WRITTEN_BYTES = 64 * MIB
CHANGED_BYTES = MIB
# The driver reads in whole blocks of its list, 32 KiB, and the host reads ahead.
SLACK_BYTES = 4 * MIB


@pytest.fixture
def backups(user: User) -> Iterator[list[Any]]:
    """Backups to delete afterwards, the last first."""
    made: list[Any] = []
    yield made
    for backup in reversed(made):
        user.cloud.block_storage.delete_backup(backup, ignore_missing=True)
        user.wait_gone(
            f"backup {backup.id}",
            lambda one=backup: user.cloud.block_storage.get_backup(one.id),  # type: ignore[misc]
            300.0,
        )


def back_up(user: User, volume: str, made: list[Any], **options: Any) -> Any:
    """A backup of a volume, which is complete."""
    backup = user.cloud.block_storage.create_backup(volume_id=volume, **options)
    made.append(backup)
    user.cloud.block_storage.wait_for_status(backup, "available", ["error"], 1, 600)
    user.wait_volume(volume, "available")
    return backup


def write(host: HostSide, volume: str, offset: int, data: bytes) -> None:
    """Write to a volume, and sync."""
    with host.attached(volume) as path, path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.timeout(1800)
def test_a_tebibyte_costs_what_was_written(
    made: Made, user: User, host: HostSide, nodes: list[NodeView], backups: list[Any]
) -> None:
    volume = made.volume(TEBIBYTE_GIB)
    first, second = os.urandom(WRITTEN_BYTES), os.urandom(CHANGED_BYTES)
    near, far = 5 * GIB, 1000 * GIB

    def read_bytes() -> int:
        return int(nodes[0].volume(volume)["counters"]["read_bytes"])

    write(host, volume, near, first)
    before = read_bytes()
    back_up(user, volume, backups)
    assert WRITTEN_BYTES <= read_bytes() - before <= WRITTEN_BYTES + SLACK_BYTES

    write(host, volume, far, second)
    before = read_bytes()
    increment = back_up(user, volume, backups, is_incremental=True)
    assert CHANGED_BYTES <= read_bytes() - before <= CHANGED_BYTES + SLACK_BYTES

    target = made.volume(TEBIBYTE_GIB)
    user.cloud.block_storage.restore_backup(increment.id, volume_id=target)
    user.wait_volume(target, "available")
    with host.attached(target) as path, path.open("rb") as file:
        for offset, data in ((near, first), (far, second)):
            file.seek(offset)
            assert file.read(len(data)) == data


def test_an_exported_record_is_imported_and_restored(
    made: Made, user: User, host: HostSide, backups: list[Any]
) -> None:
    """Tempest's test of this asserts that the driver is one of Cinder's own."""
    storage = user.cloud.block_storage
    volume, data = made.volume(), os.urandom(MIB)
    write(host, volume, 0, data)
    backup = back_up(user, volume, backups)
    record = storage.get(f"/backups/{backup.id}/export_record").json()["backup-record"]
    # The same id is there already: the record is told to be of another backup.
    fields = json.loads(base64.b64decode(record["backup_url"]))
    fields["id"] = str(uuid.uuid4())
    record["backup_url"] = base64.b64encode(json.dumps(fields).encode()).decode()
    answer = storage.post("/backups/import_record", json={"backup-record": record})
    assert answer.status_code == 201, answer.text
    imported = storage.get_backup(answer.json()["backup"]["id"])
    storage.wait_for_status(imported, "available", ["error"], 1, 300)
    target = made.volume()
    storage.restore_backup(imported.id, volume_id=target)
    user.wait_volume(target, "available")
    with host.attached(target) as path, path.open("rb") as file:
        assert file.read(len(data)) == data
    # Both records are of the same objects: the import's deletion removes them, and only once.
    backups.append(imported)
