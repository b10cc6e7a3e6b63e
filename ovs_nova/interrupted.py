"""What a killed nova-compute has left half done, and what becomes of it.

Attaching and detaching write to four places: Nova's record of the volume, Cinder's attachment, the
daemon of this host, and the guest. Nova does so one after the other, and nobody goes on when its
process is killed in between. What the four say then tells how far it had come::

    attach    Nova's record, without connection info     | GIVE_BACK
              Cinder's attachment "reserved"             |
              Cinder's attachment "attaching"            |
              connection info in Nova's record (ours)    | DETACH: undo what is there
              the daemon serves the volume               |
              the guest has the disk                     | COMPLETE
              Cinder's attachment "attached"             : nothing is left to do

    detach    Cinder's volume "detaching"                | ROLL_BACK: the user may ask again
              the guest has lost the disk                | DETACH: finish
              the daemon has ended its part              |
              Cinder's attachment is gone                |
              Nova's record is gone                      : nothing is left to do

No disk is taken from a guest that may use it, with one exception: when Cinder's attachment is gone,
anybody may attach the volume now, and two writers destroy it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Cure(enum.Enum):
    """What is to be done about a volume of a server."""

    NOTHING = "nothing"
    #: the server is at something else, which may change what is to be done
    LATER = "look again"
    COMPLETE = "tell Cinder that it is attached"
    DETACH = "have Nova detach it"
    GIVE_BACK = "delete the attachment and Nova's record of it"
    ROLL_BACK = "tell Cinder that it was not detached"


@dataclass(frozen=True)
class Facts:
    """What Nova, Cinder and the guest say of one volume of one server.

    :param connected: Nova's record says how the volume is connected
    :param attachment: the state of Cinder's attachment; None when there is none any more
    :param volume: the state of Cinder's volume
    :param in_guest: the guest has the disk
    :param root: the server boots from it, so that nobody attaches or detaches it
    """

    connected: bool
    attachment: str | None
    volume: str
    in_guest: bool
    root: bool = False


def cure(facts: Facts) -> Cure:
    """What is to be done when nobody is at work on the volume any more."""
    found = _cure(facts)
    return Cure.NOTHING if facts.root and found in (Cure.DETACH, Cure.GIVE_BACK) else found


def _cure(facts: Facts) -> Cure:
    if not facts.connected:
        # Nova connects nothing before it has written down how.
        begun = facts.attachment in (None, "reserved", "attaching")
        return Cure.GIVE_BACK if begun and not facts.in_guest else Cure.NOTHING
    if facts.attachment is None:
        return Cure.DETACH
    if facts.attachment == "attaching":
        return Cure.COMPLETE if facts.in_guest else Cure.DETACH
    if facts.attachment == "attached" and facts.volume == "detaching":
        return Cure.ROLL_BACK if facts.in_guest else Cure.DETACH
    return Cure.NOTHING
