"""What the policy promises, said again without its code: sets of nodes, not rankings.

An invariant is a function that takes the policy under test and a cluster (healthy or not) and
raises AssertionError. `test_exhaustive.py` asks all of them in all worlds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

Invariant = Callable[[SimpleNamespace, Any], None]
INVARIANTS: dict[str, Invariant] = {}


def promise(words: str) -> Callable[[Invariant], Invariant]:
    """Register an invariant under the words that say what it promises."""

    def register(invariant: Invariant) -> Invariant:
        INVARIANTS[words] = invariant
        return invariant

    return register


def usable(cluster: Any, domain: str | None = None) -> set[str]:
    """Who may be given something (in one Domain)."""
    return {
        node.name
        for node in cluster.nodes
        if node.alive and node.router and not node.draining and node.domain is not None
        if domain is None or node.domain == domain
    }


def keepers(cluster: Any, owner: str) -> tuple[set[str], bool]:
    """Who may keep the log of a volume of ``owner``, and whether that is second best."""
    node = cluster.node(owner)
    if node.recovery_domain is not None:
        first = usable(cluster, node.recovery_domain) - {owner}
        if first:
            return first, False
    second = usable(cluster, node.domain) - {owner}
    return second, bool(second) and node.recovery_domain is not None


def find(cluster: Any, uuid: str) -> Any:
    return next(volume for volume in cluster.volumes if volume.uuid == uuid)


def dead(cluster: Any) -> list[str]:
    return [node.name for node in cluster.nodes if not node.alive]


@promise(
    "a log is kept by a living node of the Recovery Domain, else of the own Domain, never by "
    "the owner"
)
def log_is_where_it_should_be(policy: SimpleNamespace, cluster: Any) -> None:
    for node in cluster.nodes:
        place = policy.placement.place_dtl(cluster, node.name)
        allowed, fallback = keepers(cluster, node.name)
        assert (place.node in allowed) if allowed else place.node is None
        assert place.fallback == fallback


@promise("logs are spread evenly")
def logs_are_spread(policy: SimpleNamespace, cluster: Any) -> None:
    owner = cluster.nodes[0].name
    empty = replace(cluster, volumes=())
    for number in range(6):
        place = policy.placement.place_dtl(empty, owner)
        if place.node is None:
            return
        new = policy.model.Volume(str(number), owner, dtl_node=place.node)
        empty = replace(empty, volumes=(*empty.volumes, new))
    counts = Counter(volume.dtl_node for volume in empty.volumes)
    loads = [counts[name] for name in keepers(cluster, owner)[0]]
    assert max(loads) - min(loads) <= 1


@promise("every log that must move moves once, and no other")
def pairings_settle(policy: SimpleNamespace, cluster: Any) -> None:
    moved = cluster
    for pairing in policy.placement.pairings(cluster):
        volume = find(moved, pairing.volume)
        assert cluster.alive(volume.owner)
        assert volume.dtl_node == pairing.before != pairing.after
        before = cluster.node(pairing.before)
        if pairing.before in usable(cluster) - {volume.owner}:
            assert before.domain != cluster.node(pairing.after).domain, "copied for nothing"
        moved = moved.with_volume(policy.placement.paired(volume, pairing.after))
    assert policy.placement.pairings(moved) == ()
    for volume in moved.volumes:
        if moved.alive(volume.owner) and volume.mode.value != "none":
            allowed, _ = keepers(moved, volume.owner)
            assert (volume.dtl_node in allowed) if allowed else volume.dtl_node is None


@promise(
    "one node of the own Domain and one of the Recovery Domain follow the map, where there are "
    "any, and rather not the one with the log"
)
def maps_are_followed(policy: SimpleNamespace, cluster: Any) -> None:
    for volume in cluster.volumes:
        owner = cluster.node(volume.owner)
        followers = policy.placement.place_mds(cluster, volume.owner, volume.dtl_node)
        expected = 0
        for domain in (owner.domain, owner.recovery_domain):
            allowed = usable(cluster, domain) - {volume.owner} if domain is not None else set()
            chosen = allowed & set(followers)
            assert len(chosen) == min(1, len(allowed))
            expected += len(chosen)
            if len(allowed) > 1:
                assert volume.dtl_node not in chosen
        assert len(followers) == expected
        assert policy.placement.mds_belongs(cluster, replace(volume, mds=followers))


@promise(
    "a node goes on by itself only when every acknowledged write is in a log that can be read, or "
    "on the backend"
)
def takeover_needs_the_log(policy: SimpleNamespace, cluster: Any) -> None:
    for name in dead(cluster):
        for fate in policy.takeover.takeovers(cluster, name):
            volume = find(cluster, fate.volume)
            if fate.owner is not None and not volume.handed:
                assert volume.mode.value == "sync"
                assert volume.dtl_state.value == "in_sync"
                assert cluster.alive(volume.dtl_node)


@promise("a volume that can be taken over is, by a living node, together with its ancestors")
def takeover_happens(policy: SimpleNamespace, cluster: Any) -> None:
    for name in dead(cluster):
        fates = {one.volume: one for one in policy.takeover.takeovers(cluster, name)}
        assert fates.keys() == {one.uuid for one in cluster.volumes if one.owner == name}
        for uuid, fate in fates.items():
            assert (fate.owner is None) == (fate.obstacle is not None)
            volume = find(cluster, uuid)
            relatives = [volume, *(find(cluster, one) for one in volume.ancestors)]
            possible = bool(usable(cluster)) and all(
                one.handed
                or (
                    one.mode.value == "sync"
                    and one.dtl_state.value == "in_sync"
                    and cluster.alive(one.dtl_node)
                )
                for one in relatives
            )
            assert (fate.owner is not None) == possible
            if fate.owner is not None:
                assert fate.owner in usable(cluster)
                for ancestor in volume.ancestors:
                    assert fates[ancestor].owner == fate.owner


@promise(
    "who goes on is as near as can be, has the map already where somebody there has, and leaves "
    "the log where it is"
)
def successors_are_the_best(policy: SimpleNamespace, cluster: Any) -> None:
    for name in dead(cluster):
        node = cluster.node(name)
        for fate in policy.takeover.takeovers(cluster, name):
            volume = find(cluster, fate.volume)
            if fate.owner is None or volume.ancestors:
                continue
            best = usable(cluster)
            for domain in (node.domain, node.recovery_domain):
                if domain is not None and best & usable(cluster, domain):
                    best = best & usable(cluster, domain)
                    break
            best = best & set(volume.mds) or best
            best = best - {volume.dtl_node} or best
            assert fate.owner in best


@promise("all nodes decide the same, in whatever order they learned things")
def order_does_not_matter(policy: SimpleNamespace, cluster: Any) -> None:
    other = replace(
        cluster, nodes=cluster.nodes[::-1], volumes=cluster.volumes[3:] + cluster.volumes[:3]
    )
    for name in dead(cluster):
        one, two = (policy.takeover.takeovers(each, name) for each in (cluster, other))
        assert sorted(one, key=str) == sorted(two, key=str)
    assert policy.placement.pairings(cluster) == policy.placement.pairings(other)


@promise("a drained node ends empty, or it is said which volumes have nowhere to go")
def draining_empties(policy: SimpleNamespace, cluster: Any) -> None:
    drain = policy.drain
    # The first of a Domain owns volumes, the last only keeps and follows: one of each will do.
    living = [node for node in cluster.nodes if node.alive]
    for node in living[:1] + living[-1:]:
        plan = drain.plan_drain(cluster, node.name)
        after = drain.carried_out(cluster, plan)
        others = usable(cluster) - {node.name}
        left = {one.uuid for one in after.volumes if one.owner == node.name}
        assert left == set(plan.stuck)
        assert bool(plan.stuck) == (not others and bool(cluster.owned(node.name)))
        for volume in after.volumes:
            if not after.alive(volume.owner):
                continue
            assert volume.dtl_node != node.name
            assert node.name not in volume.mds
            assert volume.owner not in (volume.dtl_node, *volume.mds)
            had = find(cluster, volume.uuid).dtl_node is not None
            gone = had and volume.dtl_node is None and volume.uuid not in plan.stuck
            assert (volume.uuid in plan.exposed) == gone
            for ancestor in volume.ancestors:
                assert find(after, ancestor).owner == volume.owner


@promise("what-if says what then happens: who goes on, who stops, who is left without a log")
def what_if_is_what_happens(policy: SimpleNamespace, cluster: Any) -> None:
    for lost in ({cluster.nodes[0].name}, {node.name for node in cluster.nodes[:2]}):
        outcome = policy.what_if.lose(cluster, sorted(lost))
        falling = {name for name in lost if cluster.alive(name)}
        assert set(outcome.lost) == falling
        then = cluster.without(falling)
        fates: dict[str, Any] = {}
        for name in sorted(falling):
            decided = policy.takeover.takeovers(then, name)
            fates |= {one.volume: one for one in decided}
            then = policy.takeover.taken_over(then, decided)
        assert {one.volume: one for one in (*outcome.continuing, *outcome.stopped)} == fates
        assert all(one.owner is not None for one in outcome.continuing)
        assert all(one.owner is None for one in outcome.stopped)
        wanting = {
            volume.uuid: keepers(then, volume.owner)
            for volume in then.volumes
            if then.alive(volume.owner) and volume.mode.value != "none"
        }
        assert set(outcome.unprotected) == {one for one, (who, _) in wanting.items() if not who}
        assert set(outcome.outside) == {one for one, (_, second) in wanting.items() if second}


@promise("every failure that would do harm is named, the worst first")
def risks_are_complete(policy: SimpleNamespace, cluster: Any) -> None:
    risks = policy.what_if.risks(cluster)
    named = {(risk.what.value, risk.name): risk.outcome for risk in risks}
    assert len(named) == len(risks)
    for node in cluster.nodes:
        outcome = policy.what_if.lose(cluster, [node.name])
        harmful = node.alive and bool(outcome.stopped or outcome.unprotected)
        assert (("node", node.name) in named) == harmful
    for domain in {node.domain for node in cluster.nodes}:
        members = [one.name for one in cluster.nodes if one.domain == domain and one.alive]
        outcome = policy.what_if.lose(cluster, members)
        harmful = len(members) > 1 and bool(outcome.stopped or outcome.unprotected)
        assert (("domain", domain) in named) == harmful
    damage = [(len(one.outcome.stopped), len(one.outcome.unprotected)) for one in risks]
    assert damage == sorted(damage, reverse=True)


@promise(
    "when all was well, no volume in sync stops by the loss of one node, nor of one Domain where "
    "there is a Recovery Domain"
)
def one_failure_is_survived(policy: SimpleNamespace, cluster: Any) -> None:
    if len(usable(cluster)) < len(cluster.nodes):
        return
    groups = [[node.name] for node in cluster.nodes]
    for domain in {node.domain for node in cluster.nodes}:
        members = [node for node in cluster.nodes if node.domain == domain]
        if all(node.recovery_domain is not None for node in members):
            groups.append([node.name for node in members])
    for group in groups:
        for fate in policy.what_if.lose(cluster, group).stopped:
            volume = find(cluster, fate.volume)
            relatives = [volume, *(find(cluster, one) for one in volume.ancestors)]
            assert any(
                one.mode.value != "sync" or one.dtl_state.value != "in_sync" for one in relatives
            )
