"""What the engine offers to drivers, over the real extension and a real NBD connection."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ovs_daemon import _native
from tests.support.nbdwire import NBD_CMD_READ, NBD_CMD_WRITE, Wire

SIZE = 64 << 20
A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"
FIRST = "cccccccc-0000-4000-8000-000000000001"
SECOND = "cccccccc-0000-4000-8000-000000000002"


@pytest.fixture
def engine() -> Iterator[_native.Engine]:
    """An engine with two shards and an open volume on each."""
    base = Path(tempfile.mkdtemp(prefix="ovs-"))
    config = {
        "buffer_dir": str(base / "buffer"),
        "backend_dir": str(base / "backend"),
        "run_dir": str(base / "run"),
        "shards": 2,
        "sco_size": 1 << 20,
        "reserve": 0,
    }
    made = _native.Engine(json.dumps(config))
    for uuid in (A, B):
        made.create_volume(json.dumps({"uuid": uuid, "size": SIZE, "epoch": 0}))
        spec = {"uuid": uuid, "size": SIZE, "epoch": 1, "ancestors": [uuid]}
        made.open_volume(json.dumps(spec))
    yield made
    made.shutdown(False)
    shutil.rmtree(base)


@contextmanager
def guest(engine: _native.Engine, uuid: str) -> Iterator[Wire]:
    with Wire(Path(engine.export_nbd(uuid, uuid))) as wire:
        wire.go(uuid)
        yield wire
    engine.unexport_nbd(uuid)


def write(wire: Wire, offset: int, byte: int, length: int = 4096) -> None:
    assert wire.command(NBD_CMD_WRITE, offset, length, data=bytes([byte]) * length) == 0


def volume_status(engine: _native.Engine, uuid: str) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = json.loads(engine.status())["volumes"]
    return next(volume for volume in volumes if volume["uuid"] == uuid)


def test_changes_between_snapshots(engine: _native.Engine) -> None:
    with guest(engine, A) as wire:
        write(wire, 0, 1, 3 * 4096)
        engine.create_snapshot(A, FIRST)
        write(wire, 4096, 2)
        write(wire, 32 << 20, 3)
        engine.create_snapshot(A, SECOND)
    changed = [[4096, 4096], [32 << 20, 4096]]
    assert json.loads(engine.diff_snapshots(A, FIRST, SECOND)) == changed
    allocated = [[0, 3 * 4096], [32 << 20, 4096]]
    assert json.loads(engine.diff_snapshots(A, None, SECOND)) == allocated
    with pytest.raises(_native.EngineError, match="NO_SNAPSHOT"):
        engine.diff_snapshots(A, B, SECOND)


def test_a_snapshot_of_a_group(engine: _native.Engine) -> None:
    members = json.dumps([[A, FIRST], [B, SECOND]])
    with guest(engine, A) as left, guest(engine, B) as right:
        write(left, 0, 1)
        write(right, 0, 1)
        engine.snapshot_group(members)
        write(left, 4096, 2)
        write(right, 4096, 2)
    # Repeating it leaves the instant where it was.
    engine.snapshot_group(members)
    for uuid, snapshot in ((A, FIRST), (B, SECOND)):
        assert json.loads(engine.diff_snapshots(uuid, None, snapshot)) == [[0, 4096]]
    engine.close_volume(B)
    with pytest.raises(_native.EngineError, match="NOT_OPEN"):
        engine.snapshot_group(json.dumps([[A, SECOND], [B, FIRST]]))
    assert volume_status(engine, A)["snapshots"] == 1


def test_a_limited_write_waits_and_reads_pass(engine: _native.Engine) -> None:
    # What the first write owes lasts longer than an hour.
    engine.set_qos(A, json.dumps({"write_bytes_s": 1, "burst_s": 0}))
    with guest(engine, A) as wire:
        write(wire, 0, 1)
        wire.send_request(NBD_CMD_WRITE, 2, 4096, 4096, data=b"\2" * 4096)
        wire.send_request(NBD_CMD_READ, 3, 0, 4096)
        answer = wire.receive_chunk(4096)
        assert (answer.cookie, answer.error, answer.data) == (3, 0, b"\1" * 4096)
        status = volume_status(engine, A)
        assert status["throttled_by"] == ["write_bytes_s"]
        assert status["requests_waiting"] == 1
        engine.set_qos(A, "{}")
        answer = wire.receive_chunk()
        assert (answer.cookie, answer.error) == (2, 0)
    with pytest.raises(_native.EngineError, match="BAD_QOS"):
        engine.set_qos(A, json.dumps({"total_iops": 0}))


def test_the_room_on_the_backend(engine: _native.Engine) -> None:
    status = json.loads(engine.status())
    assert 0 < status["backend_free_bytes"] <= status["backend_total_bytes"]
