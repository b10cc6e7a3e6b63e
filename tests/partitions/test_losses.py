"""Processes, a Domain, the registry or a disk are lost: the guest waits, and loses nothing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from tests.partitions.site import ROOM1, ROOM2, SIZE, Site, go_on, reaches_registry, site_of
from tests.support.disk import disk
from tests.support.rooms import Guest


def test_the_owner_then_its_keeper_are_killed(site: Site, guest: Guest) -> None:
    go_on(guest)
    site["a1"].kill9_daemon()
    assert site.until_owned_by("a2") == "a2", "the nearest goes on"
    go_on(guest)
    # Its log is where it was: now that node dies, too.
    assert site.until_in_sync(*ROOM2) == site.keeper
    site[site.keeper].kill9_daemon()
    go_on(guest)
    site.until_in_sync(site.spare)
    site["a2"].kill9_daemon()
    site.until_owned_by(site.spare)
    go_on(guest)
    # All come back, and whoever has the volume has a keeper again.
    for name in ("a1", site.keeper, "a2"):
        site[name].start_daemon()
    site.until_in_sync(*ROOM1)
    go_on(guest)
    guest.verify()


def test_the_keeper_then_the_owner_are_killed(site: Site, guest: Guest) -> None:
    go_on(guest)
    site[site.keeper].kill9_daemon()
    go_on(guest)
    site.until_in_sync(site.spare)
    assert site.volume()["node"] == "a1"
    site["a1"].kill9_daemon()
    site.until_owned_by("a2")
    go_on(guest)
    guest.verify()


@pytest.mark.parametrize("back", ["owner", "keeper"])
def test_owner_and_keeper_are_killed_at_once(site: Site, guest: Guest, back: str) -> None:
    """Who is left has not the newest writes, and serves nothing until one of the two is back."""
    go_on(guest)
    both = {"owner": "a1", "keeper": site.keeper}
    # The owner first: else it could have said that it is alone.
    for name in both.values():
        site[name].kill9_daemon()
    for name in both.values():
        site.until_alive(name, alive=False)
    site.until_edge("waiting")
    assert not any(site.is_open(name) for name in ("a2", site.spare))
    assert site.findings()["volume_down"] == "volume web1"
    site[both[back]].start_daemon()
    go_on(guest)
    guest.verify()


def test_a_whole_domain_is_killed(site: Site, guest: Guest) -> None:
    outlook = site.ask("h1").what_if("room1")
    go_on(guest)
    for name in ROOM1:
        site[name].kill9_daemon()
    owner = site.until_owned_by(*ROOM2)
    assert owner == outlook["continuing"][0]["to"]
    go_on(guest)
    for name in ROOM1:
        site[name].start_daemon()
    site.until_in_sync(*ROOM1)
    go_on(guest)
    guest.verify()


def test_a_whole_domain_falls_off_the_network(site: Site, guest: Guest) -> None:
    go_on(guest)
    site.network.part(ROOM1, (*ROOM2, "h1", "etcd"))
    site.until_owned_by(*ROOM2)
    go_on(guest)
    site.network.heal()
    for name in ROOM1:
        site.until_alive(name)
    site.until_let_go("a1", "this node's lease was over")
    site.until_in_sync(*ROOM1)
    go_on(guest)
    guest.verify()


def test_the_registry_is_lost_and_comes_back(site: Site, guest: Guest) -> None:
    go_on(guest)
    site.etcd.kill9()
    # Without it nobody knows whether the owner still is the owner: it stops in time.
    site.cloud.until("a1", "a registry that is missed", lambda: not reaches_registry(site, "a1"))
    site.etcd.start()
    for name in (*ROOM1, *ROOM2, "h1"):
        site.until_alive(name)
    go_on(guest)
    site.until_in_sync(*ROOM2, *ROOM1)
    go_on(guest)
    guest.verify()


def test_the_disk_of_the_keeper_is_full(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for name in ROOM2:
            stack.enter_context(disk(tmp_path / f"logs-{name}", 256))
        site = stack.enter_context(site_of(tmp_path))
        # Before the keeper has files that it can use again: with them it needs no more room.
        filler = tmp_path / f"logs-{site.keeper}" / "filler"
        fill(filler)
        guest = stack.enter_context(Guest(site["h1"], "web1", SIZE))
        go_on(guest)
        site.until_incomplete()
        go_on(guest)
        assert site.volume()["node"] == "a1"
        filler.unlink()
        site.until_in_sync(*ROOM2)
        site["a1"].kill9_daemon()
        site.until_owned_by("a2")
        go_on(guest)
        guest.verify()


def fill(path: Path) -> None:
    """A file that takes all that is left on a disk."""
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(os.urandom(1 << 20))
