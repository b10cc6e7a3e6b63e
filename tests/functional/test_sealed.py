"""Volumes whose objects are compressed and encrypted: a real daemon on the embedded ALBA."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovs_daemon.recover import recover, scan
from tests.support import libnbd
from tests.support.node import CliError, Node, parse_nbd_uri
from tests.support.process import ProcessError

nbd = libnbd.load()
MIB = 1 << 20
STEP = 256 << 10
POLICY = ("--policy", "4+2,c=5,x=1,domains=3,local=1")
OLD, NEW = "1" * 64, "2" * 64


@pytest.fixture
def node() -> Iterator[Node]:
    """A node whose daemon is not started yet; its key file has one key."""
    options = {"alba": {"embedded": "true", "reserve": "0", "key_file": ""}}
    with Node({"reserve": "0"}, options=options) as made:
        config = made.config.read_text()
        made.config.write_text(config.replace("key_file = ", f"key_file = {key_file(made)}"))
        write_keys(made, old=OLD)
        yield made


def key_file(node: Node) -> Path:
    return node.root / "keys"


def write_keys(node: Node, **keys: str) -> None:
    path = key_file(node)
    path.write_text("".join(f"{name} {key}\n" for name, key in keys.items()))
    path.chmod(0o600)


def osds(node: Node) -> list[Path]:
    return sorted((node.root / "state" / "alba").glob("domain*/node*"))


def connect(node: Node, name: str) -> Any:
    uri = node.cli("volume", "show", name)["uri"]
    uri = uri or node.cli("volume", "attach", name, "--direct")["uri"]
    socket, export = parse_nbd_uri(uri)
    client = nbd.NBD()
    client.set_export_name(export)
    client.connect_unix(str(socket))
    return client


def content_of(seed: int) -> bytes:
    """Half noise, half text: what compresses, and what does not."""
    noise = random.Random(seed)
    parts = [
        noise.randbytes(STEP) if number % 2 else (b"plain text %08d " % seed) * (STEP // 20)
        for number in range(24)
    ]
    return b"".join(part.ljust(STEP, b".") for part in parts)


def fill(node: Node, name: str, content: bytes) -> None:
    client = connect(node, name)
    for at in range(0, len(content), STEP):
        client.pwrite(content[at : at + STEP], at)
    client.flush()
    client.shutdown()


def check(node: Node, name: str, content: bytes) -> None:
    client = connect(node, name)
    chosen = random.Random(0)
    for _ in range(64):
        at, size = chosen.randrange(len(content) // 4096) * 4096, 4096
        assert bytes(client.pread(size, at)) == content[at : at + size], f"at {at}"
    for at in range(0, len(content), STEP):
        assert bytes(client.pread(STEP, at)) == content[at : at + STEP], f"at {at}"
    client.shutdown()


def lose_local_state(node: Node) -> None:
    """Everything to the OSDs; then the write buffer goes with its disk."""
    node.stop()
    shutil.rmtree(node.root / "buffer")
    (node.root / "buffer").mkdir()


def stored(node: Node) -> Iterator[bytes]:
    for folder in osds(node):
        for path in folder.rglob("*"):
            if path.is_file():
                yield path.read_bytes()


def test_nothing_of_a_volume_is_readable_on_the_osds(node: Node, tmp_path: Path) -> None:
    node.start_daemon()
    how = ("--compression", "zstd", "--encryption", "aes-256-gcm", "--sco-size", "1M")
    node.cli("preset", "create", "secret", *POLICY, "--fragment-size", "64K", *how)
    made = node.cli("volume", "create", "safe", "64MiB", "--preset", "secret")
    assert (made["preset"], made["sco_size"]) == ("secret", MIB)
    node.cli("volume", "create", "open", "64MiB")
    content = content_of(1)
    fill(node, "safe", content)
    fill(node, "open", content)
    lose_local_state(node)
    noise = content[STEP : STEP + 32]
    files = list(stored(node))
    mine = [file for file in files if made["uuid"].encode() in file[:4096]]
    others = [file for file in files if made["uuid"].encode() not in file[:4096]]
    assert any(noise in file for file in others)
    assert any(b"plain text" in file for file in others)
    assert len(mine) > 20
    assert not any(noise in file or b"plain text" in file for file in mine)
    assert not any(bytes.fromhex(OLD) in file or OLD.encode() in file for file in files)
    assert sum(map(len, mine)) < 0.75 * len(content) * 9 / 4
    # Whoever opens it has it from the OSDs alone; another key is for new objects by now.
    write_keys(node, new=NEW, old=OLD)
    node.start_daemon()
    check(node, "safe", content)
    check(node, "open", content)
    clone = node.cli("volume", "clone", "safe", "clone")
    assert clone["preset"] == "secret"
    check_clone = content_of(2)
    fill(node, "clone", check_clone)
    lose_local_state(node)
    for gone in osds(node)[:4]:
        shutil.rmtree(gone)
    # The snapshot that the clone is of is of the time of the new key.
    recovered(node, made["uuid"], content, {"old": OLD, "new": NEW})
    recovered(node, clone["uuid"], check_clone, {"new": NEW})
    name = next(name for name in scan(osds(node)) if name.startswith(f"{made['uuid']}/sco"))
    with pytest.raises(Exception, match="encrypted with the key 'old', which was not given"):
        list(recover(name, scan(osds(node))[name], {"new": NEW}))
    output = tmp_path / "output"
    words = [word for path in osds(node) for word in ("--osd", str(path))]
    answer = node.cli("alba", "recover", str(output), *words, "--key-file", str(key_file(node)))
    assert answer["lost"] == {}
    assert (output / name).read_bytes()[:8] == b"OVSOBJ01"


def recovered(node: Node, uuid: str, content: bytes, keys: dict[str, str]) -> None:
    """All of a volume's data comes out of the OSDs that are left, without the engine."""
    found = set()
    for name, files in scan(osds(node)).items():
        if name.startswith(f"{uuid}/sco"):
            whole = b"".join(recover(name, files, keys))
            found |= {whole[at : at + 4096] for at in range(4096, len(whole), 4096)}
    assert {content[at : at + 4096] for at in range(0, len(content), 4096)} <= found


def test_a_key_that_is_missing_is_named(node: Node) -> None:
    node.start_daemon()
    node.cli("preset", "create", "secret", *POLICY, "--encryption", "aes-256-gcm")
    node.cli("volume", "create", "safe", "64MiB", "--preset", "secret")
    content = content_of(3)
    fill(node, "safe", content)
    lose_local_state(node)
    write_keys(node, new=NEW)
    node.start_daemon()
    failure = node.cli("volume", "show", "safe")["failure"]
    assert 'encrypted with key "old", which this node was not given' in failure
    node.stop()
    write_keys(node, new=NEW, old=OLD)
    node.start_daemon()
    assert node.cli("volume", "show", "safe")["failure"] is None
    check(node, "safe", content)


def test_what_is_saved_and_what_is_missing_shows_in_the_status(node: Node) -> None:
    node.start_daemon()
    node.cli("preset", "create", "packed", *POLICY, "--compression", "lz4", "--sco-size", "1M")
    node.cli("volume", "create", "vol1", "64MiB", "--preset", "packed")
    status = node.cli("status")
    assert status["sealed"] == {"plain_bytes": 0, "stored_bytes": 0}
    assert status["findings"] == []
    fill(node, "vol1", content_of(5))
    daemon = node.daemon
    assert daemon is not None

    def sealed() -> Any:
        return node.cli("status")["sealed"]

    daemon.wait_until(lambda: sealed()["plain_bytes"] > 4 * MIB, "four SCOs on the OSDs")
    assert 2 * MIB < sealed()["stored_bytes"] < 0.8 * sealed()["plain_bytes"]
    for lost in osds(node)[:2]:
        lost.rename(lost.with_suffix(".away"))
    (finding,) = [
        one for one in node.cli("status")["findings"] if one["code"] == "preset_not_satisfied"
    ]
    assert finding["object"] == "preset packed"
    assert "no policy of it fits the OSDs in reach: it needs" in finding["why"]


def test_a_preset_that_was_created_can_be_the_nodes(node: Node) -> None:
    node.start_daemon()
    node.cli("preset", "create", "mine", *POLICY, "--compression", "lz4", "--sco-size", "1M")
    node.stop()
    node.config.write_text(node.config.read_text().replace("[alba]", "[alba]\npreset = mine"))
    node.start_daemon()
    node.cli("volume", "create", "vol1", "64MiB")
    content = content_of(4)
    fill(node, "vol1", content)
    lose_local_state(node)
    assert sum(map(len, stored(node))) < 0.8 * len(content) * 9 / 4
    node.start_daemon()
    check(node, "vol1", content)
    with pytest.raises(CliError, match=r"\[alba\] preset names it"):
        node.cli("preset", "delete", "mine")


def test_what_cannot_be_kept_is_refused(node: Node) -> None:
    node.start_daemon()
    node.cli("preset", "create", "wide", "--policy", "16+4,c=18,x=4")
    with pytest.raises(CliError, match="no policy of preset wide fits: it needs"):
        node.cli("volume", "create", "vol1", "64MiB", "--preset", "wide")
    assert node.cli("volume", "list") == []
    node.stop()
    key_file(node).chmod(0o644)
    with pytest.raises(ProcessError, match="others may use it"):
        node.start_daemon()
    node.config.write_text(node.config.read_text().replace("key_file", "# key_file"))
    node.start_daemon()
    node.cli("preset", "create", "secret", *POLICY, "--encryption", "aes-256-gcm")
    with pytest.raises(CliError, match="asks for encryption, and no key is given"):
        node.cli("volume", "create", "vol1", "64MiB", "--preset", "secret")
