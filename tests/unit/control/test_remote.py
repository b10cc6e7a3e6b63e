"""Volumes attached on one node and owned by another: where the Edge is told they are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from ovs_daemon.control import attachments, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.edge_link import EdgeLink
from ovs_daemon.control.records import Mode, Volume
from ovs_daemon.control.remote import Follower, attaching_node, where
from ovs_daemon.control.store import Store, put
from ovs_daemon.edge import Serving, Where
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.policy.model import Role
from ovs_daemon.registry import Operation
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


def set_roles(town: Town, name: str, *roles: Role) -> None:
    store = town[name].host.store
    node = store.node(name)
    assert node is not None
    store.commit(put(replace(node, roles=roles)))


def chosen(town: Town, *candidates: str) -> str:
    return attaching_node(town["one"].host, "web1", candidates)


def test_a_host_attaches_through_the_owner_if_it_has_it_else_through_whom_it_has() -> None:
    town = Town(dict.fromkeys(("one", "two", "three"), ("rack1", None)))
    create(town["one"])
    assert chosen(town, "two", "one") == "one"
    assert chosen(town, "three", "two", "elsewhere") == "three"
    town["three"].kill()
    town.pass_time()
    assert chosen(town, "three", "two") == "two"
    # It is perhaps only being restarted.
    assert chosen(town, "three") == "three"


def test_a_host_without_a_node_of_the_cluster_is_refused(town: Town) -> None:
    create(town["one"])
    for candidates in ((), ("elsewhere",)):
        with pytest.raises(VStorageError, match="none of these is a node of this cluster"):
            chosen(town, *candidates)
    set_roles(town, "two", Role.ROUTER)
    with pytest.raises(VStorageError, match="with the role edge"):
        chosen(town, "two")


def test_an_owner_that_no_edge_reaches_is_named(town: Town) -> None:
    create(town["one"])
    store = town["one"].host.store
    node = store.node("one")
    assert node is not None
    store.commit(put(replace(node, addresses={"dtl": "one:1"})))
    with pytest.raises(VStorageError, match=r"node 'one' owns it and says no address") as caught:
        chosen(town, "two")
    assert caught.value.code == Code.NOT_HERE


def test_a_node_that_only_attaches_makes_no_volumes(town: Town) -> None:
    set_roles(town, "two", Role.EDGE)
    with pytest.raises(VStorageError, match="'two' has not the role router"):
        create(town["two"])
    assert Store(town.registry).volumes() == []


def meanwhile(node: Inhabitant, act: Callable[[], object]) -> None:
    """Have something happen just before the next record is stored by a node."""
    store = node.host.store
    commit = store.commit

    def interrupted(*operations: Operation) -> int:
        store.commit = commit  # type: ignore[method-assign]
        act()
        return commit(*operations)

    store.commit = interrupted  # type: ignore[method-assign]


def test_growing_and_attaching_elsewhere_at_the_same_time(town: Town) -> None:
    """Neither takes back what the other has just stored."""
    made = create(town["one"])
    grow = partial(volumes.resize_volume, town["one"].host, "web1")
    meanwhile(town["two"], lambda: grow(128 * MIB))
    attachments.attach(town["two"].host, "web1", Wish(Mode.EDGE))
    assert town.volume(made.uuid).size == 128 * MIB
    meanwhile(town["one"], lambda: attachments.detach(town["two"].host, "web1"))
    grow(192 * MIB)
    found = town.volume(made.uuid)
    assert (found.size, found.attachments) == (192 * MIB, ())


def test_attaching_on_two_nodes_at_the_same_time(town: Town) -> None:
    made = create(town["one"])
    one, two = town["one"].host, town["two"].host
    there = partial(attachments.attach, one, "web1", Wish(Mode.EDGE, holder="nova@one"))
    meanwhile(town["two"], there)
    with pytest.raises(VStorageError) as caught:
        attachments.attach(two, "web1", Wish(Mode.EDGE, holder="nova@two"))
    assert caught.value.code == Code.IN_USE
    assert [one.holder for one in town.volume(made.uuid).attachments] == ["nova@one"]
    assert edge_of(town["two"]).served == {}
    attachments.set_multi_attach(one, "web1", multi_attach=True)
    attachments.detach(one, "web1", "nova@one")
    meanwhile(town["two"], there)
    attachments.attach(two, "web1", Wish(Mode.EDGE, holder="nova@two"))
    found = town.volume(made.uuid).attachments
    assert [one.holder for one in found] == ["nova@one", "nova@two"]


def test_a_failed_attach_takes_back_its_own_only(town: Town) -> None:
    made = create(town["one"])
    attachments.set_multi_attach(town["one"].host, "web1", multi_attach=True)
    edge_of(town["two"]).up = False
    there = Wish(Mode.EDGE, holder="nova@one")
    serve = edge_of(town["two"]).attach

    def slowly(serving: Serving) -> None:
        attachments.attach(town["one"].host, "web1", there)
        serve(serving)

    edge_of(town["two"]).attach = slowly  # type: ignore[method-assign]
    with pytest.raises(VStorageError):
        attachments.attach(town["two"].host, "web1", Wish(Mode.EDGE, holder="nova@two"))
    assert [one.holder for one in town.volume(made.uuid).attachments] == ["nova@one"]


def test_what_the_owner_serves_itself_it_ends_itself(town: Town) -> None:
    made = create(town["one"])
    attachments.attach(town["one"].host, "web1", Wish(Mode.DIRECT, holder="image@one"))
    with pytest.raises(VStorageError) as caught:
        attachments.detach(town["two"].host, "web1", "image@one")
    assert caught.value.code == Code.NOT_HERE
    attachments.detach(town["one"].host, "web1", "image@one")
    assert town.volume(made.uuid).attachments == ()
