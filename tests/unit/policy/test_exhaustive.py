"""Every invariant in every small cluster with every set of lost nodes; every mutant is caught."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from tests.unit.policy import family_world, ownership_world, worlds
from tests.unit.policy.invariants import INVARIANTS
from tests.unit.policy.loading import Mutant, load
from tests.unit.policy.mutants import (
    FAMILY_MUTANTS,
    FAMILY_WORLDS,
    MUTANTS,
    OWNERSHIP_MUTANTS,
    OWNERSHIP_WORLDS,
)

NAMES = {invariant.__name__: invariant for invariant in INVARIANTS.values()}


def first_violation(policy: SimpleNamespace, name: str) -> str | None:
    """Where an invariant does not hold; the smallest cluster with the fewest losses."""
    for sizes, recovery in sorted(worlds.topologies(), key=lambda one: (sum(one[0]), str(one))):
        cluster = worlds.healthy(policy, sizes, recovery)
        for words, world in worlds.damaged(cluster):
            try:
                NAMES[name](policy, world)
            except AssertionError:
                return f"Domains {sizes}, Recovery Domains {recovery}, {words}"
    return None


def test_all_invariants_hold_everywhere() -> None:
    policy = load()
    seen: Counter[str] = Counter()
    for sizes, recovery in worlds.topologies():
        cluster = worlds.healthy(policy, sizes, recovery)
        seen["topologies"] += 1
        for damage, world in worlds.damaged(cluster):
            seen["worlds"] += 1
            for words, invariant in INVARIANTS.items():
                try:
                    invariant(policy, world)
                except AssertionError as violation:
                    raise AssertionError(
                        f"{words}: not with Domains {sizes}, Recovery Domains {recovery}, {damage}"
                    ) from violation
            for name in (node.name for node in world.nodes if not node.alive):
                for fate in policy.takeover.takeovers(world, name):
                    seen[fate.obstacle or "taken over"] += 1
    # Everything that can happen did happen somewhere.
    expected = {"taken over", *policy.takeover.Obstacle}
    assert expected <= seen.keys(), expected - seen.keys()
    print(dict(seen))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.says)
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    assert first_violation(load(mutant), mutant.caught_by) is not None, mutant.says


def test_every_invariant_catches_a_mutant() -> None:
    assert {mutant.caught_by for mutant in MUTANTS} == NAMES.keys()
    caught = {mutant.caught_by for _, mutant in OWNERSHIP_MUTANTS}
    assert caught == set(ownership_world.INVARIANTS)
    assert {mutant.caught_by for _, mutant in FAMILY_MUTANTS} == set(family_world.INVARIANTS)


def test_who_owns_a_volume_in_every_order_of_events() -> None:
    policy = load()
    happened: set[str] = set()
    for bounds in OWNERSHIP_WORLDS.values():
        happened |= ownership_world.explore(ownership_world.World(policy, bounds)).happened
    assert happened == ownership_world.HAPPENS.keys()


@pytest.mark.parametrize(
    ("world", "mutant"), OWNERSHIP_MUTANTS, ids=[one.says for _, one in OWNERSHIP_MUTANTS]
)
def test_a_mutant_of_ownership_is_caught(world: str, mutant: Mutant) -> None:
    explored = ownership_world.World(load(mutant), OWNERSHIP_WORLDS[world])
    with pytest.raises(ownership_world.Violation, match=mutant.caught_by):
        ownership_world.explore(explored)


def test_a_family_comes_together_after_every_order_of_events() -> None:
    policy = load()
    happened: set[str] = set()
    for bounds in FAMILY_WORLDS.values():
        happened |= family_world.explore(family_world.World(policy, bounds)).happened
    assert happened == family_world.HAPPENS.keys()


@pytest.mark.parametrize(
    ("world", "mutant"), FAMILY_MUTANTS, ids=[one.says for _, one in FAMILY_MUTANTS]
)
def test_a_mutant_of_families_is_caught(world: str, mutant: Mutant) -> None:
    explored = family_world.World(load(mutant), FAMILY_WORLDS[world])
    with pytest.raises(ownership_world.Violation, match=mutant.caught_by):
        family_world.explore(explored)
