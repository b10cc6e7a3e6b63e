"""Volumes attached on one node and owned by another: where the Edge is told they are."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from ovs_daemon.control import attachments, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.edge_link import EdgeLink
from ovs_daemon.control.records import Mode, Volume
from ovs_daemon.control.remote import Follower, where
from ovs_daemon.control.store import put
from ovs_daemon.edge import Where
from ovs_daemon.errors import VStorageError
from tests.support.fake_edge import FakeEdge
from tests.support.town import MIB, Inhabitant, Town


@pytest.fixture
def town() -> Town:
    return Town({"one": ("rack1", None), "two": ("rack1", None)})


def create(node: Inhabitant) -> Volume:
    return volumes.create_volume(node.host, "web1", 64 * MIB, None)


def edge_of(node: Inhabitant) -> FakeEdge:
    edge = node.host.edge
    assert isinstance(edge, FakeEdge)
    return edge


def tcp_of(node: Inhabitant) -> str:
    return dict(node.settings.membership.addresses)["edge_tcp"]


def test_a_volume_of_another_node_is_reached_there_with_a_token(town: Town) -> None:
    made = create(town["one"])
    attachments.attach(town["two"].host, "web1", Wish(Mode.EDGE))
    served = edge_of(town["two"]).served[made.uuid]
    assert served["targets"] == [{"tcp": tcp_of(town["one"])}]
    assert (served["host"], len(served["token"])) == ("two", 128)
    assert edge_of(town["one"]).served == {}
    (attachment,) = town.volume(made.uuid).attachments
    assert attachment.node == "two"
    attachments.detach(town["two"].host, "web1")
    assert edge_of(town["two"]).served == {}
    assert town.volume(made.uuid).attachments == ()


def test_nodes_serve_what_is_attached_on_them_only(town: Town) -> None:
    made = create(town["one"])
    attachments.attach(town["two"].host, "web1", Wish(Mode.EDGE))
    for node in (town["one"], town["two"]):
        attachments.reconcile_edge(node.host)
    assert edge_of(town["one"]).served == {}
    assert set(edge_of(town["two"]).served) == {made.uuid}
    attachments.detach(town["one"].host, "web1", everybody=True)
    Follower(town["two"].host).look()
    assert edge_of(town["two"]).served == {}, "taken away elsewhere"


def test_the_edge_is_told_once_when_the_owner_changes(town: Town) -> None:
    made = create(town["one"])
    two = town["two"]
    attachments.attach(two.host, "web1", Wish(Mode.EDGE))
    now = [0.0]
    follower = Follower(two.host, lambda: now[0])
    follower.look()
    told = edge_of(two).retargeted
    told.clear()
    follower.look()
    assert told == [], "nothing has changed"
    now[0] += 24 * 3600
    follower.look()
    assert [one["volume"] for one in told] == [made.uuid], "a new token"
    current = town.volume(made.uuid)
    two.host.store.commit(put(replace(current, node="two", epoch=current.epoch + 1)))
    follower.look()
    assert told[-1]["targets"] == [], "this node's own engine"
    assert where(two.host, town.volume(made.uuid), False) == Where()


def test_an_edge_is_told_what_it_missed_while_its_daemon_was_away(town: Town) -> None:
    made = create(town["one"])
    two = town["two"]
    attachments.attach(two.host, "web1", Wish(Mode.EDGE))
    Follower(two.host).look()
    current = town.volume(made.uuid)
    two.host.store.commit(put(replace(current, node="two", epoch=current.epoch + 1)))
    # Another life of the daemon, the same of the Edge.
    Follower(two.host).look()
    assert edge_of(two).retargeted[-1]["targets"] == [], "this node's own engine"


def test_one_name_on_two_hosts_is_two_holders(town: Town) -> None:
    made = create(town["one"])
    attachments.attach(town["one"].host, "web1", Wish(Mode.EDGE))
    with pytest.raises(VStorageError, match="of node one"):
        attachments.attach(town["two"].host, "web1", Wish(Mode.EDGE))
    attachments.attach(town["two"].host, "web1", Wish(Mode.EDGE, preempt=True))
    (attachment,) = town.volume(made.uuid).attachments
    assert attachment.node == "two"


def test_the_edge_is_looked_after_when_something_changes(town: Town) -> None:
    made = create(town["one"])
    two = town["two"]
    attachments.attach(two.host, "web1", Wish(Mode.EDGE))
    link = EdgeLink(two.host, lambda: 3600.0)
    link.check()
    looked = threading.Event()
    retarget = two.host.edge.retarget

    def note(uuid: str, where: Where) -> None:
        retarget(uuid, where)
        looked.set()

    two.host.edge.retarget = note  # type: ignore[method-assign]
    link.start()
    current = town.volume(made.uuid)
    two.host.store.commit(put(replace(current, epoch=current.epoch + 1)))
    link.wake()
    assert looked.wait(60)
    link.stop()


def test_what_is_missing_is_said(town: Town) -> None:
    create(town["one"])
    two = town["two"].host
    with pytest.raises(VStorageError, match="without --direct"):
        attachments.attach(two, "web1", Wish(Mode.DIRECT))
    two.settings = replace(two.settings, cluster_key=None)
    with pytest.raises(VStorageError, match="cluster_key_file"):
        attachments.attach(two, "web1", Wish(Mode.EDGE))
    two.settings = replace(two.settings, cluster_key=b"k" * 32)
    node = two.store.node("one")
    assert node is not None
    two.store.commit(put(replace(node, addresses={})))
    with pytest.raises(VStorageError, match=r"\[edge\] listen"):
        attachments.attach(two, "web1", Wish(Mode.EDGE))
