"""When users of a volume have to be shut out, and when they are.

An attachment that ends is served by the Edge of some node. That of another node may not hear of it:
its daemon may be dead, while its Edge lives and has a token that is good for hours. This node's own
is told at once, and yet may not know whether all has ended that its guest had asked for: the engine
may have writes that wait for its backend or a limit, and be out of reach. Whoever has the volume
next would read it, and then see these change what it has read.

So whoever is not certain to have ended is lost, wherever it was served: the generation of the
volume's attachments is raised in the same step, which makes its token worthless, and the owner's
engine is told before anybody counts on it.
"""

from __future__ import annotations

import enum
from collections.abc import Set
from dataclasses import dataclass

#: a holder, and the node whose Edge serves it
Seat = tuple[str, str]


@dataclass(frozen=True)
class Change:
    """Other attachments than before, as ``me`` changes them.

    :param confirmed: all that was asked for by those who end on ``me`` has ended
    """

    before: Set[Seat]
    after: Set[Seat]
    me: str
    confirmed: bool

    @property
    def takes_away(self) -> bool:
        """Whether another node loses what it serves: whoever asked for that is to be told when it
        is done."""
        return bool(self._losing - {self.me})

    @property
    def _losing(self) -> set[str]:
        return {node for _, node in self.before - self.after}

    def generation_after(self, generation: int) -> int:
        """The generation of the volume's attachments with it."""
        ended = {self.me} if self.confirmed else set()
        return generation + 1 if self._losing - ended else generation


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
