"""A planned move, killed at every step: one node or the other serves the volume, with all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ovs_daemon.control import attachments, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.moves import move_volume
from ovs_daemon.control.records import Mode, Volume
from ovs_daemon.control.volumes import Source
from tests.support.fake_edge import FakeEdge, generation_of
from tests.support.refusal import refused
from tests.support.town import Inhabitant, Town

GIB = 1 << 30
STEPS_MAX = 40


class Killed(BaseException):
    """The process is dead; whatever it does afterwards does not happen."""


@pytest.fixture
def town() -> Town:
    return made_town()


def made_town(nodes: dict[str, tuple[str, str | None]] | None = None) -> Town:
    """Two nodes; the first one has a volume with a clone, and serves the volume to a guest."""
    town = Town(nodes or {"a1": ("a", "b"), "b1": ("b", "a")})
    host = town["a1"].host
    made = volumes.create_volume(host, "web1", GIB, None)
    volumes.create_volume(host, "clone", None, Source("web1", None))
    town["a1"].steward.tend()
    for one in host.store.volumes():
        town.in_sync(one)
    attachments.attach(host, "web1", Wish(Mode.EDGE))
    assert town.volume(made.uuid).node == "a1"
    return town


def family(town: Town) -> list[Volume]:
    return town["b1"].host.store.volumes()


def die_at(node: Inhabitant, step: int, after: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kill a node at its n-th transaction or call of the engine; which steps were taken."""
    taken: list[str] = []

    def fused(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if len(taken) > step:
                raise Killed
            taken.append(name)
            fatal = len(taken) == step + 1
            if fatal and not after:
                raise Killed
            result = act(*arguments)
            if fatal:
                raise Killed
            return result

        return call

    monkeypatch.setattr(node.host.store, "commit", fused("commit", node.host.store.commit))
    for name in ("settle_volume", "close_volume", "open_volume"):
        act = getattr(node.engine, name)
        monkeypatch.setattr(node.engine, name, fused(name, act))
    return taken


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_step_of_a_move(after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[str] = []
    for step in range(STEPS_MAX):
        town = made_town()
        with monkeypatch.context() as patch:
            steps = die_at(town["a1"], step, after, patch)
            try:
                move_volume(town["a1"].host, "web1", "b1")
            except Killed:
                finished = False
            else:
                finished = True
        town["a1"].kill()
        town.tend()
        given = {one.node for one in family(town)}
        assert len(given) == 1, "relatives stay together"
        owners.extend(given)
        if given == {"a1"}:
            # Dead for a moment only: it comes back and has everything.
            town["a1"].start()
            town.tend()
        for one in family(town):
            serving = [name for name, node in town.nodes.items() if one.uuid in node.engine.open]
            serving = [name for name in serving if town[name].up]
            assert serving == [one.node] == [one.served], (step, steps)
        if finished:
            break
    else:
        pytest.fail("a move has no end")
    assert owners == sorted(owners), (
        "first it is this node's, then the other's, never this one's again"
    )
    assert set(owners) == {"a1", "b1"}


def test_edges_can_follow_before_they_are_told_to(town: Town) -> None:
    a1, b1 = town["a1"], town["b1"]
    volume = next(one for one in family(town) if one.name == "web1")
    move_volume(a1.host, "web1", "b1")
    node = a1.host.store.node("b1")
    assert node is not None
    address = node.addresses["edge_tcp"]
    assert a1.engine.moved == {one.uuid: address for one in family(town)}
    edge = a1.host.edge
    assert isinstance(edge, FakeEdge)
    told = edge.retargeted[0]
    assert told["volume"] == volume.uuid
    assert told["targets"] == [{"shm": "/run/vstorage/engine.sock"}, {"tcp": address}]
    assert told["token"]
    assert told["epoch"] <= volume.epoch, "it stays where it is until then"
    town.tend()
    assert volume.uuid in b1.engine.open


class TestTheTargetDies:
    """Of four nodes; b1 is given the volume with its clone, and nothing is lost."""

    @pytest.fixture
    def town(self) -> Town:
        return made_town({"a1": ("a", "b"), "a2": ("a", "b"), "b1": ("b", "a"), "b2": ("b", "a")})

    def test_before_it_has_opened_them(self, town: Town) -> None:
        """Everything is on the backend, so that others can go on by themselves."""
        move_volume(town["a1"].host, "web1", "b1")
        town["b1"].kill()
        town.pass_time()
        town.tend()
        owners = {one.node for one in family(town)}
        assert owners == {"b2"}
        for one in family(town):
            assert one.uuid in town["b2"].engine.open
            assert (one.served, one.saved, one.forced) == ("b2", False, None)
            assert town.in_sync(one).dtl.node in ("a1", "a2"), "it is paired again"

    def test_before_they_are_paired(self, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
        """What guests wrote since is there alone: nobody else goes on, and it is paired later."""
        move_volume(town["a1"].host, "web1", "b1")
        monkeypatch.setattr(town["b1"].steward, "_pair", lambda view: None)
        town["b1"].steward.tend()
        town["b1"].kill()
        town.pass_time()
        town.tend()
        for one in family(town):
            assert (one.node, one.dtl.node) == ("b1", None)
        town["b1"].start()
        town.pass_time()
        town.tend()
        for one in family(town):
            assert one.uuid in town["b1"].engine.open
            assert town.in_sync(one).dtl.node in ("a1", "a2")


def test_what_cannot_be_settled_stays_and_is_served(town: Town) -> None:
    town["a1"].engine.fail.add("settle_volume")
    refused(lambda: move_volume(town["a1"].host, "web1", "b1"), "io")
    for one in family(town):
        assert one.node == "a1"
        assert one.uuid in town["a1"].engine.open
    assert town["a1"].engine.moved == {}


def test_a_clone_that_is_made_meanwhile_keeps_the_family_where_it_is(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, engine = town["a1"].host, town["a1"].engine

    def settle(uuid: str) -> None:
        monkeypatch.undo()
        volumes.create_volume(host, "late", None, Source("web1", None))
        engine.settle_volume(uuid)

    monkeypatch.setattr(engine, "settle_volume", settle)
    refused(lambda: move_volume(host, "web1", "b1"), "busy", "try again")
    assert {one.node for one in family(town)} == {"a1"}
    assert engine.open.keys() == {one.uuid for one in family(town)}


def test_what_the_engine_has_stopped_is_not_given_away(town: Town) -> None:
    """Its lease was over: what the write buffer has is not on the backend."""
    volume = next(one for one in family(town) if one.name == "web1")
    town["a1"].engine.stopped.add(volume.uuid)
    refused(lambda: move_volume(town["a1"].host, "web1", "b1"), "busy", "was stopped there")
    for one in family(town):
        assert (one.node, one.served) == ("a1", "a1")
        assert one.uuid in town["a1"].engine.open, "it goes on here"


def test_what_is_not_open_is_not_given_away(town: Town) -> None:
    volume = next(one for one in family(town) if one.name == "clone")
    town["a1"].host.close(volume.uuid)
    refused(lambda: move_volume(town["a1"].host, "web1", "b1"), "busy", "is not open on node 'a1'")
    assert {one.node for one in family(town)} == {"a1"}
    assert volume.uuid in town["a1"].engine.open, "it is open again"


def test_edges_get_no_leave_that_was_worth_nothing_before_it_was_given(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody loses the volume while what it has is brought to the backend."""
    a1, b1 = town["a1"], town["b1"]
    attachments.attach(b1.host, "web1", Wish(Mode.EDGE, holder="nova", shared=True))
    settle = a1.engine.settle_volume

    def take_away(uuid: str) -> None:
        attachments.detach(a1.host, "web1", holder="nova")
        settle(uuid)

    monkeypatch.setattr(a1.engine, "settle_volume", take_away)
    move_volume(a1.host, "web1", "b1")
    web1 = next(one for one in family(town) if one.name == "web1")
    edge = a1.host.edge
    assert isinstance(edge, FakeEdge)
    told = [one for one in edge.retargeted if one["volume"] == web1.uuid]
    assert web1.generation == 1
    assert [generation_of(one["token"]) for one in told] == [1]
