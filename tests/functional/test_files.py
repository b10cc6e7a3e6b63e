"""Volumes as files, by the kernel's own FUSE: what programs of the host see of them."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import Node

MIB = 1 << 20
BLOCK = 4096


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        made.start()
        yield made
        made.stop()
        assert made.mounts() == []


def attach(node: Node, name: str, size: str = "64MiB") -> Path:
    node.cli("volume", "create", name, size)
    return Path(node.cli("volume", "attach", "--file", name)["uri"])


def qemu_io(path: Path, *commands: str, cached: bool = False) -> None:
    command = ["qemu-io", "-f", "raw", *([] if cached else ["-n"])]
    for one in commands:
        command += ["-c", one]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    assert "Pattern verification failed" not in done.stdout, done.stdout


@pytest.mark.parametrize("cached", [False, True], ids=["O_DIRECT", "cached"])
def test_qemu_reads_what_it_wrote(node: Node, cached: bool) -> None:
    path = attach(node, "web1")
    qemu_io(
        path,
        "write -P 1 0 3M",
        "discard 1M 1M",
        "write -z 2M 512k",
        "read -P 1 0 1M",
        "read -P 0 1M 1536k",
        "read -P 1 2560k 512k",
        "flush",
        cached=cached,
    )
    found = subprocess.run(
        ["qemu-img", "map", "-f", "raw", "--output=json", path], capture_output=True, check=True
    )
    assert b'"start": 1048576, "length": 1572864' in found.stdout, found.stdout
    node.cli("volume", "detach", "web1")
    assert not path.exists()


def test_random_operations_as_on_a_file_of_plain_bytes(node: Node) -> None:
    """As fsx does: whatever is done, the bytes are those that a model has."""
    size = 4 * MIB
    path = attach(node, "web1", "4MiB")
    model = bytearray(size)
    dice = random.Random(7)
    file = os.open(path, os.O_RDWR)
    for step in range(2000):
        offset = dice.randrange(size)
        length = min(dice.choice([1, 511, BLOCK, 70000, 300000]), size - offset)
        match dice.randrange(6):
            case 0 | 1:
                data = bytes([dice.randrange(256)]) * length
                assert os.pwrite(file, data, offset) == length
                model[offset : offset + length] = data
            case 2 | 3:
                expected = bytes(model[offset : offset + length])
                assert os.pread(file, length, offset) == expected, f"step {step}"
            case 4:
                subprocess.run(
                    ["fallocate", "-p", "-o", str(offset), "-l", str(length), path], check=True
                )
                model[offset : offset + length] = bytes(length)
            case 5:
                os.fsync(file)
    assert os.pread(file, size, 0) == bytes(model)
    os.close(file)
    node.restart_daemon()
    assert path.read_bytes() == bytes(model)


def test_the_size_is_that_of_the_volume(node: Node) -> None:
    path = attach(node, "web1")
    with path.open("rb") as file:
        assert file.seek(0, os.SEEK_END) == 64 * MIB
        node.cli("volume", "resize", "web1", "128MiB")
        assert file.seek(0, os.SEEK_END) == 128 * MIB
    assert path.stat().st_size == 128 * MIB
    with path.open("r+b", buffering=0) as file:
        with pytest.raises(OSError, match="No space left"):
            os.pwrite(file.fileno(), b"x", 128 * MIB)
        with pytest.raises(OSError, match="File too large"):
            file.truncate(129 * MIB)


def test_copying_programs_may_cut_it_off(node: Node) -> None:
    path = attach(node, "web1")
    qemu_io(path, "write -P 9 0 64M")
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=1"], check=True)
    assert path.stat().st_size == 64 * MIB
    assert path.read_bytes() == bytes(64 * MIB), "nothing is left of what was there"


def test_writers_outlive_their_engine(node: Node) -> None:
    path = attach(node, "web1")
    file = os.open(path, os.O_RDWR)
    started, ended = threading.Event(), threading.Event()

    def write() -> None:
        for number in range(2000):
            os.pwrite(file, number.to_bytes(4, "little") * 1024, number * BLOCK)
            started.set()
        os.fsync(file)
        ended.set()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert started.wait(60)
    for _ in range(3):
        node.restart_daemon()
    assert ended.wait(120)
    writer.join()
    for number in range(2000):
        assert os.pread(file, 4, number * BLOCK) == number.to_bytes(4, "little")
    os.close(file)


def test_a_killed_edge_leaves_a_place_for_the_next(node: Node) -> None:
    path = attach(node, "web1")
    path.write_bytes(b"a" * BLOCK)
    with path.open("rb") as file:
        node.kill9_edge()
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            file.read(1)
    node.start_edge()
    assert path.read_bytes()[: 2 * BLOCK] == b"a" * BLOCK + bytes(BLOCK)
    assert len(node.mounts()) == 1


def test_file_and_socket_together(node: Node) -> None:
    path = attach(node, "web1")
    uri = node.cli("volume", "attach", "web1", "--holder", "guest", "--shared")["uri"]
    path.write_bytes(b"b" * BLOCK)
    subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "read -P 98 0 4k", uri], capture_output=True, check=True
    )
    node.cli("volume", "detach", "web1")
    assert not path.exists()
    subprocess.run(["qemu-img", "info", uri], capture_output=True, check=True)
    node.cli("volume", "detach", "web1", "--holder", "guest")


def test_fio_verifies_what_it_wrote(node: Node) -> None:
    path = attach(node, "web1")
    job = ["fio", "--name=verify", f"--filename={path}", "--rw=randrw", "--bsrange=512-128k"]
    job += ["--bs_unaligned", "--ioengine=psync", "--size=32m", "--verify=crc32c"]
    job += ["--do_verify=1", "--verify_fatal=1", "--numjobs=1"]
    subprocess.run(job, capture_output=True, check=True)
    job = ["fio", "--name=verify", f"--filename={path}", "--rw=randwrite", "--bs=4k"]
    job += ["--ioengine=libaio", "--direct=1", "--iodepth=64", "--size=64m", "--verify=crc32c"]
    subprocess.run([*job, "--verify_fatal=1"], capture_output=True, check=True)
