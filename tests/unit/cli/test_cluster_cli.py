"""Domains and nodes on the command line, through the control API of a host of twins."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ovs_daemon.control.nodes import Change, set_node
from ovs_daemon.control.store import put
from ovs_daemon.control.topology import Node
from ovs_daemon.registry import Create, Delete
from tests.support.command_line import Run, answer
from tests.support.house import House


def test_domains(run: Run) -> None:
    words = ("domain", "create", "room2", "--description", "next door", "--availability-zone", "z2")
    made = answer(run, *words)
    assert (made["name"], made["description"], made["availability_zone"]) == (
        "room2",
        "next door",
        "z2",
    )
    assert [one["name"] for one in answer(run, "domain", "list")] == ["default", "room2"]
    changed = answer(run, "domain", "set", "room2", "--availability-zone", "")
    assert (changed["description"], changed["availability_zone"]) == ("next door", None)
    assert answer(run, "domain", "show", "room2") == changed
    status, out, _ = run("domain", "list")
    assert status == 0
    assert "node1" in out
    assert run("domain", "delete", "room2")[1] == "Domain room2 deleted\n"
    assert [one["name"] for one in answer(run, "domain", "list")] == ["default"]


def test_nodes(run: Run, house: House) -> None:
    store = house.host.store
    answer(run, "domain", "create", "room2")
    store.commit(put(Node("node2")))
    answer(run, "node", "set", "node2", "--domain", "room2", "--roles", "osd,edge")
    changed = answer(run, "node", "set", "node1", "--recovery-domain", "room2")
    assert (changed["domain"], changed["recovery_domain"]) == ("default", "room2")
    listed = {one["name"]: one for one in answer(run, "node", "list")}
    assert listed["node1"]["alive"] is True
    assert listed["node2"]["alive"] is False
    assert listed["node2"]["roles"] == ["edge", "osd"]
    assert answer(run, "node", "set", "node1", "--no-recovery-domain")["recovery_domain"] is None
    assert answer(run, "node", "show", "node2")["domain"] == "room2"
    status, out, _ = run("node", "list")
    assert status == 0
    assert "edge, osd" in out
    assert run("node", "delete", "node2")[1] == "node node2 deleted\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["domain", "show", "nope"], "unknown_domain"),
        (["domain", "show", "a/b"], "unknown_domain"),
        (["domain", "create", "default"], "duplicate_name"),
        (["domain", "create", "a b"], "bad_request"),
        (["domain", "set", "default"], "bad_request"),
        (["domain", "delete", "default"], "in_use"),
        (["node", "show", "nope"], "unknown_node"),
        (["node", "show", ""], "unknown_node"),
        (["node", "set", "node1"], "bad_request"),
        (["node", "set", "node1", "--roles", "cook"], "bad_request"),
        (["node", "set", "node1", "--domain", "nope"], "unknown_domain"),
        (["node", "set", "node1", "--recovery-domain", "default"], "bad_request"),
        (["node", "set", "node1", "--recovery-domain", "empty"], "bad_request"),
        (["node", "delete", "node1"], "in_use"),
    ],
)
def test_errors(run: Run, words: list[str], code: str) -> None:
    answer(run, "domain", "create", "empty")
    status, out, err = run("--json", *words)
    assert (status, out) == (1, "")
    assert json.loads(err)["error"]["code"] == code


def test_status_shows_nodes_dead_and_alive(run: Run, house: House) -> None:
    assert "all is well" in run("status")[1]
    assert "domain" not in run("status")[1], "one node is no cluster"
    answer(run, "domain", "create", "room2", "--availability-zone", "az2")
    store = house.host.store
    store.commit(put(Node("node2", wanted_recovery_domain="room9")))
    lines = run("status")[1].splitlines()
    assert lines[0] == "CRITICAL node node2: it gives no sign of life"
    assert any("WARNING  node node2: it is in no Domain" in line for line in lines)
    assert any("asks for the Recovery Domain 'room9'" in line for line in lines)
    set_node(house.host, "node2", Change("room2", ""))
    lines = run("status")[1].splitlines()
    row = next(line for line in lines if line.split()[:1] == ["room2"])
    assert row.split() == ["room2", "az2", "node2", "NO", "-"]
    found = answer(run, "status")
    assert [one["name"] for one in found["domains"]] == ["default", "room2"]
    assert [(one["name"], one["alive"]) for one in found["nodes"]] == [
        ("node1", True),
        ("node2", False),
    ]


def test_what_if_and_drain_plan(run: Run, house: House) -> None:
    answer(run, "volume", "create", "web1", "1GiB")
    status, out, _ = run("what-if", "lose", "node1")
    assert status == 0
    assert out.splitlines() == [
        "loss of node node1 (node1):",
        "  STOPS      volume web1: no other node keeps its log",
    ]
    assert answer(run, "what-if", "lose", "default")["stopped"][0]["code"] == "no_copy"
    assert "if node node1 is lost: 1 volume would stop" in run("status")[1]
    out = run("node", "drain", "node1", "--dry-run")[1]
    assert "STUCK      volume web1: there is no other node for it" in out
    assert answer(run, "node", "drain", "node1", "--dry-run")["feasible"] is False
    status, _, err = run("--json", "what-if", "lose", "nope")
    assert (status, json.loads(err)["error"]["code"]) == (1, "unknown_node")
    status, _, err = run("--json", "node", "drain", "node1")
    assert (status, json.loads(err)["error"]["code"]) == (1, "in_use")
    assert "it is the last one that could own volumes" in err


def test_drain_and_resume(run: Run, house: House) -> None:
    store = house.host.store
    answer(run, "volume", "create", "web1", "1GiB")
    store.commit(put(Node("node2", "default")))
    store.registry.commit([Create("alive", "node2", {"instance": "x", "since": "now"})])
    answered = answer(run, "node", "drain", "node1")
    assert [(one["volume"], one["to"]) for one in answered["moves"]] == [("web1", "node2")]
    assert answer(run, "node", "show", "node1")["draining"] is True
    assert answer(run, "node", "resume", "node1")["draining"] is False
    assert answer(run, "volume", "dtl", "web1", "none")["dtl"]["mode"] == "none"
    moved = answer(run, "volume", "move", "web1", "node2")
    assert (moved["node"], moved["dtl"]["node"]) == ("node2", None)
    for words, code in (
        (["volume", "move", "web1", "node1"], "not_here"),
        (["volume", "move", "nope", "node1"], "unknown_volume"),
        (["volume", "takeover", "web1"], "in_use"),
        (["volume", "dtl", "web1", "sync"], "not_here"),
        (["volume", "dtl", "web1", "often"], "bad_request"),
        (["node", "drain", "nope"], "unknown_node"),
        (["node", "resume", "nope"], "unknown_node"),
    ):
        status, _, err = run("--json", *words)
        assert (status, json.loads(err)["error"]["code"]) == (1, code), words
    opened = store.volume(moved["uuid"])
    alive = store.registry.get("alive", "node2")
    assert opened is not None
    assert alive is not None
    # Before it has opened what it was given, everything is on the backend and nothing can be lost.
    store.commit(put(replace(opened, served="node2", saved=False)))
    store.registry.commit([Delete("alive", "node2", alive.version)])
    status, _, err = run("volume", "takeover", "web1")
    assert status == 1
    assert "acknowledged and flushed writes among it" in err
    taken = answer(run, "volume", "takeover", "--accept-loss", "web1")
    assert taken["node"] == "node1"
    assert "would be lost" in taken["forced"]["may_be_lost"]
