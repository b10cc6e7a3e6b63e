"""When users are shut out: every case, against what the words say."""

from __future__ import annotations

from itertools import product

from ovs_daemon.policy.fencing import Change, Standing, Step, next_step

MINE, THEIRS, MORE = ("local", "me"), ("nova@a", "a"), ("nova@b", "b")


def test_the_generation_is_raised_when_another_node_loses_what_it_serves() -> None:
    cases = {
        "nothing changes": ({MINE, THEIRS}, {MINE, THEIRS}, 7),
        "somebody is added": ({THEIRS}, {THEIRS, MORE, MINE}, 7),
        "this node lets go": ({MINE, THEIRS}, {THEIRS}, 7),
        "another node loses it": ({MINE, THEIRS}, {MINE}, 8),
        "two of them lose it": ({THEIRS, MORE}, set(), 8),
        "one of them does": ({THEIRS, MORE}, {MORE}, 8),
        "a holder gets it on another node": ({("nova@a", "a")}, {("nova@a", "b")}, 8),
        "a holder gets it here": ({("nova@a", "a")}, {("nova@a", "me")}, 8),
        "a holder leaves for another node": ({("nova@a", "me")}, {("nova@a", "a")}, 7),
    }
    for name, (before, after, expected) in cases.items():
        change = Change(before, after, "me", confirmed=True)
        assert change.generation_after(7) == expected, name
        assert change.takes_away == (expected == 8), name


def test_the_generation_is_raised_when_this_node_does_not_know_that_all_has_ended() -> None:
    cases = {
        "nothing changes": ({MINE, THEIRS}, {MINE, THEIRS}, 7),
        "somebody is added": ({THEIRS}, {THEIRS, MORE, MINE}, 7),
        "this node lets go": ({MINE, THEIRS}, {THEIRS}, 8),
        "it is the last one": ({MINE}, set(), 8),
        "another one gets it here": ({MINE}, {("nova@me", "me")}, 8),
        "a holder leaves for another node": ({("nova@a", "me")}, {("nova@a", "a")}, 8),
    }
    for name, (before, after, expected) in cases.items():
        change = Change(before, after, "me", confirmed=False)
        assert change.generation_after(7) == expected, name
        assert not change.takes_away, f"{name}: nobody else loses it"
    assert Change({MINE, THEIRS}, set(), "me", confirmed=False).takes_away


def test_what_is_to_be_done_in_every_case() -> None:
    cases = product(range(3), ("me", "other"), (False, True), (False, True))
    for enforced, owner, alive, leased in cases:
        step = next_step(Standing(1, enforced, owner, alive, leased), "me")
        if enforced >= 1:
            expected = Step.DONE
        elif owner == "me":
            expected = Step.ENFORCE
        elif alive:
            expected = Step.WAIT
        else:
            expected = Step.NOBODY_SERVES if leased else Step.UNKNOWN
        assert step is expected, (enforced, owner, alive, leased)
