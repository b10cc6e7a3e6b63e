"""A volume with clones, three nodes that may own them, and every order of events between those.

The nodes ask `policy.takeover` and `policy.family`, as stewards do; a decision rests on records
that were read earlier, and all that it changes is swapped in one transaction, on condition that
they are as they were. Of a takeover only the first `at_once` volumes are: families may be larger
than a transaction. Nodes, and the one that keeps all logs, die and come back at any moment; what an
open volume has may be in its owner's write buffer alone; a log may turn out not to be good enough,
and then the volume is given back. How one volume is opened, fenced and recovered is explored in
`ownership_world.py`.

From every state the family has to come together once all owners live and nothing more happens to
it, with the keeper or without.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from tests.unit.policy.ownership_world import Result, Violation

NODES = ("A", "B", "E")
KEEPER = "K"
ROUNDS_MAX = 12
ALONE = "a clone is open only beside its ancestors"
TOGETHER = "a family comes together by itself"
INVARIANTS = (ALONE, TOGETHER)

HAPPENS: dict[str, Callable[[str], bool]] = {
    "relatives are taken over": lambda words: "takes" in words,
    "a takeover comes too late": lambda words: words.endswith("takes nothing any more"),
    "a closed clone is given to its relatives": lambda words: "gives (" in words,
    "open relatives are handed over": lambda words: "hands over" in words,
    "a volume is given back": lambda words: words.endswith("gives it back"),
}


@dataclass(frozen=True)
class Bounds:
    """How often each misfortune may happen.

    :param ancestors: of each volume, oldest first
    :param at_once: how many volumes one transaction of a takeover has room for
    """

    ancestors: tuple[tuple[int, ...], ...]
    deaths: int = 1
    degrades: int = 0
    bad_logs: int = 0
    keeper_deaths: int = 0
    at_once: int = 9


@dataclass(frozen=True)
class Record:
    """What the registry says of a volume."""

    owner: str
    served: str
    logged: bool = True
    saved: bool = False


@dataclass(frozen=True)
class Act:
    """What a node is about to do: volumes (by number) and records that must be as they were."""

    verb: str
    other: str
    volumes: tuple[int, ...]
    basis: tuple[tuple[int, Record], ...]


@dataclass(frozen=True)
class State:
    """Everything."""

    records: tuple[Record, ...]
    open_at: tuple[str | None, ...]
    up: frozenset[str]
    pending: tuple[Act | None, ...]
    bad: frozenset[int] = frozenset()
    keeper: bool = True
    keeper_deaths: int = 0
    deaths: int = 0
    degrades: int = 0
    bad_logs: int = 0

    def swapped(self, records: dict[int, Record]) -> State:
        """The same with other records."""
        now = tuple(records.get(number, one) for number, one in enumerate(self.records))
        return replace(self, records=now)

    def opened(self, places: dict[int, str | None]) -> State:
        """The same with volumes opened or closed."""
        now = tuple(places.get(number, one) for number, one in enumerate(self.open_at))
        return replace(self, open_at=now)

    def about(self, node: str, act: Act | None) -> State:
        """The same with a node about to do something."""
        pairs = zip(NODES, self.pending, strict=True)
        return replace(self, pending=tuple(act if name == node else one for name, one in pairs))


class World:
    """Moves of a bounded world over one version of the policy."""

    def __init__(self, policy: SimpleNamespace, bounds: Bounds) -> None:
        self.policy = policy
        self.bounds = bounds
        self._plans: dict[Any, Any] = {}

    def start(self) -> State:
        """A serves all, in sync."""
        count = len(self.bounds.ancestors)
        records = (Record("A", "A"),) * count
        return State(records, ("A",) * count, frozenset(NODES), (None,) * len(NODES))

    def moves(self, state: State) -> Iterator[tuple[str, State]]:
        """Everything that can happen next."""
        for place, node in enumerate(NODES):
            if node not in state.up:
                yield f"{node} is back", replace(state, up=state.up | {node})
                continue
            act = state.pending[place]
            if act is None:
                for wish in self._wishes(state, node):
                    yield f"{node} wants to {wish.verb}", state.about(node, wish)
            else:
                yield self._perform(state.about(node, None), node, act)
            yield from self._openings(state, node)
            if state.deaths < self.bounds.deaths:
                lost = {number: None for number, at in enumerate(state.open_at) if at == node}
                dead = replace(state, up=state.up - {node}, deaths=state.deaths + 1)
                yield f"{node} dies", dead.about(node, None).opened(dict(lost))
        if not state.keeper:
            yield "the keeper is there again", replace(state, keeper=True)
        elif state.keeper_deaths < self.bounds.keeper_deaths:
            gone = replace(state, keeper=False, keeper_deaths=state.keeper_deaths + 1)
            yield "the keeper dies", gone
        yield from self._logs(state)

    def healed(self, state: State) -> Iterator[State]:
        """What follows when all owners live and nothing more goes wrong, until nothing changes."""
        now = replace(state, up=frozenset(NODES))
        for _ in range(ROUNDS_MAX):
            before = now
            for place, node in enumerate(NODES):
                for wish in (now.pending[place], *self._wishes(now, node)):
                    if wish is not None:
                        _, now = self._perform(now.about(node, None), node, wish)
                for _ in self.bounds.ancestors:
                    _, now = next(self._openings(now, node), ("", now))
            yield now
            if now == before:
                return
        raise Violation(TOGETHER)

    def _wishes(self, state: State, node: str) -> list[Act]:
        """What a steward makes of what it sees."""
        fates, gatherings, _ = self._plan(state)
        found = []
        for dead, decided in fates.items():
            mine = tuple(number for number, owner in decided if owner == node)
            if mine:
                basis = tuple((one, state.records[one]) for one in mine)
                found.append(Act("take", dead, mine, basis))
        plan = [one for one in gatherings if one.before == node]
        closed = [one for one in plan if state.open_at[int(one.volume)] is None]
        serving = [one for one in plan if one not in closed]
        if all(one.apart for one in closed):
            found += _leave(
                "hand over", [one for one in serving if not one.apart or one.sure], state
            )
        return found + _leave("give", [one for one in closed if one.apart], state)

    def _plan(self, state: State) -> Any:
        key = state.records, state.up, state.keeper
        if key not in self._plans:
            cluster = self._cluster(state)
            dead = sorted(set(NODES) - state.up)
            fates = {
                name: [
                    (int(one.volume), one.owner)
                    for one in self.policy.takeover.takeovers(cluster, name)
                ]
                for name in dead
            }
            family = self.policy.family
            self._plans[key] = fates, family.gatherings(cluster), family.waiting(cluster)
        return self._plans[key]

    def _cluster(self, state: State) -> Any:
        model = self.policy.model
        nodes = [model.Node(name, "a", alive=name in state.up) for name in NODES]
        volumes = [
            model.Volume(
                str(number),
                one.owner,
                model.DtlMode.SYNC,
                KEEPER,
                model.DtlState.IN_SYNC if one.logged else model.DtlState.DEGRADED,
                ancestors=tuple(str(each) for each in self.bounds.ancestors[number]),
                handed=one.saved,
                served=one.served,
            )
            for number, one in enumerate(state.records)
        ]
        keeper = model.Node(KEEPER, "a", router=False, alive=state.keeper)
        return model.Cluster((*nodes, keeper), tuple(volumes))

    def _perform(self, state: State, node: str, act: Act) -> tuple[str, State]:
        if any(state.records[number] != one for number, one in act.basis):
            return f"{node}: {act.verb}, too late", state
        if act.verb == "take":
            if act.other in state.up:
                return f"{node} takes nothing any more", state
            taken = act.volumes[: self.bounds.at_once]
            return f"{node} takes {taken}", state.swapped(
                {one: replace(state.records[one], owner=node) for one in taken}
            )
        if act.verb == "give":
            given = tuple(one for one in act.volumes if state.open_at[one] is None)
            return f"{node} gives {given} to {act.other}", state.swapped(
                {one: replace(state.records[one], owner=act.other) for one in given}
            )
        if any(state.open_at[one] != node for one in act.volumes):
            return f"{node} has closed it", state
        here = {
            number: self.bounds.ancestors[number]
            for number, at in enumerate(state.open_at)
            if at == node
        }
        if self.policy.family.left_behind(act.volumes, here) is not None:
            return f"{node} has opened a clone of it", state
        handed = Record(act.other, act.other, logged=False, saved=True)
        given_away = state.swapped(dict.fromkeys(act.volumes, handed))
        closed = given_away.opened(dict.fromkeys(act.volumes, None))
        return f"{node} hands over {act.volumes} to {act.other}", closed

    def _openings(self, state: State, node: str) -> Iterator[tuple[str, State]]:
        waiting = self._plan(state)[2]
        for number, one in enumerate(state.records):
            if one.owner != node or state.open_at[number] is not None or str(number) in waiting:
                continue
            logged = one.logged and not one.saved
            if not one.saved and one.served != node:
                if one.logged and (number in state.bad or not state.keeper):
                    # Without its keeper it is given back as it is, once that node lives.
                    if state.keeper or one.served in state.up:
                        back = replace(one, owner=one.served, logged=not state.keeper)
                        yield f"{number}: {node} gives it back", state.swapped({number: back})
                    continue
                if not one.logged:
                    continue
            elif not state.keeper:
                logged = False
            if all(state.open_at[each] == node for each in self.bounds.ancestors[number]):
                after = state.swapped({number: Record(node, node, logged)})
                yield f"{node} opens {number}", after.opened({number: node})

    def _logs(self, state: State) -> Iterator[tuple[str, State]]:
        for number, one in enumerate(state.records):
            if state.keeper and state.open_at[number] is not None and not one.logged:
                synced = replace(state, bad=state.bad - {number})
                words = f"{number} is in sync"
                yield words, synced.swapped({number: replace(one, logged=True)})
            if not one.logged:
                continue
            if state.open_at[number] is not None and state.degrades < self.bounds.degrades:
                alone = replace(state, degrades=state.degrades + 1)
                yield f"{number} is degraded", alone.swapped({number: replace(one, logged=False)})
            if number not in state.bad and state.bad_logs < self.bounds.bad_logs:
                worse = replace(state, bad=state.bad | {number}, bad_logs=state.bad_logs + 1)
                yield f"the log of {number} is damaged", worse


def _leave(verb: str, gatherings: list[Any], state: State) -> list[Act]:
    if not gatherings:
        return []
    first = gatherings[0]
    volumes = tuple(int(one.volume) for one in gatherings)
    kept = (*volumes, int(first.anchor))
    return [Act(verb, first.after, volumes, tuple((one, state.records[one]) for one in kept))]


def check(world: World, state: State, healthy: set[State]) -> None:
    """The invariants; the names are those in doc/verification.md."""
    _check_ancestors(world, state)
    way = [state]
    for after in world.healed(state):
        if after in healthy:
            break
        _check_ancestors(world, after)
        way.append(after)
    else:
        if len(set(way[-1].open_at)) != 1 or way[-1].open_at[0] is None:
            raise Violation(TOGETHER)
    healthy.update(way)


def _check_ancestors(world: World, state: State) -> None:
    for at, ancestors in zip(state.open_at, world.bounds.ancestors, strict=True):
        if at is not None and any(state.open_at[one] != at for one in ancestors):
            raise Violation(ALONE)


def explore(world: World) -> Result:
    """Visit every reachable state, breadth first; raises Violation with a shortest way there."""
    start = world.start()
    came: dict[State, tuple[State, str] | None] = {start: None}
    queue, healthy = deque([start]), set[State]()
    result = Result()
    while queue:
        state = queue.popleft()
        result.states += 1
        try:
            check(world, state, healthy)
        except Violation as violation:
            raise Violation(f"{violation}:\n" + "\n".join(_way(came, state))) from None
        for words, after in world.moves(state):
            result.transitions += 1
            result.happened |= {name for name, holds in HAPPENS.items() if holds(words)}
            if after not in came:
                came[after] = (state, words)
                queue.append(after)
    return result


def _way(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    steps: list[str] = []
    while (before := came[state]) is not None:
        state, words = before
        steps.append(words)
    return [f"{number:4}. {words}" for number, words in enumerate(reversed(steps), 1)]
