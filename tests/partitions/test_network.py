"""Hosts that reach some and not others, in one direction or both; and one that stood still."""

from __future__ import annotations

import pytest

from ovs_daemon.errors import VStorageError
from tests.partitions.site import ETCD, OWNERS, ROOM1, ROOM2, Site, go_on
from tests.support.nbdwire import Disconnected
from tests.support.node import parse_nbd_uri
from tests.support.rooms import Guest

LEASE_OVER = "this node's lease was over"


def test_an_owner_stands_still_for_longer_than_its_lease(site: Site, guest: Guest) -> None:
    go_on(guest)
    sleeper = site["a1"].daemon
    assert sleeper is not None
    sleeper.suspend()
    site.until_owned_by("a2")
    go_on(guest)
    # What it had received, and not yet done, it must not do now.
    sleeper.resume()
    site.until_alive("a1")
    site.until_let_go("a1", LEASE_OVER)
    assert site.volume("a1")["node"] == "a2"
    go_on(guest)
    guest.verify()


@pytest.mark.parametrize("deaf", ["owner", "keeper", "both"])
def test_owner_and_keeper_do_not_reach_each_other(site: Site, guest: Guest, deaf: str) -> None:
    go_on(guest)
    if deaf != "keeper":
        site.network.lose(site.keeper, "a1")
    if deaf != "owner":
        site.network.lose("a1", site.keeper)
    go_on(guest)
    site.until_incomplete()
    assert site.volume()["node"] == "a1"
    go_on(guest)
    site.network.heal()
    site.until_in_sync(*ROOM2)
    site["a1"].kill9_daemon()
    site.until_owned_by("a2")
    go_on(guest)
    guest.verify()


@pytest.mark.parametrize("lost", ["questions", "answers", "both"])
def test_the_owner_is_cut_off_from_the_registry(site: Site, guest: Guest, lost: str) -> None:
    """The Edge reaches it all the time, and must not be served by it."""
    go_on(guest)
    if lost != "answers":
        site.network.lose("a1", ETCD)
    if lost != "questions":
        site.network.lose(ETCD, "a1")
    site.until_owned_by("a2")
    go_on(guest)
    site.network.heal()
    site.until_alive("a1")
    site.until_let_go("a1", LEASE_OVER)
    go_on(guest)
    assert site.volume()["node"] == "a2"
    guest.verify()


def test_the_keeper_is_cut_off_from_the_registry(site: Site, guest: Guest) -> None:
    """The owner reaches it all the time; it counts as dead, and another node keeps the log."""
    go_on(guest)
    site.network.part(site.keeper, ETCD)
    site.until_in_sync(site.spare)
    assert site.volume()["node"] == "a1"
    go_on(guest)
    site["a1"].kill9_daemon()
    site.until_owned_by("a2")
    go_on(guest)
    site.network.heal()
    site.until_alive(site.keeper)
    go_on(guest)
    guest.verify()


def test_the_edge_does_not_reach_the_owner(site: Site, guest: Guest) -> None:
    """To all others the owner is well, so that nobody takes from it: a person moves the volume."""
    go_on(guest)
    site.network.part("h1", "a1")
    site.until_edge("waiting")
    assert site.volume()["node"] == "a1"
    site.ask("a1").move_volume("web1", site.keeper)
    go_on(guest)
    site.network.heal()
    go_on(guest)
    assert site.volume()["node"] == site.keeper
    guest.verify()


def test_a_guest_that_was_given_up_writes_no_more(site: Site, guest: Guest) -> None:
    """Preempt is for a guest that is gone; one that is not loses its volume, and does no harm."""
    go_on(guest)
    site["a2"].start_edge()
    with pytest.raises(VStorageError, match="of node h1"):
        site.ask("a2").attach_volume("web1")
    site.network.part("h1", (*OWNERS, ETCD))
    site.until_edge("waiting")
    given = site.ask("a2").attach_volume("web1", preempt=True)
    assert [one["node"] for one in given["attachments"]] == ["a2"]
    site.network.heal()
    with pytest.raises(Disconnected):
        go_on(guest)
    # What was under way then may have been done or not; what was acknowledged is there.
    guest.client.connect(*parse_nbd_uri(given["uri"]))
    guest.client.verify()


def test_the_host_of_a_guest_is_cut_off_from_the_registry(site: Site, guest: Guest) -> None:
    """Its Edge knows owner and keeper: it finds either by itself, and a third one when told."""
    go_on(guest)
    site.network.part("h1", ETCD)
    site.until_alive("h1", alive=False, by="a1")
    go_on(guest)
    site.ask("a1").move_volume("web1", site.keeper)
    go_on(guest)
    kept_by = site.until_in_sync(*ROOM1, by="a1")
    site[site.keeper].kill9_daemon()
    site.until_owned_by(site.spare, *ROOM1, by=kept_by)
    site.network.heal()
    go_on(guest)
    site.until_alive("h1")
    guest.verify()


def test_a_slow_network_is_slow_and_no_more(site: Site, guest: Guest) -> None:
    go_on(guest)
    site.network.delay("a1", site.keeper, 0.02)
    site.network.delay("a1", ETCD, 0.1)
    go_on(guest)
    volume = site.volume()
    assert (volume["node"], volume["dtl"]["state"]) == ("a1", "in_sync")
    # So late that it is as good as lost.
    site.network.delay("a1", site.keeper, 5.0)
    go_on(guest)
    assert site.volume()["dtl"]["state"] != "in_sync"
    site.network.heal()
    site.until_in_sync(*ROOM2)
    go_on(guest)
    guest.verify()
