"""A volume on the erasure-coded backend: nine OSDs in three Domains, losses, offline recovery."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovs_daemon import _native
from ovs_daemon.cli.app import main
from tests.support.nbdwire import NBD_CMD_WRITE, Wire
from tests.support.process import find_program

SIZE = 64 << 20
STEP = 256 << 10
VOLUME = "aaaaaaaa-0000-4000-8000-000000000001"
PAGE = 4096


class Lab:
    """The folders of a cluster and engines on it, one after the other."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="ovs-"))
        self.epoch = 0
        self.engine: _native.Engine | None = None

    def osd(self, domain: int, node: int) -> Path:
        return self.base / "alba" / f"dc{domain}" / f"n{node}"

    def osds(self) -> list[Path]:
        return [self.osd(domain, node) for domain in range(3) for node in range(3)]

    def start(self) -> _native.Engine:
        places = [
            {"domain": path.parent.name, "node": path.name, "path": str(path)}
            for path in self.osds()
        ]
        config = {
            "buffer_dir": str(self.base / "buffer"),
            "alba": {"osds": places, "preset": "default", "reserve": 0},
            "run_dir": str(self.base / "r"),
            "sco_size": 1 << 20,
            "reserve": 0,
        }
        self.engine = _native.Engine(json.dumps(config))
        return self.engine

    def open(self) -> Path:
        """The volume under a new epoch; returns the socket on which it is served."""
        assert self.engine is not None
        self.epoch += 1
        spec = {"uuid": VOLUME, "size": SIZE, "epoch": self.epoch, "ancestors": [VOLUME]}
        self.engine.open_volume(json.dumps(spec))
        return Path(self.engine.export_nbd(VOLUME, VOLUME))

    def findings(self) -> list[str]:
        """What the engine complains of, by code."""
        assert self.engine is not None
        return [finding["code"] for finding in json.loads(self.engine.status())["findings"]]

    def stop(self) -> None:
        """Everything is brought to the backend first."""
        if self.engine is not None:
            self.engine.shutdown(True)
            self.engine = None


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.stop()
    shutil.rmtree(made.base)


def fill(socket: Path, seed: int) -> bytes:
    content = random.Random(seed).randbytes(5 << 20)
    with Wire(socket) as wire:
        wire.go(VOLUME)
        for at in range(0, len(content), STEP):
            part = content[at : at + STEP]
            assert wire.command(NBD_CMD_WRITE, at, len(part), data=part) == 0
    return content


def check(socket: Path, content: bytes) -> None:
    with Wire(socket) as wire:
        wire.go(VOLUME)
        for at in range(0, len(content), STEP):
            length = min(STEP, len(content) - at)
            assert wire.read(at, length) == content[at : at + length], f"at {at}"


def lose_local_state(lab: Lab) -> None:
    """The write buffer is gone with its disk: what is read comes from the OSDs."""
    lab.stop()
    shutil.rmtree(lab.base / "buffer")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    status = main(["--json", *words])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def test_a_volume_survives_a_domain_and_a_disk(lab: Lab) -> None:
    lab.start().create_volume(json.dumps({"uuid": VOLUME, "size": SIZE, "epoch": 0}))
    content = fill(lab.open(), 1)
    lose_local_state(lab)
    for lost in (lab.osd(0, 0), lab.osd(0, 1), lab.osd(0, 2), lab.osd(1, 1)):
        lost.rename(lost.with_suffix(".away"))
    lab.start()
    check(lab.open(), content)
    assert lab.findings().count("OSD_MISSING") == 4
    lab.stop()
    for lost in (lab.osd(0, 0), lab.osd(0, 1), lab.osd(0, 2), lab.osd(1, 1)):
        lost.with_suffix(".away").rename(lost)
    lab.start()
    check(lab.open(), content)
    assert lab.findings() == []


def test_a_lost_disk_is_replaced_and_repaired_inside_its_domain(lab: Lab) -> None:
    lab.start().create_volume(json.dumps({"uuid": VOLUME, "size": SIZE, "epoch": 0}))
    content = fill(lab.open(), 2)
    lose_local_state(lab)
    lost = lab.osd(2, 1)
    shutil.rmtree(lost)
    tool = find_program("vstorage-offline")
    command = [tool, "claim", str(lost), str(lab.osd(0, 0)), "dc2/n1"]
    subprocess.run(command, check=True, timeout=60)
    repair = [tool, "repair", *(str(path) for path in lab.osds())]
    done = subprocess.run(repair, check=True, timeout=60, capture_output=True, text=True).stdout
    figures = {line.rsplit(None, 1)[0]: int(line.rsplit(None, 1)[1]) for line in done.splitlines()}
    assert figures["fragments restored"] > 0
    assert figures["fragments missing"] == 0
    assert figures["objects lost"] == 0
    assert figures["bytes between Domains"] == 0
    # The new one holds what the lost one held: one disk of each other Domain may go as well.
    for gone in (lab.osd(0, 0), lab.osd(1, 0)):
        shutil.rmtree(gone)
    lab.start()
    check(lab.open(), content)


def test_objects_are_recovered_without_any_of_our_programs(
    lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lab.start().create_volume(json.dumps({"uuid": VOLUME, "size": SIZE, "epoch": 0}))
    content = fill(lab.open(), 3)
    lab.stop()
    for lost in (lab.osd(1, 0), lab.osd(1, 1), lab.osd(1, 2), lab.osd(0, 2), lab.osd(2, 0)):
        shutil.rmtree(lost)
    left = [word for path in lab.osds() if path.exists() for word in ("--osd", str(path))]
    listed = run(capsys, "alba", "list", *left)
    scos = [one["name"] for one in listed if "/sco/" in one["name"]]
    assert len(scos) >= 5
    answer = run(capsys, "alba", "recover", str(tmp_path), *left)
    assert answer["lost"] == {}
    assert sorted(answer["recovered"]) == sorted(one["name"] for one in listed)
    clusters = {content[at : at + PAGE] for at in range(0, len(content), PAGE)}
    found = set()
    for name in scos:
        recovered = (tmp_path / name).read_bytes()
        found |= {recovered[at : at + PAGE] for at in range(PAGE, len(recovered), PAGE)}
    assert clusters <= found


def test_a_deleted_volume_is_not_recovered_from_disks_that_were_away(
    lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lab.start().create_volume(json.dumps({"uuid": VOLUME, "size": SIZE, "epoch": 0}))
    fill(lab.open(), 5)
    lab.stop()
    # Two disks of a Domain's three have what its share was: these four have everything.
    away = []
    for domain, node in ((0, 0), (0, 1), (1, 0), (1, 1)):
        away.append(tmp_path / f"away-{domain}-{node}")
        lab.osd(domain, node).rename(away[-1])
    lab.start().delete_volume(VOLUME)
    lab.stop()
    there = [path for path in lab.osds() if path.exists()]
    words = [word for path in (*away, *there) for word in ("--osd", str(path))]
    assert run(capsys, "alba", "recover", str(tmp_path / "a"), *words[:8])["recovered"]
    answer = run(capsys, "alba", "recover", str(tmp_path / "b"), *words)
    assert (answer["recovered"], answer["brought_back"], answer["lost"]) == ([], [], {})
    assert answer["deleted"]
    back = run(capsys, "alba", "recover", str(tmp_path / "c"), *words, "--with-deleted")
    assert (back["recovered"], back["lost"]) == ([], {})
    assert back["brought_back"] == answer["deleted"]


def test_with_too_little_left_it_is_said_which_object_is_lost(
    lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lab.start().create_volume(json.dumps({"uuid": VOLUME, "size": SIZE, "epoch": 0}))
    fill(lab.open(), 4)
    lab.stop()
    words = ["--osd", str(lab.osd(0, 0)), "--osd", str(lab.osd(1, 0)), "--osd", str(lab.osd(2, 0))]
    status = main(["alba", "recover", str(tmp_path), *words])
    assert status == 1
    assert "of 4 fragments of a piece are left" in capsys.readouterr().err


def test_verify_knows_what_is_on_an_osd(lab: Lab) -> None:
    lab.start().create_volume(json.dumps({"uuid": VOLUME, "size": SIZE, "epoch": 0}))
    fill(lab.open(), 5)
    lab.stop()
    tool = find_program("vstorage-offline")
    verify = [tool, "verify", str(lab.osd(0, 0))]
    done = subprocess.run(verify, check=True, timeout=60, capture_output=True, text=True)
    assert "DAMAGED" not in done.stdout
    fragment = max(lab.osd(0, 0).rglob("*.obj/*"), key=lambda path: path.stat().st_size)
    contents = bytearray(fragment.read_bytes())
    contents[PAGE + 7] ^= 1
    fragment.write_bytes(contents)
    done = subprocess.run(verify, check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == 1
    assert "checksum of cluster 0 differs" in done.stdout
