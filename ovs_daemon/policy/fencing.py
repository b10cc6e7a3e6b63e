"""When users of a volume have to be shut out, and when they are.

An attachment that is taken away is served by the Edge of some node. This node's own is told at
once; that of another one may not hear of it: its daemon may be dead, while its Edge lives and has a
token that is good for hours. So the generation of the volume's attachments is raised in the same
step, which makes that token worthless, and the owner's engine is told before anybody counts on it.
"""

from __future__ import annotations

import enum
from collections.abc import Set
from dataclasses import dataclass

#: a holder, and the node whose Edge serves it
Seat = tuple[str, str]


def generation_after(generation: int, before: Set[Seat], after: Set[Seat], me: str) -> int:
    """The generation of a volume's attachments when they change, as ``me`` changes them."""
    lost = {node for _, node in before - after}
    return generation + 1 if lost - {me} else generation


class Step(enum.Enum):
    """What is to be done until nobody of an earlier generation can write."""

    DONE = "done"
    #: this node's engine is to be told, then the record
    ENFORCE = "enforce"
    #: the owner does that when it sees the record
    WAIT = "wait"
    #: its lease is over, and with it all that it served: whoever opens it next reads the record
    NOBODY_SERVES = "nobody_serves"
    #: it may serve all the same
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Standing:
    """What the registry says about a volume and its owner.

    :param generation: that which is to be let in
    :param enforced: earlier ones than this are shut out, as an owner has said
    :param alive: whether the owner's lease holds
    :param leased: whether the owner serves only as long as its lease holds
    """

    generation: int
    enforced: int
    owner: str
    alive: bool
    leased: bool


def next_step(standing: Standing, me: str) -> Step:
    """See :class:`Step`."""
    if standing.enforced >= standing.generation:
        return Step.DONE
    if standing.owner == me:
        return Step.ENFORCE
    if standing.alive:
        return Step.WAIT
    return Step.NOBODY_SERVES if standing.leased else Step.UNKNOWN
