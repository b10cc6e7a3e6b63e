"""Two would-be owners, the log's keeper, the registry and a client: every order of events.

The owners ask `policy.ownership`, as in production; engine and keeper are models of what
`machines::dtl` promises (its own worlds show that it does). A decision rests on a record that was
read earlier; swaps fail, or succeed without an answer; nodes crash, pause for longer than their
lease and go on, cannot reach the keeper; the keeper loses power and with it the end of the log. So
do nodes, or they come back with an empty disk. A volume that is handed over is on the backend; one
that is closed may be given away as it is.

`aware`: a paused node notices that its lease was over before it serves anything. One that does not
(its clock went wrong) may answer reads with old data, but must not acknowledge a write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

NODES = ("A", "B")
KEEPER = "K"


@dataclass(frozen=True)
class Bounds:
    """How often each misfortune may happen."""

    writes: int = 2
    crashes: int = 2
    pauses: int = 1
    cuts: int = 1
    lost_answers: int = 0
    power: int = 0
    outages: int = 0
    disks: int = 0
    moves: int = 0
    gives: int = 0
    aware: bool = True


@dataclass(frozen=True)
class Host:
    """One would-be owner; ``log`` is what its write buffer has, and survives a crash."""

    known: Any
    up: bool = True
    paused: bool = False
    alive: bool = True
    reaches: bool = True
    unaware: bool = False
    link: bool = False
    pending: tuple[Any, Any] | None = None
    log: tuple[int, ...] = ()
    boot: int = 0
    disk: int = 0

    @property
    def runs(self) -> bool:
        """Whether it does anything."""
        return self.up and not self.paused

    @property
    def serves(self) -> bool:
        """Whether it answers reads."""
        return self.runs and self.known.opened is not None and not self.known.stopped


@dataclass(frozen=True)
class State:
    """Everything."""

    record: Any
    hosts: tuple[Host, Host]
    fence: int = 0
    kept: tuple[int, ...] = ()
    suspect: bool = False
    acknowledged: tuple[int, ...] = ()
    written: int = 0
    crashes: int = 0
    pauses: int = 0
    cuts: int = 0
    lost: int = 0
    power: int = 0
    outages: int = 0
    disks: int = 0
    moves: int = 0
    gives: int = 0
    # What the backend has of a volume that was handed over and is not open yet; and whether the
    # new owner opened something else.
    handed: tuple[int, ...] | None = None
    returned: bool = False

    def with_host(self, place: int, host: Host) -> State:
        """The same with one host changed."""
        hosts = (host, self.hosts[1]) if place == 0 else (self.hosts[0], host)
        return replace(self, hosts=hosts)


class Violation(AssertionError):
    """An invariant does not hold; the message is the way there."""


@dataclass
class Result:
    """What an exploration found."""

    states: int = 0
    transitions: int = 0
    happened: set[str] = field(default_factory=set)


class World:
    """Moves of a bounded world over one version of the policy."""

    def __init__(self, policy: SimpleNamespace, bounds: Bounds) -> None:
        self.own = policy.ownership
        self.states = policy.model.DtlState
        self.bounds = bounds

    def start(self) -> State:
        """A serves, in sync."""
        home = self.own.Home("0", "0")
        record = self.own.Record("A", 1, "A", KEEPER, self.states.IN_SYNC, home=home)
        serving = Host(self.own.Knowledge(opened=1, raised=1), link=True)
        return State(record, (serving, Host(self.own.Knowledge())), fence=1)

    def moves(self, state: State) -> Iterator[tuple[str, State]]:
        """Everything that can happen next."""
        for place in (0, 1):
            host = state.hosts[place]
            if host.runs:
                yield from self._decisions(state, place, host)
                yield from self._client(state, place, host)
                yield from self._hand_over(state, place, host)
            yield from self._outages(state, place, host)
            yield from self._misfortunes(state, place, host)
        if state.power < self.bounds.power and state.kept:
            shorter = replace(state, kept=state.kept[:-1], suspect=True, power=state.power + 1)
            yield "the keeper loses power", shorter

    def _decisions(self, state: State, place: int, host: Host) -> Iterator[tuple[str, State]]:
        name = NODES[place]
        if host.pending is None:
            owner_dead = state.record.owner != name and not state.hosts[1 - place].alive
            here = self.own.Home(str(host.boot), str(host.disk))
            decision = self.own.decide(name, state.record, host.known, owner_dead, here)
            if decision.step is not self.own.Step.REST:
                pending = replace(host, pending=(decision, state.record))
                yield f"{name} decides to {decision.step}", state.with_host(place, pending)
            if state.gives < self.bounds.gives:
                # Relatives are there.
                given = self.own.give(name, state.record, host.known, NODES[1 - place])
                if given.step is self.own.Step.GIVE:
                    after = replace(state, gives=state.gives + 1)
                    pending = replace(host, pending=(given, state.record))
                    yield f"{name} wants to {given.step} it", after.with_host(place, pending)
            return
        yield from self._perform(state, place, host)

    def _perform(self, state: State, place: int, host: Host) -> Iterator[tuple[str, State]]:
        name, step = NODES[place], self.own.Step
        assert host.pending is not None
        decision, basis = host.pending
        done = replace(host, pending=None)
        words = f"{name} performs {decision.step}"
        if decision.step is step.FETCH:
            outcome, after = self._fetch(state, place, basis, decision.keep_local)
            known = replace(host.known, fetched=(basis.epoch, outcome))
            log = after.hosts[place].log
            yield f"{words}: {outcome}", after.with_host(place, replace(done, known=known, log=log))
        elif decision.step is step.OPEN:
            known = replace(host.known, opened=basis.epoch)
            link = basis.state is self.states.IN_SYNC
            returned = state.handed is not None and state.handed != host.log
            opened = replace(state, handed=None, returned=returned)
            if host.boot:
                words += " after an outage"
            yield words, opened.with_host(place, replace(done, known=known, link=link))
        elif decision.step is step.CLEAR:
            known = replace(host.known, cleared=basis.epoch)
            log = state.handed or ()
            yield words, state.with_host(place, replace(done, known=known, log=log))
        elif decision.step is step.LET_GO:
            known = replace(host.known, opened=None, stopped=False)
            yield words, state.with_host(place, replace(done, known=known, unaware=False))
        else:
            yield from self._swap(state, place, done, decision, basis)

    def _swap(
        self, state: State, place: int, done: Host, decision: Any, basis: Any
    ) -> Iterator[tuple[str, State]]:
        name, step = NODES[place], self.own.Step
        words = f"{name} swaps to {decision.step}"
        takes = decision.step is step.TAKE_OVER
        if takes and basis.saved:
            words += " what was handed over"
        if state.record != basis or (takes and state.hosts[1 - place].alive):
            yield f"{words}, too late", state.with_host(place, done)
            return
        swapped = replace(state, record=decision.record)
        known = done.known
        if decision.step in (step.TAKE_OVER, step.RAISE_EPOCH):
            known = replace(known, raised=decision.record.epoch)
        yield words, swapped.with_host(place, replace(done, known=known))
        if state.lost < self.bounds.lost_answers:
            silent = replace(swapped, lost=state.lost + 1)
            yield f"{words}, and does not learn it", silent.with_host(place, done)

    def _fetch(self, state: State, place: int, basis: Any, keep_local: bool) -> tuple[Any, State]:
        fetch, host = self.own.Fetch, state.hosts[place]
        if not host.reaches:
            back = NODES[1 - place] == basis.served and state.hosts[1 - place].alive
            return (fetch.OWNER_BACK if back else fetch.UNREACHABLE), state
        if state.fence > basis.epoch:
            return fetch.FENCED, state
        fenced = replace(state, fence=basis.epoch)
        if state.suspect and not keep_local:
            return fetch.INSUFFICIENT, fenced
        longer = state.suspect and len(host.log) >= len(state.kept)
        log = host.log if longer else state.kept
        return fetch.DONE, fenced.with_host(place, replace(host, log=log))

    def _client(self, state: State, place: int, host: Host) -> Iterator[tuple[str, State]]:
        """What guests and the engine do on an open volume."""
        if host.known.opened is None or host.known.stopped:
            return
        name, epoch = NODES[place], host.known.opened
        fenced = host.reaches and state.fence > epoch
        if fenced:
            stopped = replace(host, known=replace(host.known, stopped=True))
            yield f"{name} learns that it is fenced", state.with_host(place, stopped)
        if state.written < self.bounds.writes:
            number = state.written + 1
            begun = replace(state, written=number)
            wrote = replace(host, log=(*host.log, number))
            half = begun.with_host(place, wrote)
            yield f"write {number} reaches {name}'s buffer only", half
            if not host.link:
                yield (
                    f"{name} acknowledges write {number} alone",
                    replace(half, acknowledged=(*state.acknowledged, number)),
                )
            elif host.reaches and not fenced and not state.suspect:
                yield (
                    f"{name} acknowledges write {number}, and the keeper has it",
                    replace(half, kept=wrote.log, acknowledged=(*state.acknowledged, number)),
                )
        if host.link and (not host.reaches or state.suspect):
            yield from self._ask(state, place, host, self.states.DEGRADED)
        if not host.link and host.reaches and not fenced:
            caught_up = replace(state, kept=host.log, fence=epoch, suspect=False)
            yield from self._ask(caught_up, place, host, self.states.IN_SYNC)

    def _ask(self, state: State, place: int, host: Host, to: Any) -> Iterator[tuple[str, State]]:
        name = NODES[place]
        verdict, record = self.own.judge(name, state.record, host.known.opened, KEEPER, to)
        if verdict is self.own.Verdict.REFUSED:
            stopped = replace(host, known=replace(host.known, stopped=True))
            yield f"{name} is refused {to}", state.with_host(place, stopped)
            return
        linked = replace(host, link=to is self.states.IN_SYNC)
        yield f"{name} records {to}", replace(state, record=record).with_host(place, linked)

    def _hand_over(self, state: State, place: int, host: Host) -> Iterator[tuple[str, State]]:
        """A volume that serves is closed, with everything on the backend, and given away."""
        name, other = NODES[place], NODES[1 - place]
        mine = (state.record.owner, state.record.epoch) == (name, host.known.opened)
        if not mine or not host.serves or state.moves == self.bounds.moves:
            return
        stored, target = host.log, state.hosts[1 - place]
        # What the target has left from a time of its own is opened with the rest, where it fits.
        fits = target.log[: len(stored)] == stored
        leftover = replace(target, log=target.log if fits else stored)
        record = replace(
            state.record,
            owner=other,
            served=other,
            epoch=state.record.epoch + 1,
            state=self.states.DEGRADED,
            home=None,
            saved=True,
        )
        given = replace(state, record=record, handed=stored, moves=state.moves + 1)
        closed = replace(host, known=self.own.Knowledge(), link=False)
        yield f"{name} hands over", given.with_host(place, closed).with_host(1 - place, leftover)

    def _outages(self, state: State, place: int, host: Host) -> Iterator[tuple[str, State]]:
        """A node loses power, and with it the end of what it has; or its disk."""
        name, bounds = NODES[place], self.bounds
        dark = Host(
            self.own.Knowledge(),
            up=False,
            alive=host.alive,
            reaches=host.reaches,
            boot=host.boot + 1,
            disk=host.disk,
        )
        if host.log and state.outages < bounds.outages:
            left = host.log[:-1]
            after = replace(state, outages=state.outages + 1)
            if state.record.served == name and state.record.state is not self.states.IN_SYNC:
                # Nobody else had it, and the record says so.
                kept = tuple(one for one in state.acknowledged if one in left)
                after = replace(after, acknowledged=kept)
            yield f"{name} loses power", after.with_host(place, replace(dark, log=left))
        if host.log and state.disks < bounds.disks:
            after = replace(state, disks=state.disks + 1)
            empty = replace(dark, disk=host.disk + 1)
            yield f"{name} gets an empty disk", after.with_host(place, empty)

    def _misfortunes(self, state: State, place: int, host: Host) -> Iterator[tuple[str, State]]:
        name, bounds = NODES[place], self.bounds
        blank = self.own.Knowledge()
        if host.up and state.crashes < bounds.crashes:
            fallen = replace(
                Host(blank, up=False, alive=host.alive, reaches=host.reaches, log=host.log),
                boot=host.boot,
                disk=host.disk,
            )
            yield (
                f"{name} crashes",
                replace(state.with_host(place, fallen), crashes=state.crashes + 1),
            )
        if not host.up:
            risen = replace(host, up=True, alive=True)
            yield f"{name} starts again", state.with_host(place, risen)
        if host.runs and state.pauses < bounds.pauses:
            yield (
                f"{name} is paused",
                replace(
                    state.with_host(place, replace(host, paused=True)), pauses=state.pauses + 1
                ),
            )
        if not host.runs and host.alive:
            yield f"{name}'s lease ends", state.with_host(place, replace(host, alive=False))
        if host.paused:
            yield from self._go_on(state, place, host)
        if host.reaches and state.cuts < bounds.cuts:
            yield (
                f"{name} cannot reach the keeper",
                replace(state.with_host(place, replace(host, reaches=False)), cuts=state.cuts + 1),
            )
        if not host.reaches:
            yield (
                f"{name} reaches the keeper again",
                state.with_host(place, replace(host, reaches=True)),
            )

    def _go_on(self, state: State, place: int, host: Host) -> Iterator[tuple[str, State]]:
        name = NODES[place]
        late = not host.alive
        awake = replace(host, paused=False, alive=True)
        if late and self.bounds.aware:
            # What it was about to do rests on a lease that was over.
            stopped = self.own.Knowledge(host.known.opened, host.known.opened is not None)
            awake = replace(awake, pending=None, known=stopped)
        elif late:
            awake = replace(awake, unaware=True)
        yield f"{name} goes on", state.with_host(place, awake)


def check(world: World, state: State) -> None:
    """The invariants; the names are those in doc/verification.md."""
    serving = [host for host in state.hosts if host.serves and not host.unaware]
    if len(serving) > 1:
        raise Violation("one node serves")
    if serving and not set(state.acknowledged) <= set(serving[0].log):
        raise Violation("who serves has every acknowledged write")
    if state.returned:
        raise Violation("what was given up does not come back")


INVARIANTS = (
    "one node serves",
    "who serves has every acknowledged write",
    "what was given up does not come back",
)

HAPPENS: dict[str, Callable[[str], bool]] = {
    "another node takes over and serves": lambda words: words == "B performs open",
    "the log is complete again after it was not": lambda words: "records in_sync" in words,
    "a volume is given back": lambda words: "swaps to give_back" in words,
    "a closed volume is given away": lambda words: words.endswith("swaps to give"),
    "a successor finds the owner back and no keeper": lambda words: words.endswith(": owner_back"),
    "an owner goes on without the keeper": lambda words: "swaps to degrade" in words,
    "a fenced owner is refused": lambda words: "is fenced" in words or "is refused" in words,
    "a node that lost power serves again": lambda words: words.endswith("open after an outage"),
    "what was handed to a node that died is taken over": (
        lambda words: words.endswith("take_over what was handed over")
    ),
    "leftovers are removed": lambda words: words.endswith("performs clear"),
    "a swap comes too late": lambda words: words.endswith("too late"),
}


def explore(world: World) -> Result:
    """Visit every reachable state, breadth first; raises Violation with a shortest way there."""
    start = world.start()
    came: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    result = Result()
    while queue:
        state = queue.popleft()
        result.states += 1
        try:
            check(world, state)
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
