"""Several real daemons that share a registry and a backend: Domains, hand-over, etcd's absence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.test_daemon import attach, code_of, connect, pattern
from tests.support.etcd import Etcd
from tests.support.node import CliError, Node


class Nodes:
    """Daemons without an Edge on one registry and one backend folder."""

    def __init__(self, stack: contextlib.ExitStack, url: str, backend: Path) -> None:
        self._stack = stack
        self._url = url
        self._backend = backend

    def start(self, name: str, **default: str) -> Node:
        options = {"DEFAULT": {"host": name, **default}, "registry": {"url": self._url}}
        node = Node(engine={"backend_dir": str(self._backend)}, options=options)
        self._stack.enter_context(node)
        node.start_daemon()
        return node


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        yield Nodes(stack, f"sqlite://{tmp_path}/registry.sqlite", tmp_path / "backend")


def until(node: Node, what: str, holds: Callable[[], bool]) -> None:
    assert node.daemon is not None
    node.daemon.wait_until(holds, what)


def alive(node: Node) -> dict[str, bool]:
    return {one["name"]: one["alive"] for one in node.cli("node", "list")}


def write(node: Node, name: str, number: int) -> None:
    client = attach(node, name)
    for place in range(64):
        client.pwrite(pattern(number + place), place * 4096)
    client.flush()
    client.shutdown()
    node.cli("volume", "detach", name)


def check(node: Node, name: str, number: int) -> None:
    client = attach(node, name)
    for place in range(64):
        assert client.pread(4096, place * 4096) == pattern(number + place)
    client.shutdown()
    node.cli("volume", "detach", name)


def test_a_volume_goes_from_node_to_node_and_back(on_sqlite: Nodes) -> None:
    first, second = on_sqlite.start("n1"), on_sqlite.start("n2")
    assert alive(first) == {"n1": True, "n2": True}
    first.cli("volume", "create", "web1", "64MiB")
    first.cli("volume", "snapshot", "web1", "s1")
    first.cli("volume", "create", "clone", "--from", "web1@s1")
    write(first, "web1", 1000)
    assert code_of(second, "volume", "attach", "web1", "--direct") == "not_here"
    assert code_of(second, "volume", "delete", "web1", "--cascade") == "not_here"
    for number, (giver, taker, name) in enumerate(
        [(first, second, "n2"), (second, first, "n1"), (first, second, "n2")]
    ):
        moved = giver.cli("volume", "move", "web1", name)
        assert moved["node"] == name
        assert giver.cli("volume", "show", "clone")["node"] == name, "relatives go together"
        check(taker, "web1", 1000 + number)
        write(taker, "web1", 1001 + number)
    second.restart_daemon()
    check(second, "web1", 1003)
    attach(second, "web1")
    assert code_of(second, "volume", "move", "web1", "n1") == "in_use"


def test_a_dead_node_shows_and_its_volumes_wait(on_sqlite: Nodes) -> None:
    first, second = on_sqlite.start("n1"), on_sqlite.start("n2")
    second.cli("volume", "create", "web1", "64MiB")
    write(second, "web1", 7)
    second.kill9_daemon()
    until(first, "the end of n2's lease", lambda: alive(first) == {"n1": True, "n2": False})
    findings = first.cli("status")["findings"]
    assert [one["code"] for one in findings[:2]] == ["volume_down", "node_dead"]
    assert code_of(first, "volume", "takeover", "web1") == "not_in_sync"
    second.start_daemon()
    assert alive(first) == {"n1": True, "n2": True}
    check(second, "web1", 7)


def test_a_drained_node_ends_empty(on_sqlite: Nodes) -> None:
    first = on_sqlite.start("n1")
    first.cli("volume", "create", "web1", "64MiB")
    write(first, "web1", 5)
    assert code_of(first, "node", "drain", "n1") == "in_use"
    second = on_sqlite.start("n2")
    second.cli("node", "drain", "n1")
    until(first, "an empty n1", lambda: first.cli("node", "show", "n1")["volumes"] == 0)
    check(second, "web1", 5)
    assert second.cli("node", "resume", "n1")["draining"] is False


def test_two_hosts_of_one_name(on_sqlite: Nodes) -> None:
    on_sqlite.start("n1")
    with pytest.raises(Exception, match="another host is alive under this name"):
        on_sqlite.start("n1")


def test_a_cluster_on_etcd_lives_through_its_loss(tmp_path: Path) -> None:
    with Etcd() as etcd, contextlib.ExitStack() as stack:
        nodes = Nodes(stack, etcd.url("cloud", timeout_s=0.5), tmp_path / "backend")
        admin = nodes.start("n1")
        assert code_of(admin, "volume", "create", "early", "64MiB") == "bad_request"
        for domain, zone in (("room1", "az1"), ("room2", "az2")):
            admin.cli("domain", "create", domain, "--availability-zone", zone)
        with pytest.raises(Exception, match="there is no Domain 'romo2'"):
            nodes.start("n2", domain="romo2")
        admin.cli("node", "set", "n1", "--domain", "room1")
        other = nodes.start("n3", domain="room2", recovery_domain="room1")
        admin.cli("node", "set", "n1", "--recovery-domain", "room2")
        described = {one["name"]: one for one in other.cli("node", "list")}
        assert described["n1"]["recovery_domain"] == "room2"
        assert described["n3"]["recovery_domain"] == "room1"
        admin.cli("volume", "create", "web1", "64MiB")
        client = attach(admin, "web1")
        client.pwrite(pattern(1), 0)
        etcd.kill9()
        assert code_of(admin, "volume", "create", "web2", "64MiB") == "registry"
        client.pwrite(pattern(2), 4096)
        client.flush()
        assert client.pread(8192, 0) == pattern(1) + pattern(2)
        etcd.start()
        until(admin, "a verb that works again", lambda: works(admin, "volume", "list"))
        until(admin, "signs of life", lambda: alive(admin) == {"n1": True, "n3": True})
        admin.cli("volume", "create", "web2", "64MiB")
        admin.restart_daemon()
        again = connect(admin, "web1")
        assert again.pread(8192, 0) == pattern(1) + pattern(2)


def works(node: Node, *words: str) -> Any:
    try:
        node.cli(*words)
    except CliError:
        return False
    return True
