"""Volumes and snapshots as the registry keeps them.

States of a volume or snapshot:

* ``creating``: the engine is being asked to make it; found at a daemon's start, it is undone;
* ``available``: it exists;
* ``deleting``: it is decided that it goes; found at a daemon's start, the deletion is finished;
* ``hidden``: it was deleted (or never had a name), but clones need it; it goes with the last one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ovs_daemon.control.bodies import body_of, known
from ovs_daemon.engine import Parent
from ovs_daemon.policy.model import DtlMode, DtlState
from ovs_daemon.policy.ownership import Home


class State(enum.StrEnum):
    """Where a volume or snapshot is between being made and being gone."""

    CREATING = "creating"
    AVAILABLE = "available"
    DELETING = "deleting"
    HIDDEN = "hidden"


UNFINISHED = (State.CREATING, State.DELETING)


class Mode(enum.StrEnum):
    """How an attached volume is served: by the Edge process over NBD or as a file, or over NBD by
    the engine's own process."""

    EDGE = "edge"
    FILE = "file"
    DIRECT = "direct"


#: who attaches when nobody says otherwise: a person on this host
LOCAL = "local"


@dataclass(frozen=True)
class Attachment:
    """A volume is served to one holder.

    :param socket: the unix socket, or with :attr:`Mode.FILE` the file, by which it is used
    :param holder: who uses it; a volume has at most one attachment for each
    :param reconnects: its guest connects again by itself when its connection is closed
    :param node: the node whose Edge serves it; None for the volume's owner (records of earlier
        releases)
    :param rest: what a later release has of it
    """

    mode: Mode
    read_only: bool
    socket: str
    holder: str = LOCAL
    reconnects: bool = False
    node: str | None = None
    rest: dict[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Attachment:
        """The inverse of what a volume's record has of it."""
        return cls(**{**known(cls, body), "mode": Mode(body["mode"])})

    @property
    def uri(self) -> str:
        """The NBD URI (the NBD project's doc/uri.md) by which QEMU or libnbd connects, or the
        file's path."""
        return self.socket if self.mode is Mode.FILE else f"nbd+unix:///?socket={self.socket}"


@dataclass(frozen=True)
class Dtl:
    """The copy on another node of what a volume has not on the backend yet.

    :param mode: what is wanted
    :param node: who keeps it; None while nobody does
    :param state: whether it has everything; no other node goes on by itself unless it has
    """

    mode: DtlMode = DtlMode.NONE
    node: str | None = None
    state: DtlState = DtlState.STANDALONE


@dataclass(frozen=True)
class Volume:
    """The point of truth about one volume.

    :param size: bytes
    :param epoch: raised by every opening; at most one epoch writes
    :param node: the host that owns it
    :param parent: where it was cloned from
    :param ancestors: UUIDs of the volumes whose logs its map may refer to, oldest first
    :param base: the kept snapshot that clones of a template share
    :param sco_size: bytes of data in one SCO
    :param attachments: one for each holder, sorted by holder
    :param multi_attach: several holders may attach it without saying so each time
    :param reverting: a snapshot (UUID) to which a revert was begun and not yet finished
    :param limits: what its users may ask of it, as `qos.py` describes; None for no limits
    :param dtl: its copy on another node
    :param served: the node whose write buffer has everything that is not on the backend; None for
        the owner (records of earlier releases)
    :param home: what that write buffer rested on; None in records of earlier releases
    :param saved: everything is on the backend, nothing in any write buffer
    :param mds: nodes that follow its map, beside the owner
    :param forced: what may have been lost when somebody had it taken over all the same
    :param backend: identity of the backend that has its objects; "" in older records
    :param preset: name of the preset by which its objects are kept; None for its node's
    :param generation: of its attachments: raised when one is taken away that another node serves;
        see `fencing.py`
    :param enforced: earlier generations than this one are shut out, as the owner has said
    :param version: of its registry record; 0 when it was never stored
    :param rest: what a later release has in its record
    """

    uuid: str
    name: str
    size: int
    state: State
    epoch: int
    node: str
    parent: Parent | None
    ancestors: tuple[str, ...]
    template: bool
    base: str | None
    sco_size: int
    created_at: str
    attachments: tuple[Attachment, ...] = ()
    multi_attach: bool = False
    reverting: str | None = None
    limits: dict[str, float] | None = None
    dtl: Dtl = Dtl()
    served: str | None = None
    home: Home | None = None
    saved: bool = False
    mds: tuple[str, ...] = ()
    forced: dict[str, str] | None = None
    backend: str = ""
    preset: str | None = None
    generation: int = 0
    enforced: int = 0
    version: int = 0
    rest: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def root(self) -> str:
        """UUID of the oldest of its family: all that share logs with it."""
        return (*self.ancestors, self.uuid)[0]

    @property
    def listed(self) -> bool:
        """Whether users see it."""
        return self.state is not State.HIDDEN

    @property
    def read_only(self) -> bool:
        """Whether the engine must refuse writes to it."""
        if self.template or self.state is State.HIDDEN:
            return True
        # The Edge refuses a guest's writes itself; in process only the engine can.
        return any(one.mode is Mode.DIRECT and one.read_only for one in self.attachments)

    def held_by(self, holder: str) -> Attachment | None:
        """The attachment of one holder."""
        return next((one for one in self.attachments if one.holder == holder), None)

    def without(self, holder: str) -> tuple[Attachment, ...]:
        """The attachments of all other holders."""
        return tuple(one for one in self.attachments if one.holder != holder)

    def body(self) -> dict[str, Any]:
        """The registry record."""
        body = body_of(self)
        # Daemons of earlier releases read no record that has them.
        for name in ("generation", "enforced"):
            if body[name] == 0:
                del body[name]
        return body

    @classmethod
    def from_body(cls, body: Mapping[str, Any], version: int) -> Volume:
        """The inverse of :meth:`body`."""
        fields = known(cls, body)
        parent, attachments = fields["parent"], fields.get("attachments", [])
        # Before there were holders, a volume had one attachment or none.
        if (only := fields["rest"].pop("attachment", None)) is not None:
            attachments = [only]
        fields["state"] = State(fields["state"])
        fields["ancestors"] = tuple(fields["ancestors"])
        fields["parent"] = None if parent is None else Parent(**parent)
        fields["attachments"] = tuple(
            Attachment(**{**known(Attachment, one), "mode": Mode(one["mode"])})
            for one in attachments
        )
        dtl = fields.get("dtl", {})
        fields["dtl"] = Dtl(
            DtlMode(dtl.get("mode", DtlMode.NONE)),
            dtl.get("node"),
            DtlState(dtl.get("state", DtlState.STANDALONE)),
        )
        home = fields.get("home")
        fields["home"] = None if home is None else Home(**home)
        fields["mds"] = tuple(fields.get("mds", ()))
        return cls(**fields, version=version)


@dataclass(frozen=True)
class Snapshot:
    """The point of truth about one snapshot.

    :param volume: UUID of the volume it is of
    :param name: None for one that a clone of a volume or a template took for itself
    :param size: of the volume at that moment, bytes
    :param clones: how many volumes have it as their parent
    :param kept: a template's base: stays although it has no clones
    :param version: of its registry record; 0 when it was never stored
    :param rest: what a later release has in its record
    """

    uuid: str
    volume: str
    name: str | None
    state: State
    size: int
    created_at: str
    clones: int = 0
    kept: bool = False
    version: int = 0
    rest: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def listed(self) -> bool:
        """Whether users see it."""
        return self.name is not None and self.state is not State.HIDDEN

    def body(self) -> dict[str, Any]:
        """The registry record."""
        return body_of(self)

    @classmethod
    def from_body(cls, body: Mapping[str, Any], version: int) -> Snapshot:
        """The inverse of :meth:`body`."""
        return cls(**{**known(cls, body), "state": State(body["state"])}, version=version)
