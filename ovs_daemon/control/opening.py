"""Getting a volume open on this node: performs what `policy.ownership` decides, step by step.

Each step is a swap of the volume's record or a call of the engine; then the record is read again.
Killed anywhere, the next life begins from the record. Who opens a volume holds its lock.

Volumes of a dead node are taken from it first, relatives in one transaction, and opened afterwards,
one after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ovs_daemon.control.preset_use import find_preset
from ovs_daemon.control.records import UNFINISHED, Dtl, Mode, Snapshot, State, Volume
from ovs_daemon.control.store import ALIVE, VOLUME, Store, put
from ovs_daemon.engine import DtlSpec, EngineClient, FetchSpec, FollowerAt, OpenSpec
from ovs_daemon.errors import Code, VStorageError, unknown_volume
from ovs_daemon.policy.model import DtlState
from ovs_daemon.policy.ownership import Decision, Fetch, Home, Knowledge, Record, Step, decide
from ovs_daemon.registry import Absent, Conflict, Unchanged

LOG = logging.getLogger(__name__)

# Far more than any opening takes; a volume that needs more is being fought over.
_STEPS_MAX = 64
#: relatives whose records are swapped in one transaction: etcd takes 128 operations unless it is
#: told otherwise, some of which we need for other things
RELATIVES_AT_ONCE = 100
_FETCH_FAILURES = {
    "dtl_unreachable": Fetch.UNREACHABLE,
    "dtl_suspect": Fetch.INSUFFICIENT,
    "dtl_damaged": Fetch.INSUFFICIENT,
    "dtl_fenced": Fetch.FENCED,
}


def record_of(volume: Volume) -> Record:
    """The part of a volume's record on which ownership rests."""
    dtl = volume.dtl
    return Record(
        volume.node,
        volume.epoch,
        volume.served or volume.node,
        dtl.node,
        dtl.state,
        dtl.mode,
        volume.home,
        volume.saved,
    )


def with_record(volume: Volume, record: Record) -> Volume:
    """The volume as that part of it says."""
    return replace(
        volume,
        node=record.owner,
        epoch=record.epoch,
        served=record.served,
        home=record.home,
        saved=record.saved,
        dtl=Dtl(volume.dtl.mode, record.keeper, record.state),
    )


def kept_by_edges(volume: Volume) -> Volume:
    """The volume as its next owner gets it: the Edges that serve it go on, each on its node.

    What the owner's own process served died with it.
    """
    served = tuple(
        replace(one, node=one.node or volume.node)
        for one in volume.attachments
        if one.mode is not Mode.DIRECT
    )
    return replace(volume, attachments=served)


def refuse_other_backend(what: str, volume: Volume, node: str, backend: str) -> None:
    """Refuse to have a volume opened where its objects are not: it would seem to be empty.

    :param backend: identity of the node's backend
    :raises VStorageError: ``not_here``
    """
    if volume.backend and volume.backend != backend:
        raise VStorageError(
            Code.NOT_HERE,
            what,
            f"its data is on the backend {volume.backend}, and node {node!r} uses the backend "
            f"{backend}",
            f"have node {node!r} use the same backend ([alba] shared, or one backend_dir), or "
            "use the volume on a node that does",
        )


class Guard(Protocol):
    """This node's lease: what it is about to open may be another's when it was over.

    ``term`` changes when the lease was over and has begun anew. What was read of the registry
    before says nothing any more, and the engine opens nothing for an earlier term; None where no
    lease is needed.
    """

    @property
    def term(self) -> int | None: ...


class Unguarded:
    """A node that nobody takes anything from."""

    term = None


@dataclass(frozen=True)
class Taken:
    """A volume that this node has taken from a dead one, and may open.

    :param volume: its record as it is now, with an epoch under which nobody else opens it
    :param term: of this node's lease when that was decided
    """

    volume: Volume
    term: int | None


@dataclass(frozen=True)
class Opened:
    """A volume that was opened.

    :param recovered: what the engine says of it
    :param unfinished: it has snapshots that were half made or half deleted, and are to go
    """

    volume: Volume
    recovered: dict[str, Any]
    unfinished: bool


class Opener:
    """Opens volumes on one node.

    :param node: this one's name
    :param backend: identity of the backend that this node can open volumes from
    :param home: what this node's write buffers rest on
    """

    def __init__(
        self,
        store: Store,
        engine: EngineClient,
        node: str,
        guard: Guard,
        backend: str,
        home: Home,
    ) -> None:
        self._store = store
        self._engine = engine
        self._node = node
        self._guard = guard
        self._backend = backend
        self._home = home

    def take_over(self, family: Sequence[Volume]) -> list[Taken]:
        """Make this node the owner of relatives whose owner is dead.

        All of them or none, on condition that they are still as they were read and their owner is
        still dead, so that one which comes back finds its family in one piece. Only of families
        too large for one transaction some may be left to it; see `policy/family.py`.

        :param family: ancestors before their descendants, all of one owner
        :raises Conflict: one was changed meanwhile
        :raises VStorageError: ``not_here``, or one cannot be taken over; none was
        """
        taken: list[Taken] = []
        for first in range(0, len(family), RELATIVES_AT_ONCE):
            try:
                taken += self._take(family[first : first + RELATIVES_AT_ONCE])
            except (Conflict, VStorageError) as failure:
                if not taken:
                    raise
                LOG.warning(
                    "volume %s and %d others stay apart from their relatives for now: %s",
                    family[first].name,
                    len(family) - first - 1,
                    failure,
                )
                break
        return taken

    def _take(self, volumes: Sequence[Volume]) -> list[Taken]:
        term = self._guard.term
        changed = [self._taken(volume) for volume in volumes]
        before = volumes[0].node
        try:
            # One that came back to life meanwhile keeps what it has.
            version = self._store.commit(Absent(ALIVE, before), *(put(one) for one in changed))
        except Conflict as lost:
            if lost.operation.kind != ALIVE:
                raise
            raise VStorageError(
                Code.NOT_HERE,
                _taking(volumes[0]),
                f"node {before!r}, which owns it, is alive again",
                "use it there",
            ) from lost
        for one in changed:
            _say(Step.TAKE_OVER, one)
        return [Taken(replace(one, version=version), term) for one in changed]

    def _taken(self, volume: Volume) -> Volume:
        """The volume once this node owns it."""
        what = _taking(volume)
        refuse_other_backend(what, volume, self._node, self._backend)
        decision = decide(self._node, record_of(volume), Knowledge(), True, self._home)
        if decision.step is not Step.TAKE_OVER or decision.record is None:
            raise VStorageError(
                Code.NOT_IN_SYNC,
                what,
                f"its log is {volume.dtl.state.value}",
                f"bring node {volume.served or volume.node!r} back",
            )
        return with_record(kept_by_edges(volume), decision.record)

    def acquire(self, volume: Volume, taken: Taken | None = None) -> Opened:
        """Open a volume of this node that is not open.

        :param taken: it was taken over just now
        :raises VStorageError: ``not_here``, ``not_in_sync``, ``dtl_unreachable`` or an engine code
        """
        known, term = Knowledge(), self._guard.term
        if taken is not None:
            known, term = Knowledge(raised=taken.volume.epoch), taken.term
        what = f"open volume {volume.name!r}"
        for _ in range(_STEPS_MAX):
            if term != self._guard.term:
                # The lease was over meanwhile, and with it all that was known.
                known, term = Knowledge(), self._guard.term
            current = self._store.volume(volume.uuid)
            if current is None:
                raise unknown_volume(what, volume.name)
            refuse_other_backend(what, current, self._node, self._backend)
            decision = decide(self._node, record_of(current), known, False, self._home)
            if decision.step is Step.OPEN:
                try:
                    return self._open(current, term)
                except Conflict:
                    pass
                except VStorageError as failure:
                    if failure.code != "lease" or term == self._guard.term:
                        raise
                continue
            if decision.step is Step.REST:
                raise _resting(what, current, decision)
            if decision.step is Step.FETCH:
                outcome = self._fetch(current, decision.keep_local)
                known = replace(known, fetched=(current.epoch, outcome))
                continue
            if decision.step is Step.CLEAR:
                self._engine.clear_buffer(current.uuid)
                known = replace(known, cleared=current.epoch)
                continue
            known = self._swap(current, decision, known)
        raise VStorageError(
            Code.BUSY, what, "its record in the registry changes all the time", "try again"
        )

    def _open(self, volume: Volume, term: int | None) -> Opened:
        """Open what is this node's by its record; raises :class:`Conflict` if that has changed."""
        snapshots = self._store.snapshots(volume.uuid)
        for one in snapshots:
            if one.state is State.CREATING:
                # The engine forgets it. None is being made here, under the volume's lock; a node
                # that counted as dead may still be about to call it made, and is kept from that.
                self._store.commit(
                    put(replace(one, state=State.DELETING)),
                    Unchanged(VOLUME, volume.uuid, volume.version),
                )
        answer = self._engine.open_volume(self._spec(volume, term, snapshots))
        return Opened(volume, answer, any(one.state in UNFINISHED for one in snapshots))

    def _swap(self, volume: Volume, decision: Decision, known: Knowledge) -> Knowledge:
        assert decision.record is not None, "a swap has a record"
        changed = with_record(volume, decision.record)
        try:
            self._store.commit(put(changed))
        except Conflict:
            return known
        _say(decision.step, changed)
        if decision.step is Step.RAISE_EPOCH:
            return replace(known, raised=changed.epoch)
        return known

    def _fetch(self, volume: Volume, keep_local: bool) -> Fetch:
        address = self._address(volume.dtl.node)
        if address is None:
            return self._without_keeper(volume)
        request = FetchSpec(volume.uuid, volume.epoch, address, keep_local)
        try:
            answer = self._engine.fetch_tail(request)
        except VStorageError as failure:
            if failure.code not in _FETCH_FAILURES:
                raise
            LOG.warning("volume %s: %s", volume.uuid, failure)
            outcome = _FETCH_FAILURES[failure.code]
            return self._without_keeper(volume) if outcome is Fetch.UNREACHABLE else outcome
        LOG.info("fetched the log of volume %s: %s", volume.uuid, answer)
        return Fetch.DONE

    def _without_keeper(self, volume: Volume) -> Fetch:
        back = volume.served is not None and volume.served in self._store.alive()
        return Fetch.OWNER_BACK if back else Fetch.UNREACHABLE

    def _spec(self, volume: Volume, term: int | None, snapshots: Sequence[Snapshot]) -> OpenSpec:
        existing = (State.AVAILABLE, State.HIDDEN)
        dtl = self.dtl_spec(volume)
        if dtl is None and volume.dtl.state is DtlState.IN_SYNC:
            # Opened without it, writes would be acknowledged here alone while the record lets
            # another node go on from the log.
            raise VStorageError(
                Code.NOT_HERE,
                f"open volume {volume.name!r}",
                f"its log is in sync on node {volume.dtl.node!r}, whose address is not known",
                "start that node; it is tried again",
            )
        return OpenSpec(
            uuid=volume.uuid,
            size=volume.size,
            epoch=volume.epoch,
            read_only=volume.read_only,
            ancestors=volume.ancestors,
            parent=volume.parent,
            snapshots=tuple(one.uuid for one in snapshots if one.state in existing),
            sco_size=volume.sco_size,
            dtl=dtl,
            qos=volume.limits,
            preset=self._preset(volume),
            followers=self.followers(volume),
            term=term,
            generation=volume.generation,
        )

    def _preset(self, volume: Volume) -> Mapping[str, Any] | None:
        if volume.preset is None:
            return None
        what = f"open volume {volume.name!r}"
        return find_preset(self._store, self._engine, what, volume.preset)[0]

    def dtl_spec(self, volume: Volume) -> DtlSpec | None:
        """The volume's DTL as the engine needs it; None while nobody keeps its log."""
        dtl = volume.dtl
        address = self._address(dtl.node)
        if dtl.node is None or address is None:
            return None
        return DtlSpec(dtl.mode.value, dtl.node, address, dtl.state.value)

    def followers(self, volume: Volume) -> tuple[FollowerAt, ...]:
        """The nodes that follow the volume's map, as far as they can be reached."""
        found = ((name, self._address(name)) for name in volume.mds if name != self._node)
        return tuple(FollowerAt(name, address) for name, address in found if address is not None)

    def _address(self, name: str | None) -> str | None:
        node = None if name is None else self._store.node(name)
        return None if node is None else node.addresses.get("dtl")


def _taking(volume: Volume) -> str:
    return f"take over volume {volume.name!r}"


def _say(step: Step, volume: Volume) -> None:
    """What was recorded."""
    LOG.info(
        "volume %s (%s): %s: owner %s, epoch %d, served by %s, log on %s, %s",
        volume.name,
        volume.uuid,
        step,
        volume.node,
        volume.epoch,
        volume.served,
        volume.dtl.node,
        volume.dtl.state,
    )


def _resting(what: str, volume: Volume, decision: Decision) -> VStorageError:
    if decision.reason is None:
        return VStorageError(
            Code.NOT_HERE,
            what,
            f"node {volume.node!r} owns it",
            f"use it there; 'vstorage node show {volume.node}' tells whether it is alive",
        )
    return VStorageError(
        Code.NOT_IN_SYNC,
        what,
        decision.reason,
        f"{decision.remedy}; if that can never be, 'vstorage volume takeover {volume.name}' says "
        "what would be lost",
    )
