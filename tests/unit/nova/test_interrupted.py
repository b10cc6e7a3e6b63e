"""What becomes of an attach or detach that nobody goes on with: every combination of facts."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from ovs_nova.interrupted import Cure, Facts, cure

ATTACHMENTS = (None, "reserved", "attaching", "attached", "error_attaching", "detached")
VOLUMES = ("available", "reserved", "attaching", "in-use", "detaching", "retyping", "error")
EVERY = [
    Facts(*values)
    for values in itertools.product(
        (False, True), ATTACHMENTS, VOLUMES, (False, True), (False, True)
    )
]


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        # Killed while it attached, one step further each time.
        (Facts(False, "reserved", "reserved", False), Cure.GIVE_BACK),
        (Facts(False, "attaching", "attaching", False), Cure.GIVE_BACK),
        (Facts(True, "attaching", "attaching", False), Cure.DETACH),
        (Facts(True, "attaching", "attaching", True), Cure.COMPLETE),
        (Facts(True, "attached", "in-use", True), Cure.NOTHING),
        # Killed while it detached.
        (Facts(True, "attached", "detaching", True), Cure.ROLL_BACK),
        (Facts(True, "attached", "detaching", False), Cure.DETACH),
        (Facts(True, None, "available", False), Cure.DETACH),
        # Somebody else may have it by now.
        (Facts(True, None, "available", True), Cure.DETACH),
        (Facts(True, None, "in-use", True), Cure.DETACH),
        # Killed while it undid an attach that had failed.
        (Facts(False, None, "available", False), Cure.GIVE_BACK),
    ],
)
def test_each_moment_has_its_cure(facts: Facts, wanted: Cure) -> None:
    assert cure(facts) is wanted


def test_a_disk_is_taken_from_a_guest_only_when_others_may_attach_it() -> None:
    takes = [one for one in EVERY if one.in_guest and cure(one) in (Cure.DETACH, Cure.GIVE_BACK)]
    assert takes
    assert all(one.attachment is None and one.connected for one in takes)


def test_a_root_disk_is_never_taken() -> None:
    assert {cure(one) for one in EVERY if one.root} == {
        Cure.NOTHING,
        Cure.COMPLETE,
        Cure.ROLL_BACK,
    }


def test_cinder_is_told_only_what_is_so() -> None:
    for facts in EVERY:
        if cure(facts) in (Cure.COMPLETE, Cure.ROLL_BACK):
            assert facts.in_guest
            assert facts.connected
        if cure(facts) is Cure.GIVE_BACK:
            # Nothing is on this host, so that there is nothing to detach.
            assert not facts.connected


def test_a_cure_is_followed_by_nothing() -> None:
    """What each cure makes of the facts needs none."""
    for facts in EVERY:
        if cure(facts) is Cure.COMPLETE:
            done = dataclasses.replace(facts, attachment="attached", volume="in-use")
        elif cure(facts) is Cure.ROLL_BACK:
            done = dataclasses.replace(facts, volume="in-use")
        else:
            # Nova's record is gone, and nobody looks.
            continue
        assert cure(done) is Cure.NOTHING
