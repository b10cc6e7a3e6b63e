"""What real daemons of a cluster refuse: what was asked, why not, and what to do instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import CliError, Node
from tests.support.rooms import Rooms, rooms


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Rooms]:
    """a1 in room1 owns; h1 in room3 serves guests; nobody is in room2."""
    with rooms(tmp_path) as made:
        first = made.start("a1", "room1", edge=True)
        for domain in ("room2", "room3"):
            first.cli("domain", "create", domain)
        made.start("h1", "room3", owns=False, edge=True)
        first.cli("volume", "create", "web1", "64MiB")
        yield made


def refused(node: Node, code: str, *words: str, why: str, fix: str) -> None:
    """The command fails with this code, says what it is about, why, and what helps."""
    with pytest.raises(CliError) as caught:
        node.cli(*words)
    error = json.loads(caught.value.output)["error"]
    assert error["code"] == code, error
    assert any(repr(word) in error["what"] for word in words), error
    assert why in error["why"], error
    assert fix in error["fix"], error


def test_a_recovery_domain_without_a_node(cloud: Rooms) -> None:
    refused(
        cloud["a1"], "bad_request", "node", "set", "a1", "--recovery-domain", "room2",
        why="'room2' cannot be a Recovery Domain: no node has it as its Domain",
        fix="vstorage node set NODE --domain room2",
    )  # fmt: skip
    assert cloud["a1"].cli("node", "show", "a1")["recovery_domain"] is None


def test_the_last_node_of_a_recovery_domain(cloud: Rooms) -> None:
    cloud["a1"].cli("node", "set", "a1", "--recovery-domain", "room3")
    refused(
        cloud["a1"], "in_use", "node", "set", "h1", "--domain", "room2",
        why="it is the last node of 'room3', which is the Recovery Domain of a1",
        fix="another Recovery Domain first",
    )  # fmt: skip


def test_the_drain_of_the_last_node(cloud: Rooms) -> None:
    refused(
        cloud["h1"], "in_use", "node", "drain", "a1",
        why="there is no other node for web1: it is the last one that could own volumes",
        fix="start another node with the role router first",
    )  # fmt: skip
    assert cloud["a1"].cli("node", "show", "a1")["draining"] is False


def test_a_takeover_of_what_only_its_owner_has(cloud: Rooms) -> None:
    other = cloud.start("a2", "room1")
    assert cloud.until_in_sync("web1", "a1") == "a2"
    other.kill9_daemon()
    cloud.until("a1", "the end of a2", lambda: not cloud["a1"].cli("node", "show", "a2")["alive"])
    cloud["a1"].cli("volume", "attach", "web1")
    cloud.until(
        "a1", "an incomplete log", lambda: cloud.volume("web1", "a1")["dtl"]["state"] != "in_sync"
    )
    refused(
        cloud["h1"], "in_use", "volume", "takeover", "web1",
        why="its owner, node 'a1', is alive", fix="volume move web1",
    )  # fmt: skip
    cloud["a1"].kill9_daemon()
    other.start_daemon()
    cloud.until("a2", "the end of a1", lambda: not other.cli("node", "show", "a1")["alive"])
    refused(
        other, "not_in_sync", "volume", "takeover", "web1",
        why="acknowledged writes are on node a1 only", fix="bring node a1 back",
    )  # fmt: skip
    assert cloud.volume("web1", "a2")["node"] == "a1"


def test_a_second_writer(cloud: Rooms) -> None:
    cloud["a1"].cli("volume", "attach", "web1")
    refused(
        cloud["h1"], "in_use", "volume", "attach", "web1",
        why="it is attached: ", fix="to take it away, --preempt",
    )  # fmt: skip
    assert [one["node"] for one in cloud.volume("web1", "h1")["attachments"]] == ["a1"]


def test_a_node_in_no_domain(tmp_path: Path) -> None:
    with rooms(tmp_path, None) as made:
        # On a registry of its own the first node makes its Domain; the next ones join it.
        first = made.start("a1", "room1")
        made.start("n9", None)
        node = first.cli("node", "show", "n9")
        assert node["domain"] is None
        refused(
            first, "bad_request", "node", "set", "n9", "--recovery-domain", "room1",
            why="it is in no Domain", fix="vstorage node set n9 --domain DOMAIN",
        )  # fmt: skip
