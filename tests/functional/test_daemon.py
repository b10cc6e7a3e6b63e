"""The real daemon with the real engine: a volume's life, kill -9, draining, trouble."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import libnbd
from tests.support.node import CliError, Node, parse_nbd_uri

nbd = libnbd.load()
MIB = 1 << 20


def attach(node: Node, name: str, *options: str) -> Any:
    """Attach directly; returns a connected client."""
    node.cli("volume", "attach", name, "--direct", *options)
    return connect(node, name)


def connect(node: Node, name: str) -> Any:
    socket, export = parse_nbd_uri(node.cli("volume", "show", name)["uri"])
    client = nbd.NBD()
    client.set_export_name(export)
    client.connect_unix(str(socket))
    return client


def pattern(number: int, size: int = 4096) -> bytes:
    return (b"%08d" % number) * (size // 8)


def code_of(node: Node, *words: str) -> str:
    """The error code with which a command fails."""
    with pytest.raises(CliError) as caught:
        node.cli(*words)
    output = caught.value.output
    return str(output).split('"code": "')[1].split('"')[0]


def test_create_attach_kill_restart(node: Node) -> None:
    node.cli("volume", "create", "web1", "64MiB")
    node.cli("volume", "create", "web2", "1GiB")
    client = attach(node, "web1")
    assert client.get_size() == 64 * MIB
    client.pwrite(pattern(1), 0)
    client.pwrite(pattern(2), 4096)
    before = node.cli("volume", "list")
    node.restart_daemon()
    after = node.cli("volume", "list")
    assert [(one["name"], one["size"], one["attached"]) for one in after] == [
        ("web1", 64 * MIB, "direct"),
        ("web2", 1024 * MIB, None),
    ]
    assert all(new["epoch"] > old["epoch"] for new, old in zip(after, before, strict=True))
    again = connect(node, "web1")
    assert again.pread(8192, 0) == pattern(1) + pattern(2)
    status = node.cli("status")
    assert sorted(one["name"] for one in status["volumes"]) == ["web1", "web2"]
    assert [one["severity"] for one in status["findings"]] == []


def test_snapshots_clones_and_reverts_keep_their_data(node: Node) -> None:
    node.cli("volume", "create", "base", "64MiB")
    client = attach(node, "base")
    client.pwrite(pattern(1), 0)
    node.cli("volume", "snapshot", "base", "s1")
    client.pwrite(pattern(2), 0)
    client.shutdown()
    node.cli("volume", "create", "old", "--from", "base@s1")
    node.cli("volume", "create", "new", "128MiB", "--from", "base")
    node.cli("volume", "create", "newer", "--from", "new")
    node.restart_daemon()
    for name, number in (("old", 1), ("new", 2), ("newer", 2)):
        clone = attach(node, name)
        assert clone.pread(4096, 0) == pattern(number), name
        clone.pwrite(pattern(9), 8192)
        clone.shutdown()
    node.cli("volume", "detach", "base")
    node.cli("volume", "revert", "base", "s1")
    reverted = attach(node, "base")
    assert reverted.pread(12288, 0) == pattern(1) + bytes(8192)
    reverted.shutdown()
    node.cli("volume", "detach", "base")
    node.cli("volume", "delete", "base", "--cascade")
    node.restart_daemon()
    assert connect(node, "newer").pread(4096, 0) == pattern(2), "its ancestors are only hidden"
    for name in ("new", "old", "newer"):
        node.cli("volume", "detach", name)
        node.cli("volume", "delete", name)
    assert node.cli("volume", "list", "--all") == []
    folders = [path for path in (node.root / "buffer").iterdir() if path.is_dir()]
    assert folders == [], "nothing leaks in the write buffer"
    left = [path for path in (node.root / "backend").rglob("*/*") if path.is_file()]
    assert left == [], "nothing leaks on the backend"


def test_resize_reaches_the_guests_next_connection(node: Node) -> None:
    node.cli("volume", "create", "web1", "64MiB")
    attach(node, "web1").shutdown()
    node.cli("volume", "resize", "web1", "96MiB")
    client = connect(node, "web1")
    assert client.get_size() == 96 * MIB
    client.pwrite(pattern(3), 96 * MIB - 4096)
    node.restart_daemon()
    assert connect(node, "web1").pread(4096, 96 * MIB - 4096) == pattern(3)


def test_template_refuses_writes_and_is_cloned(node: Node) -> None:
    node.cli("volume", "create", "gold", "64MiB")
    client = attach(node, "gold")
    client.pwrite(pattern(7), 0)
    client.shutdown()
    node.cli("volume", "detach", "gold")
    node.cli("volume", "set", "--template", "gold")
    assert code_of(node, "volume", "attach", "gold", "--direct") == "read_only"
    frozen = attach(node, "gold", "--read-only")
    assert frozen.is_read_only()
    assert frozen.pread(4096, 0) == pattern(7)
    node.cli("volume", "clone", "gold", "coin")
    coin = attach(node, "coin")
    coin.pwrite(pattern(8), 0)
    assert frozen.pread(4096, 0) == pattern(7)


def test_stopping_drains_and_starting_finds_all_on_the_backend(node: Node) -> None:
    node.cli("volume", "create", "web1", "64MiB")
    client = attach(node, "web1")
    for number in range(64):
        client.pwrite(pattern(number, MIB), number * MIB)
    assert node.daemon is not None
    node.daemon.terminate()
    # As if the host's SSD had been exchanged while it was down.
    shutil.rmtree(node.root / "buffer")
    (node.root / "buffer").mkdir()
    node.start_daemon()
    again = connect(node, "web1")
    for number in range(64):
        assert again.pread(MIB, number * MIB) == pattern(number, MIB)


def test_images_go_in_and_out(node: Node, tmp_path: Path) -> None:
    source, target = tmp_path / "in.raw", tmp_path / "out.raw"
    source.write_bytes(b"".join(pattern(number) for number in range(1024)))
    qcow = tmp_path / "in.qcow2"
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(source), str(qcow)], check=True
    )
    node.cli("volume", "create", "web1", "4MiB")
    assert node.cli("volume", "import", "web1", str(qcow))["bytes"] == 4 * MIB
    assert node.cli("volume", "export", "web1", str(target))["bytes"] == 4 * MIB
    assert target.read_bytes() == source.read_bytes()
    assert node.cli("volume", "show", "web1")["attached"] is None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("volume", "show", "nope"), "unknown_volume"),
        (("volume", "create", "web1", "1GiB"), "duplicate_name"),
        (("volume", "create", "new", "5000"), "bad_size"),
        (("volume", "resize", "web1", "4KiB"), "bad_size"),
        (("volume", "revert", "web1", "nope"), "unknown_snapshot"),
        (("volume", "attach", "web1"), "edge_unavailable"),
    ],
)
def test_bad_input_harms_nothing(node: Node, words: tuple[str, ...], code: str) -> None:
    node.cli("volume", "create", "web1", "64MiB")
    client = None if {"attach", "revert"} & set(words) else attach(node, "web1")
    assert code_of(node, *words) == code
    assert [one["name"] for one in node.cli("volume", "list")] == ["web1"]
    if client is not None:
        client.pwrite(pattern(1), 0)


def damaged(node: Node, folder: str) -> None:
    """Fill two volumes, move all to the backend, then damage every object of one of them."""
    bad = node.cli("volume", "create", "bad", "64MiB")
    node.cli("volume", "create", "good", "64MiB")
    for name in ("bad", "good"):
        client = attach(node, name)
        for number in range(12):
            client.pwrite(pattern(number, MIB), number * MIB)
        client.shutdown()
    assert node.daemon is not None
    node.daemon.terminate()
    objects = list((node.root / "backend" / bad["uuid"] / folder).iterdir())
    assert objects
    for path in objects:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(os.urandom(16))
    shutil.rmtree(node.root / "buffer")
    (node.root / "buffer").mkdir()
    node.start_daemon()


def test_a_damaged_checkpoint_is_explained_and_harms_nobody_else(node: Node) -> None:
    damaged(node, "ckpt")
    assert connect(node, "good").pread(MIB, 5 * MIB) == pattern(5, MIB)
    (finding,) = node.cli("status")["findings"]
    assert (finding["severity"], finding["object"]) == ("critical", "volume bad")
    assert finding["why"]
    assert finding["fix"]
    states = {one["name"]: one["state"] for one in node.cli("volume", "list")}
    assert states == {"bad": "failed", "good": "available"}
    assert code_of(node, "volume", "snapshot", "bad", "s1") == finding["code"]
    node.cli("volume", "detach", "bad")
    node.cli("volume", "delete", "bad")
    assert node.cli("status")["findings"] == []


def test_damaged_data_is_never_returned(node: Node) -> None:
    damaged(node, "sco")
    good, bad = connect(node, "good"), connect(node, "bad")
    failed = 0
    for number in range(12 * 256):
        place, expected = number * 4096, pattern(number // 256)
        assert good.pread(4096, place) == expected
        try:
            assert bad.pread(4096, place) == expected
        except nbd.Error:
            failed += 1
    assert failed > 0
    (finding,) = node.cli("status")["findings"]
    assert (finding["severity"], finding["object"]) == ("critical", "volume bad")


def test_a_buffer_that_cannot_be_used_is_explained() -> None:
    with Node() as node:
        (node.root / "buffer").rmdir()
        (node.root / "buffer").write_text("this is no folder")
        with pytest.raises(Exception, match="vstorage-daemon"):
            node.start_daemon()
        assert node.daemon is not None
        assert "cannot start the engine" in node.daemon.tail()
