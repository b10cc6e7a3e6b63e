"""Guests follow their volumes from node to node: a pause, no error, no acknowledged write lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.functional.test_daemon import code_of
from tests.support.node import CliError
from tests.support.rooms import Guest, Rooms, rooms

SIZE = 64 << 20
ANSWERS = 400


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Rooms]:
    """An owner and a keeper in two Domains; in a third one a host that only serves guests."""
    with rooms(tmp_path) as made:
        first = made.start("a1", "room1", edge=True)
        for domain in ("room2", "room3"):
            first.cli("domain", "create", domain)
        made.start("b1", "room2", "room1")
        first.cli("node", "set", "a1", "--recovery-domain", "room2")
        made.start("h1", "room3", owns=False, edge=True)
        first.cli("volume", "create", "web1", str(SIZE))
        assert made.until_in_sync("web1", "a1") == "b1"
        yield made


def test_an_owner_dies_under_a_guest_of_another_host(cloud: Rooms) -> None:
    with Guest(cloud["h1"], "web1", SIZE) as guest:
        guest.wait_for_more(ANSWERS)
        cloud["a1"].kill9_daemon()
        guest.wait_for_more(ANSWERS)
        taken = cloud.volume("web1", "h1")
        assert taken["node"] == "b1"
        assert [one["node"] for one in taken["attachments"]] == ["h1"]
        # The former owner comes back, and keeps the log from now on.
        cloud["a1"].start_daemon()
        assert cloud.until_in_sync("web1", "b1") == "a1"
        guest.wait_for_more(ANSWERS)
        cloud["b1"].kill9_daemon()
        guest.wait_for_more(ANSWERS)
        assert cloud.volume("web1", "h1")["node"] == "a1"
        guest.verify()


def test_a_volume_moves_to_and_fro_under_its_guest(cloud: Rooms) -> None:
    with Guest(cloud["h1"], "web1", SIZE) as guest:
        for giver, taker in (("a1", "b1"), ("b1", "a1"), ("a1", "b1")):
            guest.wait_for_more(ANSWERS)
            assert cloud[giver].cli("volume", "move", "web1", taker)["node"] == taker
        guest.wait_for_more(ANSWERS)
        cloud["a1"].cli("node", "drain", "b1")
        cloud.until_owned_by("web1", {"a1"}, "a1")
        guest.wait_for_more(ANSWERS)
        assert [one["node"] for one in cloud.volume("web1", "a1")["attachments"]] == ["h1"]
        guest.verify()


def test_the_giver_is_killed_in_the_middle_of_moves(cloud: Rooms) -> None:
    with Guest(cloud["h1"], "web1", SIZE) as guest:
        for answers in (1, 10, 40):
            guest.wait_for_more(ANSWERS)
            giver = cloud.volume("web1", "h1")["node"]
            (taker,) = {"a1", "b1"} - {giver}
            cloud.until_in_sync("web1", "h1")
            with ThreadPoolExecutor(1) as mover:
                moved = mover.submit(cloud[giver].cli, "volume", "move", "web1", taker)
                # About here: what the volume has goes to the backend, or it is closed, or given.
                guest.wait_for_more(answers)
                cloud[giver].kill9_daemon()
                # It may have been finished.
                with contextlib.suppress(CliError):
                    moved.result()
            cloud[giver].start_daemon()
            guest.wait_for_more(ANSWERS)
            cloud.until_owned_by("web1", {giver, taker}, "h1")
        guest.verify()


def test_a_guest_on_the_owners_own_host_follows_too(cloud: Rooms) -> None:
    with Guest(cloud["a1"], "web1", SIZE) as guest:
        guest.wait_for_more(ANSWERS)
        cloud["a1"].cli("volume", "move", "web1", "b1")
        guest.wait_for_more(ANSWERS)
        # Its daemon starts again: what the Edge was told before must not hold it back.
        cloud["a1"].restart_daemon()
        assert cloud.until_in_sync("web1", "b1") == "a1"
        guest.wait_for_more(ANSWERS)
        cloud["b1"].kill9_daemon()
        guest.wait_for_more(ANSWERS)
        assert cloud.volume("web1", "a1")["node"] == "a1"
        guest.verify()


def test_what_cannot_follow_is_refused(cloud: Rooms) -> None:
    a1 = cloud["a1"]
    a1.cli("volume", "attach", "web1", "--direct")
    assert code_of(a1, "volume", "move", "web1", "b1") == "in_use"
    assert cloud.volume("web1", "a1")["node"] == "a1"
    a1.cli("volume", "detach", "web1")
    # A person on another host does not have it because a person here has.
    a1.cli("volume", "attach", "web1")
    assert code_of(cloud["h1"], "volume", "attach", "web1") == "in_use"
    # Its Edge's host dies with it: that guest is gone, and somebody says so.
    a1.kill9_daemon()
    a1.kill9_edge()
    cloud.until_owned_by("web1", {"b1"}, "h1")
    findings = {one["code"]: one["object"] for one in cloud["h1"].cli("status")["findings"]}
    assert findings["attachment_silent"] == "volume web1"
    assert code_of(cloud["h1"], "volume", "attach", "web1") == "in_use"
    given = cloud["h1"].cli("volume", "attach", "web1", "--preempt")
    assert [one["node"] for one in given["attachments"]] == ["h1"]
