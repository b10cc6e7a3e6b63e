"""Who may open a volume, and by which steps: one node's view, as a pure function.

`decide` looks at the volume's record and at what this life of the daemon knows, and names the one
thing to do next. What performs it (`control/opening.py`) does it, reads again, and asks again,
until there is nothing to do. A crash forgets the knowledge and nothing else; whatever is decided
rests on the record, which changes by compare-and-swap only.

What the record says:

* ``owner`` and ``epoch``: who may open it, under which epoch; every opening raises it;
* ``served``: the node whose write buffer holds everything that is not on the backend. It becomes
  the owner's name when the owner has fetched the log, before it opens the volume;
* ``home``: what that node's write buffer rested on when it opened the volume: the boot of its
  kernel, whose page cache has what was not flushed, and the folder. When the node comes back with
  another one, what it has may be less than what was acknowledged;
* ``saved``: everything is on the backend, and nobody has opened it since. What lies in any write
  buffer is a leftover, and is removed before the volume is opened: it might fit the end of the log;
* ``state``: ``in_sync`` only while the log's keeper has every acknowledged write as well.

So a new owner whose ``served`` is another's needs the log; an owner that served it last needs it
only while the state is ``in_sync``, to fence whoever else may believe to own the volume, and
because it may have lost power. Without the log it goes on only when it has not. What no log can
give back, because it is not in sync, only the node that served it last has; anything else is a
person's decision.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from ovs_daemon.policy.model import DtlMode, DtlState


@dataclass(frozen=True)
class Home:
    """What a node's write buffers rest on.

    :param boot: of its kernel: another one after loss of power
    :param folder: identity of the folder of all write buffers: another one on a new disk
    """

    boot: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Record:
    """What the registry says of a volume, as far as it matters here.

    :param keeper: the node that keeps its log
    :param home: of the node that served it last; None: not known (records of earlier releases)
    :param saved: everything is on the backend, and nothing in any write buffer
    """

    owner: str
    epoch: int
    served: str
    keeper: str | None
    state: DtlState
    mode: DtlMode = DtlMode.SYNC
    home: Home | None = None
    saved: bool = False


class Loss(enum.StrEnum):
    """What a node that comes back may have lost of a volume that it served last."""

    POWER = "power"
    FOLDER = "folder"


def loss(record: Record, here: Home) -> Loss | None:
    """What the node that served a volume last has lost since, if it comes back as ``here``."""
    if record.home is None or record.home == here:
        return None
    return Loss.POWER if record.home.folder == here.folder else Loss.FOLDER


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
    :param cleared: the epoch under which this node's leftovers were removed
    """

    opened: int | None = None
    stopped: bool = False
    raised: int | None = None
    fetched: tuple[int, Fetch] | None = None
    cleared: int | None = None


class Step(enum.StrEnum):
    """What to do next.

    * ``rest``: nothing; something has to change first;
    * ``let_go``: close what was stopped, without touching its data;
    * ``take_over``, ``raise_epoch``, ``adopt``, ``degrade``, ``give_back``: swap the record for
      the one given;
    * ``clear``: remove what lies in this node's write buffer;
    * ``fetch``: have the keeper refuse older epochs, and get the log (``keep_local``: unless what
      is here is longer);
    * ``give``: swap the record, so that a relative's owner has it; never decided here, see
      `give`;
    * ``open``: open it under the record's epoch.
    """

    REST = "rest"
    LET_GO = "let_go"
    TAKE_OVER = "take_over"
    RAISE_EPOCH = "raise_epoch"
    CLEAR = "clear"
    FETCH = "fetch"
    ADOPT = "adopt"
    DEGRADE = "degrade"
    GIVE_BACK = "give_back"
    GIVE = "give"
    OPEN = "open"


@dataclass(frozen=True)
class Decision:
    """A step with what it needs.

    :param record: what the record becomes
    :param reason: why it rests, for people; None when all is well
    :param remedy: what they have to do then
    """

    step: Step
    record: Record | None = None
    keep_local: bool = False
    reason: str | None = None
    remedy: str = "bring that node back"


def decide(me: str, record: Record, known: Knowledge, chosen: bool, here: Home) -> Decision:
    """What this node has to do about a volume.

    :param chosen: the policy wants this node to take the volume from its owner, which is dead; the
        swap must be on condition that it is dead still
    :param here: what this node's write buffers rest on
    """
    if known.opened is not None:
        return _opened(me, record, known)
    if record.owner != me:
        if not chosen or not (record.saved or record.state is DtlState.IN_SYNC):
            return Decision(Step.REST)
        return Decision(Step.TAKE_OVER, replace(record, owner=me, epoch=record.epoch + 1))
    if known.raised != record.epoch:
        return Decision(Step.RAISE_EPOCH, replace(record, epoch=record.epoch + 1))
    if record.saved:
        if known.cleared != record.epoch:
            return Decision(Step.CLEAR)
        return Decision(Step.ADOPT, replace(record, served=me, home=here, saved=False))
    if record.state is DtlState.IN_SYNC:
        return _with_log(me, record, known, here)
    if record.served != me:
        reason = (
            f"node {record.served} served it last, and the log is {record.state}: only that node "
            "has everything"
        )
        return Decision(Step.REST, reason=reason)
    if loss(record, here) is Loss.FOLDER:
        return _other_folder(f"no other node has its log ({record.state})")
    return _open(me, record, here)


def give(me: str, record: Record, known: Knowledge, to: str) -> Decision:
    """What this node has to do to let another one have a volume that is not open here.

    Whoever gets it opens it with its log, or from the backend. What neither has stays.
    """
    if record.owner != me or known.opened is not None:
        return Decision(Step.REST)
    logged = record.state is DtlState.IN_SYNC and record.mode is DtlMode.SYNC
    if not (record.saved or logged):
        return Decision(Step.REST, reason=f"its log is {record.state}, and only here is everything")
    return Decision(Step.GIVE, replace(record, owner=to, epoch=record.epoch + 1))


def _open(me: str, record: Record, here: Home) -> Decision:
    """Open what is here, once the record says what it rests on."""
    if (record.served, record.home) == (me, here):
        return Decision(Step.OPEN)
    return Decision(Step.ADOPT, _adopted(me, record, here))


def _other_folder(why: str) -> Decision:
    reason = (
        "the folder of this node's write buffers is not the one in which its last writes are (its "
        f"disk is new or not mounted), and {why}"
    )
    remedy = "mount the disk that has them at [engine] buffer_dir, and start the daemon again"
    return Decision(Step.REST, reason=reason, remedy=remedy)


def _opened(me: str, record: Record, known: Knowledge) -> Decision:
    if known.stopped:
        return Decision(Step.LET_GO)
    if (record.owner, record.epoch) != (me, known.opened):
        # Closing it would write; the fence, or the end of the lease, stops it.
        return Decision(Step.REST, reason=f"it belongs to node {record.owner} by now")
    return Decision(Step.REST)


def _with_log(me: str, record: Record, known: Knowledge, here: Home) -> Decision:
    """The keeper has everything: it is asked before anything is served."""
    served, lost = record.served == me, loss(record, here)
    if served and record.mode is not DtlMode.SYNC:
        if lost is Loss.FOLDER:
            return _other_folder(f"node {record.keeper} has its log, but not its very end")
        # The keeper is behind: what it has must never replace what is here.
        return Decision(Step.DEGRADE, replace(record, state=DtlState.DEGRADED))
    last = served and lost is not Loss.FOLDER
    if known.fetched is None or known.fetched[0] != record.epoch:
        return Decision(Step.FETCH, keep_local=last)
    outcome = known.fetched[1]
    if outcome is Fetch.DONE:
        return _open(me, record, here)
    if outcome is Fetch.FENCED:
        return Decision(Step.REST, reason="a newer epoch has fenced its log")
    if served and lost is not None:
        return _waits_for_log(record, lost, outcome)
    if served:
        # This node's write buffer has everything; from here on nobody goes on without it.
        return Decision(Step.DEGRADE, replace(record, state=DtlState.DEGRADED))
    if outcome is Fetch.OWNER_BACK:
        # It may have lost power since: it asks the keeper, as it would have without this node.
        return Decision(
            Step.GIVE_BACK, replace(record, owner=record.served, epoch=record.epoch + 1)
        )
    if outcome is Fetch.INSUFFICIENT:
        # Nothing was acknowledged since: the write buffer there has everything.
        back = replace(record, owner=record.served, epoch=record.epoch + 1, state=DtlState.DEGRADED)
        return Decision(Step.GIVE_BACK, back)
    return Decision(Step.REST, reason=f"node {record.keeper}, which keeps its log, is not there")


def _waits_for_log(record: Record, lost: Loss, outcome: Fetch) -> Decision:
    """What is here may be less than what was acknowledged, and the keeper may have the rest."""
    damaged = outcome is Fetch.INSUFFICIENT
    state = "what it has is damaged, or it lost power, too" if damaged else "it cannot be reached"
    keeper = f"node {record.keeper} keeps its log, and {state}"
    if lost is Loss.FOLDER:
        return _other_folder(keeper)
    reason = f"this node lost power after it served it, and may lack acknowledged writes; {keeper}"
    remedy = (
        f"start node {record.keeper}, or mend the network to it: the volume then opens by itself"
    )
    return Decision(Step.REST, reason=reason, remedy=remedy)


def _adopted(me: str, record: Record, here: Home) -> Record:
    """From here on this node has everything; a log that it keeps itself is no second copy."""
    adopted = replace(record, served=me, home=here)
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
