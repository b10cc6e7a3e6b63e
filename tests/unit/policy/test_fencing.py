"""When users are shut out: every case, against what the words say."""

from __future__ import annotations

from itertools import product

from ovs_daemon.policy.fencing import Standing, Step, generation_after, next_step


def test_the_generation_is_raised_when_another_node_loses_what_it_serves() -> None:
    mine, theirs, more = ("local", "me"), ("nova@a", "a"), ("nova@b", "b")
    cases = {
        "nothing changes": ({mine, theirs}, {mine, theirs}, 7),
        "somebody is added": ({theirs}, {theirs, more, mine}, 7),
        "this node lets go": ({mine, theirs}, {theirs}, 7),
        "another node loses it": ({mine, theirs}, {mine}, 8),
        "two of them lose it": ({theirs, more}, set(), 8),
        "one of them does": ({theirs, more}, {more}, 8),
        "a holder gets it on another node": ({("nova@a", "a")}, {("nova@a", "b")}, 8),
        "a holder gets it here": ({("nova@a", "a")}, {("nova@a", "me")}, 8),
        "a holder leaves for another node": ({("nova@a", "me")}, {("nova@a", "a")}, 7),
    }
    for name, (before, after, expected) in cases.items():
        assert generation_after(7, before, after, "me") == expected, name


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
