"""A volume and its clones are served by one node; those that are found apart come together."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from ovs_daemon.control import attachments, opening, volumes
from ovs_daemon.control import family as control_family
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.health import cluster_findings
from ovs_daemon.control.moves import move_volume, take_over
from ovs_daemon.control.records import Attachment, Mode, Volume
from ovs_daemon.control.store import put
from ovs_daemon.control.view import View
from ovs_daemon.control.volumes import Source
from ovs_daemon.policy.model import DtlState
from ovs_daemon.registry import Operation
from tests.support.fake_engine import FakeEngine
from tests.support.refusal import refused
from tests.support.town import Town
from tests.unit.control.test_hand_over import Killed, die_at

GIB = 1 << 30
IN_SYNC, DEGRADED = DtlState.IN_SYNC, DtlState.DEGRADED
NAMES = ("base", "one", "two")
STEPS_MAX = 40


@pytest.fixture
def town() -> Town:
    return made_town()


def made_town() -> Town:
    """Four nodes; a1 has a volume with two clones, all in sync."""
    town = Town({"a1": ("a", "b"), "a2": ("a", "b"), "b1": ("b", "a"), "b2": ("b", "a")})
    host = town["a1"].host
    volumes.create_volume(host, "base", GIB, None)
    for name in NAMES[1:]:
        volumes.create_volume(host, name, None, Source("base", None))
    town["a1"].steward.tend()
    for one in host.store.volumes():
        town.in_sync(one)
    return town


def named(town: Town, name: str) -> Volume:
    found = town["b1"].host.store.find_volume(name)
    assert found is not None
    return found


def served_by(town: Town) -> dict[str, str]:
    """Who serves what; nobody serves a volume that is missing."""
    return {
        name: node.name
        for name in NAMES
        for node in town.nodes.values()
        if node.up and named(town, name).uuid in node.engine.open
    }


def owners(town: Town) -> dict[str, str]:
    return {name: named(town, name).node for name in NAMES}


def at(node: str) -> dict[str, str]:
    return dict.fromkeys(NAMES, node)


def dies(town: Town, name: str) -> None:
    town[name].kill()
    town.pass_time()


def comes_back_after_the_first_swap(
    town: Town, monkeypatch: pytest.MonkeyPatch, of: str = "a2"
) -> None:
    """a1, which is dead, starts again once another node has taken something from it."""
    store = town[of].host.store
    commit = store.commit

    def commit_then_meet(*operations: Operation) -> int:
        version = commit(*operations)
        monkeypatch.setattr(store, "commit", commit)
        town["a1"].start()
        return version

    monkeypatch.setattr(store, "commit", commit_then_meet)


def test_an_owner_that_comes_back_in_a_takeover_finds_its_family_in_one_piece(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(town, "a1")
    comes_back_after_the_first_swap(town, monkeypatch)
    town["a2"].steward.tend()
    assert owners(town) == served_by(town) == at("a2")


def test_one_that_was_back_before_keeps_all(town: Town) -> None:
    dies(town, "a1")
    family = town["a2"].host.store.volumes()
    town["a1"].start()
    refused(lambda: town["a2"].host.opener.take_over(family), "not_here", "is alive again")
    assert owners(town) == served_by(town) == at("a1")


def about_to_take_over(town: Town, monkeypatch: pytest.MonkeyPatch) -> str:
    dies(town, "a1")
    return "a2"


def about_to_give(town: Town, monkeypatch: pytest.MonkeyPatch) -> str:
    """a1 is back, and has two closed clones of what a2 serves."""
    monkeypatch.setattr(opening, "RELATIVES_AT_ONCE", 1)
    monkeypatch.setattr(control_family, "RELATIVES_AT_ONCE", 1)
    dies(town, "a1")
    comes_back_after_the_first_swap(town, monkeypatch)
    town["a2"].steward.tend()
    assert sorted(owners(town).values()) == ["a1", "a1", "a2"]
    return "a1"


def about_to_hand_over(town: Town, monkeypatch: pytest.MonkeyPatch) -> str:
    """a1 is back, and has what only it has, a closed clone of what a2 serves."""
    assert town["a1"].says(named(town, "one"), IN_SYNC, DEGRADED, 50)
    dies(town, "a1")
    town["a2"].steward.tend()
    town["a1"].start()
    assert owners(town) == {"base": "a2", "one": "a1", "two": "a2"}
    return "a2"


@pytest.mark.parametrize("soon", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("prepare", [about_to_take_over, about_to_give, about_to_hand_over])
def test_killed_at_every_step(
    prepare: Callable[[Town, pytest.MonkeyPatch], str],
    after: bool,
    soon: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is back before anybody has missed it (`soon`), or after others have gone on."""
    for step in range(STEPS_MAX):
        town = made_town()
        with monkeypatch.context() as patch:
            node = prepare(town, patch)
            steps = die_at(town[node], step, after, patch)
            # What it had begun in threads dies in those.
            with contextlib.suppress(Killed):
                town[node].steward.tend()
        killed = len(steps) > step
        town[node].kill()
        for name in (node if soon else None, node, "a1", None, None):
            if name is not None and not town[name].up:
                town[name].start()
            town.pass_time()
            town.tend()
        assert owners(town) == served_by(town), steps
        assert len(set(owners(town).values())) == 1, steps
        for name in NAMES:
            assert named(town, name).served == named(town, name).node
            assert named(town, name).forced is None
        if not killed:
            return
    pytest.fail("it has no end")


class TestApart:
    """However it came to be, nobody has to help."""

    def test_a_family_too_large_for_one_transaction(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        about_to_give(town, monkeypatch)
        left = [name for name, node in owners(town).items() if node == "a1"]
        assert served_by(town) == {"base": "a2"}, "its clones are closed"
        findings = cluster_findings(town["b1"].host, View.of(town["b1"].host.store))
        apart = [one["object"] for one in findings if one["code"] == "family_apart"]
        assert apart == [f"volume {name}" for name in left]
        town.tend()
        assert owners(town) == served_by(town) == at("a2")
        for name in left:
            tail = town.keepers.tails[address(town, name), named(town, name).uuid]
            assert tail.epoch == named(town, name).epoch, "opened with its log"

    def test_what_only_its_owner_has_is_followed_by_the_others(self, town: Town) -> None:
        """A clone cannot be taken over, because its log is degraded; the others can."""
        clone = named(town, "one")
        assert town["a1"].says(clone, IN_SYNC, DEGRADED, 50)
        attachments.attach(town["b2"].host, "base", Wish(Mode.EDGE))
        dies(town, "a1")
        town.tend()
        assert served_by(town) == {"base": "a2", "two": "a2"}
        town["a1"].start()
        assert "one" not in served_by(town), "not before what it was cloned from"
        town.time_s += 1
        town.pass_time()
        town.tend()
        town.tend()
        assert owners(town) == served_by(town) == at("a1")
        assert named(town, "one").served == "a1"
        assert [one.node for one in named(town, "base").attachments] == ["b2"]

    def test_a_log_that_was_not_good_enough(self, town: Town) -> None:
        """One of them is given back to the dead node."""
        town.keepers.tails[address(town, "two"), named(town, "two").uuid].suspect = True
        dies(town, "a1")
        town.tend()
        assert owners(town) == {"base": "a2", "one": "a2", "two": "a1"}
        town["a1"].start()
        for _ in range(2):
            town.pass_time()
            town.tend()
        assert owners(town) == served_by(town) == at("a1")

    def test_one_that_was_taken_by_hand_in_an_earlier_release(self, town: Town) -> None:
        dies(town, "a1")
        apart = replace(named(town, "one"), node="b2", epoch=named(town, "one").epoch + 1)
        town["b2"].host.store.commit(put(apart))
        town["b2"].start()
        town.tend()
        assert len(set(owners(town).values())) == 1
        assert served_by(town) == owners(town)

    def test_who_is_served_apart_stays_while_the_others_may_be_closed(self, town: Town) -> None:
        """The engine opens a clone alone when nothing of its parent is in a write buffer."""
        clone = named(town, "one")
        dies(town, "a1")
        store = town["b2"].host.store
        town.set_dtl(named(town, "base"), replace(named(town, "base").dtl, state=DEGRADED))
        town["a1"].start()
        served = replace(named(town, "one"), node="b2", served="b2", epoch=clone.epoch + 7)
        store.commit(put(replace(served, home=town["b2"].settings.home)))
        town["a1"].host.close(clone.uuid)
        open_alone(town, "b2", named(town, "one"))
        town["b2"].steward.tend()
        town.in_sync(named(town, "one"))
        for _ in range(3):
            town.tend()
        assert owners(town) == served_by(town) == {**at("a1"), "one": "b2"}
        # Its log is in sync: it is open there, as far as its record tells.
        town.in_sync(named(town, "base"))
        town.tend()
        assert owners(town) == served_by(town) == at("a1")

    def test_who_cannot_follow_is_not_cut_off(self, town: Town) -> None:
        assert town["a1"].says(named(town, "one"), IN_SYNC, DEGRADED, 50)
        dies(town, "a1")
        town["a2"].steward.tend()
        direct = Attachment(Mode.DIRECT, False, "/run/d", "nova@a2", node="a2")
        base = named(town, "base")
        town["a2"].host.store.commit(put(replace(base, attachments=(direct,))))
        town["a1"].start()
        town.tend()
        assert served_by(town) == {"base": "a2", "two": "a2"}, "a guest is not cut off"
        base = named(town, "base")
        town["a2"].host.store.commit(put(replace(base, attachments=())))
        refused(
            lambda: move_volume(town["a2"].host, "base", "b1"),
            "not_here",
            "come together on one by themselves",
        )
        for _ in range(3):
            town.pass_time()
            town.tend()
        assert owners(town) == served_by(town) == at("a1")


def address(town: Town, name: str) -> str:
    """Where the log of a volume is kept."""
    return f"{named(town, name).dtl.node}:1"


def open_alone(town: Town, node: str, volume: Volume) -> None:
    """As the engine does where no ancestor has anything in the write buffer."""
    engine = town[node].engine
    for ancestor in volume.ancestors:
        engine.open.setdefault(ancestor, next(iter(town["a1"].engine.open.values())))
    town[node].host.open(volume)
    for ancestor in volume.ancestors:
        del engine.open[ancestor]


def test_a_person_takes_over_a_whole_family(town: Town) -> None:
    dies(town, "a1")
    taken = take_over(town["b2"].host, "two", accept_loss=False)
    assert taken.node == "b2"
    assert owners(town) == at("b2")
    assert served_by(town) == {"base": "b2", "two": "b2"}, "it waits for no more than it needs"
    town.tend()
    assert served_by(town) == at("b2")


def test_a_takeover_goes_where_a_relative_is(town: Town) -> None:
    apart = named(town, "one")
    town["a1"].kill()
    store = town["b2"].host.store
    store.commit(put(replace(apart, node="b2", epoch=apart.epoch + 1)))
    town.pass_time()
    town.tend()
    assert owners(town) == served_by(town) == at("b2")


def test_changed_meanwhile_is_planned_anew(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    dies(town, "a1")
    steward = town["a2"].steward
    opener = type(town["a2"].host.opener)
    take = opener.take_over

    def late(self: opening.Opener, family: list[Volume]) -> list[opening.Taken]:
        monkeypatch.setattr(opener, "take_over", take)
        store = town["b1"].host.store
        store.commit(put(replace(named(town, "two"), limits={"iops": 5.0})))
        return take(self, family)

    monkeypatch.setattr(opener, "take_over", late)
    steward.tend()
    assert owners(town) == at("a1"), "all or none"
    assert steward._due()
    steward.tend()
    assert owners(town) == served_by(town) == at("a2")


class TestStarting:
    """A node opens what is its own when it starts."""

    def test_one_family_keeps_no_other_waiting(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its backend or the node that keeps its log is slow."""
        volumes.create_volume(town["a1"].host, "other", GIB, None)
        town["a1"].kill()
        slow, other = named(town, "base").uuid, named(town, "other").uuid
        opened: list[str] = []
        others_are_open, in_time = threading.Event(), []
        open_volume = FakeEngine.open_volume

        def open_slowly(engine: FakeEngine, text: str, /) -> str:
            uuid = json.loads(text)["uuid"]
            if uuid == slow:
                in_time.append(others_are_open.wait(60))
            answer = open_volume(engine, text)
            opened.append(uuid)
            if uuid == other:
                others_are_open.set()
            return answer

        monkeypatch.setattr(FakeEngine, "open_volume", open_slowly)
        town["a1"].start()
        assert in_time == [True]
        assert opened[:2] == [other, slow], "before its clones"
        assert served_by(town) == at("a1")
        assert town["a1"].host.failures() == {}

    def test_what_cannot_be_opened_is_remembered(self, town: Town) -> None:
        town["a1"].kill()
        town.disk.volumes[named(town, "one").uuid].corrupt = True
        town["a1"].start()
        assert served_by(town) == {"base": "a1", "two": "a1"}
        assert list(town["a1"].host.failures()) == [named(town, "one").uuid]
