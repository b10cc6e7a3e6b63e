"""Real daemons that keep each other's logs: an owner, a keeper, a Domain dies; nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.test_daemon import attach, code_of, pattern
from tests.support.node import CliError, Node

WRITES = 200


class Cloud:
    """Two nodes in each of two Domains, each the Recovery Domain of the other."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self.nodes: dict[str, Node] = {}
        # On an empty registry the first node makes its Domain; the second one has to be made.
        first = self.join("a1", "room1", None)
        first.cli("domain", "create", "room2")
        self.join("b1", "room2", "room1")
        first.cli("node", "set", "a1", "--recovery-domain", "room2")
        self.join("a2", "room1", "room2")
        self.join("b2", "room2", "room1")

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def join(self, name: str, domain: str, recovery: str | None) -> Node:
        """Start one more node."""
        default = {"host": name, "domain": domain}
        if recovery is not None:
            default["recovery_domain"] = recovery
        options = {
            "DEFAULT": default,
            "registry": {"url": f"sqlite://{self._folder}/registry.sqlite"},
            "dtl": {"listen": "127.0.0.1:0"},
        }
        node = Node(engine={"backend_dir": str(self._folder / "backend")}, options=options)
        self._stack.enter_context(node)
        self.nodes[name] = node
        node.start_daemon()
        return node

    def volume(self, name: str, by: str) -> dict[str, Any]:
        found: dict[str, Any] = self[by].cli("volume", "show", name)
        return found

    def until(self, by: str, what: str, holds: Callable[[], bool]) -> None:
        daemon = self[by].daemon
        assert daemon is not None
        daemon.wait_until(holds, what)

    def until_in_sync(self, name: str, by: str) -> dict[str, Any]:
        self.until(
            by,
            f"a complete log of {name}",
            lambda: self.volume(name, by)["dtl"]["state"] == "in_sync",
        )
        return self.volume(name, by)

    def until_owned(self, name: str, by: str, owners: set[str]) -> str:
        self.until(by, f"a new owner of {name}", lambda: self.volume(name, by)["node"] in owners)
        return str(self.volume(name, by)["node"])


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with contextlib.ExitStack() as stack:
        yield Cloud(stack, tmp_path)


def attached(node: Node, name: str) -> Any:
    """A client of a volume that its new owner may still be opening."""
    found: list[Any] = []

    def try_it() -> bool:
        try:
            found.append(attach(node, name))
        except CliError:
            return False
        return True

    assert node.daemon is not None
    node.daemon.wait_until(try_it, f"an attachment of {name}")
    return found[0]


def write(client: Any, first: int) -> None:
    for place in range(WRITES):
        client.pwrite(pattern(first + place), place * 4096)


def check(client: Any, first: int) -> None:
    for place in range(WRITES):
        assert client.pread(4096, place * 4096) == pattern(first + place)


def test_an_owner_dies_and_no_acknowledged_write_is_lost(cloud: Cloud) -> None:
    cloud["a1"].cli("volume", "create", "web1", "64MiB")
    before = cloud.until_in_sync("web1", "a1")
    assert before["dtl"]["node"] in ("b1", "b2"), "its log is in the Recovery Domain"
    write(attach(cloud["a1"], "web1"), 1000)
    cloud["a1"].kill9_daemon()
    owner = cloud.until_owned("web1", "a2", {"a2", "b1", "b2"})
    assert owner == "a2", "the nearest goes on"
    client = attached(cloud["a2"], "web1")
    check(client, 1000)
    write(client, 2000)
    # The former owner comes back, and is none.
    cloud["a1"].start_daemon()
    assert cloud.volume("web1", "a1")["node"] == "a2"
    assert code_of(cloud["a1"], "volume", "attach", "web1", "--direct") == "not_here"
    check(client, 2000)


def test_a_keeper_dies_and_another_one_keeps_the_log(cloud: Cloud) -> None:
    cloud["a1"].cli("volume", "create", "web1", "64MiB")
    keeper = cloud.until_in_sync("web1", "a1")["dtl"]["node"]
    client = attach(cloud["a1"], "web1")
    write(client, 1000)
    cloud[keeper].kill9_daemon()
    # The guest waits until the registry knows that the log is incomplete; then it goes on.
    write(client, 3000)
    other = "b1" if keeper == "b2" else "b2"
    cloud.until("a1", "another keeper", lambda: cloud.volume("web1", "a1")["dtl"]["node"] == other)
    cloud.until_in_sync("web1", "a1")
    cloud["a1"].kill9_daemon()
    assert cloud.until_owned("web1", "a2", {"a2", other}) == "a2"
    check(attached(cloud["a2"], "web1"), 3000)


def test_a_whole_domain_dies(cloud: Cloud) -> None:
    cloud["a1"].cli("volume", "create", "web1", "64MiB")
    keeper = cloud.until_in_sync("web1", "a1")["dtl"]["node"]
    outlook = cloud["b1"].cli("what-if", "lose", "room1")
    assert [one["volume"] for one in outlook["continuing"]] == ["web1"]
    write(attach(cloud["a1"], "web1"), 1000)
    for name in ("a2", "a1"):
        cloud[name].kill9_daemon()
    owner = cloud.until_owned("web1", keeper, {"b1", "b2"})
    assert owner == outlook["continuing"][0]["to"]
    check(attached(cloud[owner], "web1"), 1000)


def test_a_degraded_volume_waits_for_its_owner_or_for_a_person(cloud: Cloud) -> None:
    cloud["a1"].cli("volume", "create", "web1", "64MiB")
    cloud.until_in_sync("web1", "a1")
    client = attach(cloud["a1"], "web1")
    write(client, 1000)
    for name in ("a2", "b1", "b2"):
        cloud[name].kill9_daemon()
    write(client, 2000)
    assert cloud.volume("web1", "a1")["dtl"]["state"] != "in_sync"
    cloud["a1"].kill9_daemon()
    cloud["a2"].start_daemon()
    cloud.until(
        "a2",
        "the end of a1's lease",
        lambda: not cloud["a2"].cli("node", "show", "a1")["alive"],
    )
    assert code_of(cloud["a2"], "volume", "takeover", "web1") == "not_in_sync"
    assert cloud.volume("web1", "a2")["node"] == "a1"
    cloud["a1"].start_daemon()
    check(attached(cloud["a1"], "web1"), 2000)


def test_modes_change_while_a_guest_writes(cloud: Cloud) -> None:
    cloud["a1"].cli("volume", "create", "web1", "64MiB")
    cloud.until_in_sync("web1", "a1")
    client = attach(cloud["a1"], "web1")
    write(client, 1000)
    for mode in ("none", "async", "sync"):
        assert cloud["a1"].cli("volume", "dtl", "web1", mode)["dtl"]["mode"] == mode
        write(client, 2000)
    cloud.until_in_sync("web1", "a1")
    write(client, 3000)
    cloud["a1"].kill9_daemon()
    owner = cloud.until_owned("web1", "a2", {"a2", "b1", "b2"})
    check(attached(cloud[owner], "web1"), 3000)


def test_a_log_that_is_on_the_backend_is_complete_without_another_write(cloud: Cloud) -> None:
    a1 = cloud["a1"]
    a1.cli("volume", "create", "web1", "64MiB")
    a1.cli("volume", "dtl", "web1", "none")
    write(attach(a1, "web1"), 1000)
    # All that was written goes to the backend; the node that keeps the log next knows nothing.
    assert a1.daemon is not None
    assert a1.daemon.terminate() == 0
    a1.start_daemon()
    a1.cli("volume", "dtl", "web1", "sync")
    cloud.until_in_sync("web1", "a1")
    a1.kill9_daemon()
    owner = cloud.until_owned("web1", "a2", {"a2", "b1", "b2"})
    check(attached(cloud[owner], "web1"), 1000)


def test_an_owner_that_slept_too_long_is_none_any_more(cloud: Cloud) -> None:
    cloud["a1"].cli("volume", "create", "web1", "64MiB")
    cloud.until_in_sync("web1", "a1")
    write(attach(cloud["a1"], "web1"), 1000)
    sleeper = cloud["a1"].daemon
    assert sleeper is not None
    os.kill(sleeper.pid, signal.SIGSTOP)
    owner = cloud.until_owned("web1", "a2", {"a2", "b1", "b2"})
    client = attached(cloud[owner], "web1")
    check(client, 1000)
    write(client, 2000)
    os.kill(sleeper.pid, signal.SIGCONT)
    cloud.until(
        "a1", "a sign of life of a1", lambda: cloud["a2"].cli("node", "show", "a1")["alive"]
    )
    cloud.until(
        "a1",
        "a1 letting go of web1",
        lambda: not any(one["name"] == "web1" for one in cloud["a1"].cli("status")["volumes"]),
    )
    assert code_of(cloud["a1"], "volume", "attach", "web1", "--direct") == "not_here"
    check(client, 2000)
    assert cloud.volume("web1", "a1")["node"] == owner
