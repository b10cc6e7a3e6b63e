"""Who may open a volume, and by which steps: one node's view, as a pure function.

`decide` looks at the volume's record and at what this life of the daemon knows, and names the one
thing to do next. What performs it (`control/opening.py`) does it, reads again, and asks again,
until there is nothing to do. A crash forgets the knowledge and nothing else; whatever is decided
rests on the record, which changes by compare-and-swap only.

What the record says:

* ``owner`` and ``epoch``: who may open it, under which epoch; every opening raises it;
* ``served``: the node whose write buffer holds everything that is not on the backend. It becomes
  the owner's name when the owner has fetched the log, before it opens the volume;
* ``state``: ``in_sync`` only while the log's keeper has every acknowledged write as well.

So a new owner whose ``served`` is another's needs the log; an owner that served it last needs it
only while the state is ``in_sync``, to fence whoever else may believe to own the volume. What no
log can give back, because it is not in sync, only the node that served it last has; anything else
is a person's decision.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from ovs_daemon.policy.model import DtlMode, DtlState


@dataclass(frozen=True)
class Record:
    """What the registry says of a volume, as far as it matters here.

    :param keeper: the node that keeps its log
    """

    owner: str
    epoch: int
    served: str
    keeper: str | None
    state: DtlState
    mode: DtlMode = DtlMode.SYNC


class Fetch(enum.StrEnum):
    """What came of fetching the log.

    * ``owner_back``: its keeper cannot be reached, and the node that served the volume last lives.
    """

    DONE = "done"
    UNREACHABLE = "unreachable"
    OWNER_BACK = "owner_back"
    INSUFFICIENT = "insufficient"
    FENCED = "fenced"


@dataclass(frozen=True)
class Knowledge:
    """What one life of a daemon knows of a volume.

    :param opened: the epoch under which it is open here
    :param stopped: the engine has stopped it: fenced, or its lease was over
    :param raised: the epoch that this life has raised; nobody else opens under it
    :param fetched: what came of fetching the log under which epoch
    """

    opened: int | None = None
    stopped: bool = False
    raised: int | None = None
    fetched: tuple[int, Fetch] | None = None


class Step(enum.StrEnum):
    """What to do next.

    * ``rest``: nothing; something has to change first;
    * ``let_go``: close what was stopped, without touching its data;
    * ``take_over``, ``raise_epoch``, ``adopt``, ``degrade``, ``give_back``: swap the record for
      the one given;
    * ``fetch``: have the keeper refuse older epochs, and get the log (``keep_local``: unless what
      is here is longer);
    * ``open``: open it under the record's epoch.
    """

    REST = "rest"
    LET_GO = "let_go"
    TAKE_OVER = "take_over"
    RAISE_EPOCH = "raise_epoch"
    FETCH = "fetch"
    ADOPT = "adopt"
    DEGRADE = "degrade"
    GIVE_BACK = "give_back"
    OPEN = "open"


@dataclass(frozen=True)
class Decision:
    """A step with what it needs.

    :param record: what the record becomes
    :param reason: why it rests, for people; None when all is well
    """

    step: Step
    record: Record | None = None
    keep_local: bool = False
    reason: str | None = None


def decide(me: str, record: Record, known: Knowledge, chosen: bool) -> Decision:
    """What this node has to do about a volume.

    :param chosen: the policy wants this node to take the volume from its owner, which is dead; the
        swap must be on condition that it is dead still
    """
    if known.opened is not None:
        return _opened(me, record, known)
    if record.owner != me:
        if not chosen or record.state is not DtlState.IN_SYNC:
            return Decision(Step.REST)
        return Decision(Step.TAKE_OVER, replace(record, owner=me, epoch=record.epoch + 1))
    if known.raised != record.epoch:
        return Decision(Step.RAISE_EPOCH, replace(record, epoch=record.epoch + 1))
    if record.state is DtlState.IN_SYNC:
        return _with_log(me, record, known)
    if record.served != me:
        reason = (
            f"node {record.served} served it last, and the log is {record.state}: only that node "
            "has everything"
        )
        return Decision(Step.REST, reason=reason)
    return Decision(Step.OPEN)


def _opened(me: str, record: Record, known: Knowledge) -> Decision:
    if known.stopped:
        return Decision(Step.LET_GO)
    if (record.owner, record.epoch) != (me, known.opened):
        # Closing it would write; the fence, or the end of the lease, stops it.
        return Decision(Step.REST, reason=f"it belongs to node {record.owner} by now")
    return Decision(Step.REST)


def _with_log(me: str, record: Record, known: Knowledge) -> Decision:
    """The keeper has everything: it is asked before anything is served."""
    last = record.served == me
    if last and record.mode is not DtlMode.SYNC:
        # The keeper is behind: what it has must never replace what is here.
        return Decision(Step.DEGRADE, replace(record, state=DtlState.DEGRADED))
    if known.fetched is None or known.fetched[0] != record.epoch:
        return Decision(Step.FETCH, keep_local=last)
    outcome = known.fetched[1]
    if outcome is Fetch.DONE:
        return Decision(Step.OPEN) if last else Decision(Step.ADOPT, _adopted(me, record))
    if outcome is Fetch.FENCED:
        return Decision(Step.REST, reason="a newer epoch has fenced its log")
    if last:
        # This node's write buffer has everything; from here on nobody goes on without it.
        return Decision(Step.DEGRADE, replace(record, state=DtlState.DEGRADED))
    if outcome in (Fetch.INSUFFICIENT, Fetch.OWNER_BACK):
        # Nothing was acknowledged since: the write buffer there has everything.
        back = replace(record, owner=record.served, epoch=record.epoch + 1, state=DtlState.DEGRADED)
        return Decision(Step.GIVE_BACK, back)
    return Decision(Step.REST, reason=f"node {record.keeper}, which keeps its log, is not there")


def _adopted(me: str, record: Record) -> Record:
    """From here on this node has everything; a log that it keeps itself is no second copy."""
    adopted = replace(record, served=me)
    if record.keeper == me:
        adopted = replace(adopted, keeper=None, state=DtlState.STANDALONE)
    return adopted


class Verdict(enum.StrEnum):
    """What becomes of a change of state that the engine asks for."""

    SWAP = "swap"
    RECORDED = "recorded"
    REFUSED = "refused"


def judge(
    me: str, record: Record, epoch: int, keeper: str | None, to: DtlState
) -> tuple[Verdict, Record]:
    """Whether the engine's change of a log's state may be recorded.

    :param epoch: under which the engine has the volume open
    :param keeper: with which node it is paired
    """
    if (record.owner, record.epoch, record.keeper) != (me, epoch, keeper):
        return Verdict.REFUSED, record
    if record.state is to:
        return Verdict.RECORDED, record
    return Verdict.SWAP, replace(record, state=to)
