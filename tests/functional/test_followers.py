"""Real daemons that follow each other's maps: followers appear, are replaced, and take over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.test_daemon import attach
from tests.functional.test_dtl import Cloud, attached, check, write


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with contextlib.ExitStack() as stack:
        cloud = Cloud(stack, tmp_path)
        cloud.join("a3", "room1", "room2")
        yield cloud


def followers(cloud: Cloud, owner: str) -> list[dict[str, Any]]:
    """What the owner's engine says about those that follow the volume."""
    counters = cloud.volume("web1", owner)["counters"]
    found: list[dict[str, Any]] = [] if counters is None else counters["followers"]
    return found


def until_followed(cloud: Cloud, owner: str, without: str = "") -> list[str]:
    """Wait until two nodes have all of the map; their names."""

    def holds() -> bool:
        there = followers(cloud, owner)
        names = {one["node"] for one in there}
        complete = all(one["state"] == "following" and not one["lag_batches"] for one in there)
        return len(names) == 2 and complete and without not in names

    cloud.until(owner, "two nodes that follow the map", holds)
    return [str(one["node"]) for one in followers(cloud, owner)]


def test_a_map_is_followed_and_spares_the_next_owner_loading_it(cloud: Cloud) -> None:
    cloud["a1"].cli("volume", "create", "web1", "64MiB")
    cloud.until_in_sync("web1", "a1")
    near, far = until_followed(cloud, "a1")
    assert near in ("a2", "a3")
    assert far in ("b1", "b2")
    assert cloud.volume("web1", far)["mds"] == [near, far], "the record says it everywhere"
    client = attach(cloud["a1"], "web1")
    # Enough to close SCOs and store a checkpoint, some of it twice.
    for first in (1000, 2000, 3000):
        write(client, first)
    big = b"\x5a" * (1 << 20)
    for place in range(24, 60):
        client.pwrite(big, place << 20)
    assert until_followed(cloud, "a1") == [near, far]
    there = cloud[near].cli("status")["followed"]
    assert [one["state"] for one in there] == ["following"]
    assert there[0]["mapped_bytes"] > 0
    # The one that is near dies: the other node of the room follows in its place.
    other = "a3" if near == "a2" else "a2"
    cloud[near].kill9_daemon()
    cloud.until("a1", "another follower", lambda: other in cloud.volume("web1", "a1")["mds"])
    assert set(until_followed(cloud, "a1", without=near)) == {other, far}
    write(client, 4000)
    assert set(until_followed(cloud, "a1", without=near)) == {other, far}
    cloud.until_in_sync("web1", "a1")
    cloud["a1"].kill9_daemon()
    assert cloud.until_owned("web1", other, {other, "b1", "b2"}) == other
    client = attached(cloud[other], "web1")
    check(client, 4000)
    for place in range(24, 60):
        assert client.pread(1 << 20, place << 20) == big
    counters = cloud.volume("web1", other)["counters"]
    assert counters["opened"] == "warm", "its map was not loaded"
    # Nobody is left in the room: the one that is far goes on following.
    cloud.until(
        other,
        "the new owner's map to be followed",
        lambda: [one["state"] for one in followers(cloud, other)] == ["following"],
    )


def test_a_hand_over_to_a_follower_uses_its_map(cloud: Cloud) -> None:
    cloud["a1"].cli("volume", "create", "web1", "64MiB")
    cloud.until_in_sync("web1", "a1")
    near, _ = until_followed(cloud, "a1")
    client = attach(cloud["a1"], "web1")
    write(client, 1000)
    client.shutdown()
    cloud["a1"].cli("volume", "detach", "web1")
    cloud["a1"].cli("volume", "move", "web1", near)
    check(attached(cloud[near], "web1"), 1000)
    assert cloud.volume("web1", near)["counters"]["opened"] == "warm"
