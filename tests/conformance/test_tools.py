"""nbdinfo, nbdcopy, qemu-io, qemu-img and fio find nothing to complain about."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import find_program
from tests.support.server import Export

MIB = 1 << 20
SECONDS_MAX = 300.0
SEED = 5

Fresh = Callable[[int], Export]


def run(*command: str | Path) -> str:
    """Run ``command``; fail the test with all it printed if its status is not 0."""
    program = find_program(str(command[0]))
    result = subprocess.run(
        [program, *map(str, command[1:])],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    if result.returncode != 0:
        pytest.fail(f"{command}: status {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def random_file(path: Path, size: int) -> Path:
    """Write a file with data, zeroes and holes."""
    chaos = random.Random(SEED)
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            kind = chaos.randrange(3)
            if kind == 0:
                file.seek(at)
                file.write(chaos.randbytes(MIB))
            elif kind == 1:
                file.seek(at + 4096 * chaos.randrange(200))
                file.write(chaos.randbytes(5000))
        file.truncate(size)
    return path


def test_nbdinfo_size_and_flags(disk: Export) -> None:
    assert int(run("nbdinfo", "--size", disk.uri)) == disk.size
    (export,) = json.loads(run("nbdinfo", "--json", disk.uri))["exports"]
    assert export["export-size"] == disk.size
    assert export["is_read_only"] is False
    assert "base:allocation" in export["contexts"]
    for flag in ("flush", "fua", "multi_conn", "trim", "zero", "fast_zero"):
        assert export[f"can_{flag}"] is True, flag


def test_nbdinfo_lists_exports(disk: Export) -> None:
    listing = json.loads(run("nbdinfo", "--list", "--json", f"nbd+unix:///?socket={disk.socket}"))
    assert disk.size in [export["export-size"] for export in listing["exports"]]


def test_nbdinfo_map_covers_the_volume(disk: Export) -> None:
    extents = json.loads(run("nbdinfo", "--map", "--json", disk.uri))
    assert sum(extent["length"] for extent in extents) == disk.size


def test_nbdcopy_both_ways(fresh: Fresh, tmp_path: Path) -> None:
    source = random_file(tmp_path / "source", 48 * MIB)
    export = fresh(48 * MIB)
    run("nbdcopy", source, export.uri)
    back = tmp_path / "back"
    back.touch()
    run("nbdcopy", export.uri, back)
    run("cmp", source, back)


def test_nbdcopy_with_many_connections_and_requests(fresh: Fresh, tmp_path: Path) -> None:
    source = random_file(tmp_path / "source", 48 * MIB)
    first, second = fresh(48 * MIB), fresh(48 * MIB)
    many = ("--connections=4", "--requests=64", "--request-size=65536", "--flush")
    run("nbdcopy", *many, source, first.uri)
    run("nbdcopy", *many, "--destination-is-zero", first.uri, second.uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, second.uri)


QEMU_IO_SCRIPT = """
write -P 0x11 0 1M
read -P 0x11 0 1M
write -P 0x22 512 512
read -P 0x11 0 512
read -P 0x22 512 512
read -P 0x11 1024 512
write -P 0x33 4095 2
read -P 0x33 4095 2
read -P 0x11 4097 4095
write -P 0x44 1048575 70001
read -P 0x44 1048575 70001
read -P 0x11 1044480 4095
write -z 8192 4096
read -P 0 8192 4096
write -z -u 16384 65536
read -P 0 16384 65536
discard 131072 65536
read -P 0 131072 65536
read -P 0x11 196608 4096
writev -P 0x55 2M 512 4096 1024 65536
readv -P 0x55 2M 65536 4096 1024 512
aio_write -P 0x66 3M 64k
aio_write -P 0x67 3276800 64k
aio_read -P 0x11 256k 32k
aio_flush
read -P 0x66 3M 64k
read -P 0x67 3276800 64k
write -f -P 0x77 4M 4k
read -P 0x77 4M 4k
flush
"""


def test_qemu_io_patterns(fresh: Fresh) -> None:
    export = fresh(64 * MIB)
    commands: list[str] = []
    for line in QEMU_IO_SCRIPT.strip().splitlines():
        commands += ["-c", line]
    output = run("qemu-io", "-f", "raw", "-d", "unmap", *commands, export.uri)
    # The status of qemu-io tells nothing about asynchronous requests; its output does.
    assert "failed" not in output
    assert output.count("ops") >= 25


def test_qemu_io_notices_a_wrong_pattern(fresh: Fresh) -> None:
    """Shows that the assertions above can fail."""
    command = ("qemu-io", "-f", "raw", "-c", "aio_read -P 1 0 4k", "-c", "aio_flush")
    uri = fresh(16 * MIB).uri
    result = subprocess.run([*command, uri], capture_output=True, text=True, check=False)
    assert "verification failed" in result.stdout + result.stderr


def test_qemu_img_convert_and_compare(fresh: Fresh, tmp_path: Path) -> None:
    source = random_file(tmp_path / "source", 48 * MIB)
    export = fresh(48 * MIB)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, export.uri)
    compared = run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, export.uri)
    assert "identical" in compared
    copy = tmp_path / "copy.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", export.uri, copy)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, copy)


def test_qemu_img_map_agrees_with_what_was_written(fresh: Fresh) -> None:
    export = fresh(16 * MIB)
    run("qemu-io", "-f", "raw", "-c", "write -P 1 1M 1M", "-c", "write -P 2 4M 4k", export.uri)
    extents = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", export.uri))
    data = [(e["start"], e["length"]) for e in extents if e["data"] and not e["zero"]]
    assert data == [(MIB, MIB), (4 * MIB, 4096)]


def test_qemu_img_bench_with_flushes(fresh: Fresh) -> None:
    export = fresh(64 * MIB)
    bench = ("qemu-img", "bench", "-f", "raw", "-t", "none", "-s", "4k", "-d", "32")
    run(*bench, "-c", "4000", "-S", "12k", "-w", "--pattern=7", export.uri)
    run(*bench, "-c", "2000", "-w", "--flush-interval=50", export.uri)
    run(*bench, "-c", "4000", "-S", "20k", export.uri)


def fio(export: Export, folder: Path, *options: str) -> list[dict[str, Any]]:
    """Run fio jobs on the export, return their JSON; a failed verification is an error."""
    output = folder / "fio.json"
    run(
        "fio", f"--output={output}", "--output-format=json", f"--aux-path={folder}",
        "--name=verify", "--ioengine=nbd", f"--uri={export.uri}", f"--randseed={SEED}",
        "--size=64m", *options,
    )  # fmt: skip
    jobs: list[dict[str, Any]] = json.loads(output.read_text())["jobs"]
    assert [job["error"] for job in jobs] == [0] * len(jobs)
    return jobs


VERIFY = ("--verify=crc32c", "--verify_fatal=1", "--do_verify=1")


def test_fio_verifies_random_writes_beside_trims(fresh: Fresh, tmp_path: Path) -> None:
    export = fresh(128 * MIB)
    verified, trimmed = fio(
        export, tmp_path, "--rw=randrw", "--rwmixread=30", "--bs=4k", "--iodepth=32", *VERIFY,
        "--verify_backlog=512", "--number_ios=20000",
        "--name=trim", "--ioengine=nbd", f"--uri={export.uri}", "--rw=randtrim", "--bs=16k",
        "--offset=64m", "--size=64m", "--iodepth=8", "--number_ios=3000",
    )  # fmt: skip
    assert verified["write"]["total_ios"] > 1000
    assert verified["read"]["total_ios"] > 1000
    assert trimmed["trim"]["total_ios"] > 1000


def test_fio_verifies_what_is_trimmed_then_written(fresh: Fresh, tmp_path: Path) -> None:
    (job,) = fio(
        fresh(64 * MIB), tmp_path, "--rw=randtrimwrite", "--bs=8k", "--iodepth=1", *VERIFY,
        "--number_ios=8000",
    )  # fmt: skip
    assert job["trim"]["total_ios"] > 1000
    assert job["write"]["total_ios"] > 1000


def test_fio_verifies_mixed_unaligned_sizes(fresh: Fresh, tmp_path: Path) -> None:
    (job,) = fio(
        fresh(64 * MIB), tmp_path, "--rw=randwrite", "--bsrange=512-64k", "--blockalign=512",
        "--iodepth=16", *VERIFY, "--number_ios=8000", "--fsync=100", "--serialize_overlap=1",
    )  # fmt: skip
    assert job["write"]["total_ios"] > 500
