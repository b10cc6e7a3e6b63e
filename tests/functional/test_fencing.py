"""A volume is taken away from a host whose daemon is dead, while its Edge and its guest live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.client import RequestFailed
from tests.support import libnbd
from tests.support.nbdwire import Disconnected
from tests.support.node import CLI_SECONDS_MAX, CliError, Node, parse_nbd_uri
from tests.support.rooms import Guest, Rooms, rooms
from tests.support.sockets import ask
from tests.support.waiting import wait_until

nbd = libnbd.load()
SIZE = 16 << 20
ANSWERS = 400
PIECE = 1 << 20


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Rooms]:
    """An owner with an Edge of its own and a keeper in two Domains; two hosts that serve guests."""
    with rooms(tmp_path) as made:
        first = made.start("a1", "room1", edge=True)
        for domain in ("room2", "room3"):
            first.cli("domain", "create", domain)
        made.start("b1", "room2", "room1")
        first.cli("node", "set", "a1", "--recovery-domain", "room2")
        for host in ("h1", "h2"):
            made.start(host, "room3", owns=False, edge=True)
        first.cli("volume", "create", "web1", str(SIZE))
        assert made.until_in_sync("web1", "a1") == "b1"
        yield made


def preempt(node: Node) -> Any:
    return node.cli("volume", "attach", "web1", "--preempt")


def detach_and_attach(node: Node) -> Any:
    node.cli("volume", "detach", "web1", "--everybody")
    return node.cli("volume", "attach", "web1")


def open_disk(attached: Any) -> Any:
    """A guest of who was given the volume."""
    path, export = parse_nbd_uri(attached["uri"])
    client = nbd.NBD()
    client.set_export_name(export)
    client.connect_unix(str(path))
    return client


def fill(disk: Any, byte: int) -> None:
    for offset in range(0, SIZE, PIECE):
        disk.pwrite(bytes([byte]) * PIECE, offset)


def holds(disk: Any, byte: int) -> None:
    """Every byte of the volume is this one."""
    for offset in range(0, SIZE, PIECE):
        assert disk.pread(PIECE, offset) == bytes([byte]) * PIECE, f"from {offset} on"


def served(node: Node) -> Any:
    """What the Edge of a node says about its volumes."""
    return ask(node.run_dir / "edge.sock", {"op": "list"}, CLI_SECONDS_MAX)["volumes"]


def told(node: Node) -> str:
    """Why it does not serve them."""
    return ", ".join(f"{volume['state']}: {volume['why']}" for volume in served(node))


def until_refused(node: Node) -> None:
    """Wait until an Edge has come back with what it asks for, and was turned away."""
    wait_until(
        lambda: "refused it: the volume was taken away from this host's users" in told(node),
        "refusal of an earlier generation",
        lambda: told(node),
    )


@pytest.mark.parametrize("take", [preempt, detach_and_attach])
def test_the_edge_of_a_dead_daemon_writes_no_more(
    cloud: Rooms, take: Callable[[Node], Any]
) -> None:
    with Guest(cloud["h1"], "web1", SIZE) as guest:
        guest.wait_for_more(ANSWERS)
        cloud["h1"].kill9_daemon()
        # Nothing of it has noticed: its guest writes, and never stops to.
        guest.wait_for_more(ANSWERS)
        given = take(cloud["h2"])
        assert [one["node"] for one in given["attachments"]] == ["h2"]
        disk = open_disk(given)
        fill(disk, 1)
        until_refused(cloud["h1"])
        holds(disk, 1)
        # The next owner has never heard of it but from the record.
        cloud.until_in_sync("web1", "a1")
        cloud["a1"].kill9_daemon()
        fill(disk, 2)
        assert cloud.volume("web1", "h2")["node"] == "b1"
        until_refused(cloud["h1"])
        holds(disk, 2)
        # Nor does the daemon make another token for it when it comes back.
        cloud["h1"].start_daemon()
        wait_until(
            lambda: served(cloud["h1"]) == [], "end of its service", lambda: told(cloud["h1"])
        )
        # It has got errors by now, unless it had lost patience with waiting before.
        with pytest.raises((Disconnected, OSError, RequestFailed)):
            guest.wait_for_more(1)
        holds(disk, 2)
        disk.shutdown()


def test_the_owners_own_edge_writes_no_more(cloud: Rooms) -> None:
    """It shares memory with the engine, and shows no token; and its daemon need not look at it."""
    with Guest(cloud["a1"], "web1", SIZE) as guest:
        guest.wait_for_more(ANSWERS)
        disk = open_disk(preempt(cloud["h2"]))
        fill(disk, 1)
        with pytest.raises((Disconnected, OSError, RequestFailed)):
            guest.wait_for_more(1)
        holds(disk, 1)
        disk.shutdown()
    # It may have it again, and then the other one not.
    again = open_disk(preempt(cloud["a1"]))
    fill(again, 3)
    holds(again, 3)
    again.shutdown()


def test_others_who_share_the_volume_go_on(cloud: Rooms) -> None:
    """Their tokens are worth nothing either, and their daemons have new ones for them."""
    disks = {}
    for name in ("a1", "h1", "h2"):
        held = ("--holder", f"nova@{name}", "--shared")
        disks[name] = open_disk(cloud[name].cli("volume", "attach", "web1", *held))
    cloud["h2"].kill9_daemon()
    fill(disks["h2"], 1)
    cloud["a1"].cli("volume", "detach", "web1", "--holder", "nova@h2")
    for byte, name in enumerate(("a1", "h1"), start=2):
        fill(disks[name], byte)
        holds(disks[name], byte)
    until_refused(cloud["h2"])
    for name in ("a1", "h1"):
        disks[name].shutdown()


def unconfirmed(node: Node) -> bool:
    """Whether it is not certain that all former users of a volume are shut out."""
    codes = {finding["code"] for finding in node.cli("status")["findings"]}
    return "shut_out_unconfirmed" in codes


@pytest.mark.parametrize("host", ["h1", "a1"])
def test_what_a_host_left_behind_changes_nothing_that_the_next_one_reads(
    cloud: Rooms, host: str
) -> None:
    """It lets go by its own daemon while a write of its guest waits within the owner's engine."""
    former, owner, following = cloud[host], cloud["a1"], cloud["h2"]
    disk = open_disk(former.cli("volume", "attach", "web1"))
    fill(disk, 1)
    # What the next write owes lasts longer than an hour; the one behind it waits for that.
    owner.cli("volume", "limit", "web1", "--write-bytes-s", "1", "--burst-s", "0.001")
    disk.pwrite(b"\2" * 4096, 0)
    disk.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"\3" * 4096)), 0)
    wait_until(
        lambda: served(former)[0]["in_flight"] > 0,
        "write on its way",
        lambda: served(former),
        meanwhile=lambda: disk.poll(100),
    )
    assert former.cli("volume", "detach", "web1")["attachments"] == []
    with pytest.raises(CliError, match="they may still write"):
        following.cli("volume", "attach", "web1")
    assert cloud.volume("web1", "h2")["attachments"] == []
    assert unconfirmed(owner)
    owner.cli("volume", "limit", "web1")
    wait_until(lambda: not unconfirmed(owner), "word of the owner that nothing of it is left")
    after = open_disk(following.cli("volume", "attach", "web1"))
    assert after.pread(4096, 0) == b"\3" * 4096, "it was done before anybody could read"
    fill(after, 4)
    holds(after, 4)
    after.shutdown()


def test_a_host_that_lets_go_in_order_leaves_others_their_sessions(cloud: Rooms) -> None:
    disks = {}
    for name in ("h1", "h2"):
        held = ("--holder", f"nova@{name}", "--shared")
        disks[name] = open_disk(cloud[name].cli("volume", "attach", "web1", *held))
        fill(disks[name], 1)
    # Its daemon could give its Edge no other token.
    cloud["h2"].kill9_daemon()
    disks["h1"].shutdown()
    cloud["h1"].cli("volume", "detach", "web1", "--holder", "nova@h1")
    assert not unconfirmed(cloud["a1"])
    fill(disks["h2"], 2)
    holds(disks["h2"], 2)
    disks["h2"].shutdown()
