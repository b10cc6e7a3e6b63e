"""One error for everything that can go wrong between a person and a volume.

An error says what was attempted on which object, why it failed and what to do. It crosses the
control API and the engine's border unchanged, as the four fields below.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any


class Code(enum.StrEnum):
    """What kind of error it is, for programs to branch on. Engine codes pass as they are."""

    BAD_REQUEST = "bad_request"
    BAD_PRESET = "bad_preset"
    BAD_SIZE = "bad_size"
    BUSY = "busy"
    DUPLICATE_NAME = "duplicate_name"
    EDGE_UNAVAILABLE = "edge_unavailable"
    DAEMON_UNAVAILABLE = "daemon_unavailable"
    INTERNAL = "internal"
    IN_USE = "in_use"
    NOT_HERE = "not_here"
    NOT_IN_SYNC = "not_in_sync"
    READ_ONLY = "read_only"
    REGISTRY = "registry"
    TOOL_FAILED = "tool_failed"
    UNKNOWN_DOMAIN = "unknown_domain"
    UNKNOWN_NODE = "unknown_node"
    UNKNOWN_OSD = "unknown_osd"
    UNKNOWN_PRESET = "unknown_preset"
    UNKNOWN_SNAPSHOT = "unknown_snapshot"
    UNKNOWN_VOLUME = "unknown_volume"
    WRONG_CLUSTER = "wrong_cluster"


class VStorageError(Exception):
    """A verb failed.

    :param code: a :class:`Code`, or the engine's own stable code
    :param what: what was attempted, on which object ("create volume 'web1'")
    :param why: why it failed
    :param fix: what the reader can do about it
    """

    def __init__(self, code: str, what: str, why: str, fix: str) -> None:
        super().__init__(code, what, why, fix)
        self.code = str(code)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"cannot {self.what}: {self.why}; {self.fix}"

    def to_dict(self) -> dict[str, str]:
        """The form in which it crosses the control API."""
        return {"code": self.code, "what": self.what, "why": self.why, "fix": self.fix}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> VStorageError:
        """The inverse of :meth:`to_dict`; missing fields read as empty."""
        return cls(*(str(fields.get(name, "")) for name in ("code", "what", "why", "fix")))

    @classmethod
    def from_native(cls, code: str, what: str, why: str, fix: str) -> VStorageError:
        """An error of the Rust side, whose codes are upper case and which says "cannot" itself."""
        return cls(code.lower(), what.removeprefix("cannot "), why, fix)


def unknown_volume(what: str, name: str) -> VStorageError:
    """The volume that was named does not exist."""
    return VStorageError(
        Code.UNKNOWN_VOLUME,
        what,
        f"there is no volume {name!r}",
        "'vstorage volume list' shows the volumes",
    )


def unknown_domain(what: str, name: str) -> VStorageError:
    """The Domain that was named does not exist."""
    return VStorageError(
        Code.UNKNOWN_DOMAIN,
        what,
        f"there is no Domain {name!r}",
        f"'vstorage domain list' shows the Domains, 'vstorage domain create {name}' makes one",
    )


def unknown_node(what: str, name: str) -> VStorageError:
    """The node that was named does not exist."""
    return VStorageError(
        Code.UNKNOWN_NODE,
        what,
        f"there is no node {name!r}",
        "'vstorage node list' shows the nodes; a node registers itself when its daemon starts",
    )


def unknown_osd(what: str, name: str) -> VStorageError:
    """The OSD that was named does not exist."""
    return VStorageError(
        Code.UNKNOWN_OSD,
        what,
        f"there is no OSD {name!r}",
        "'vstorage osd list' shows the OSDs; they have UUIDs",
    )


def unknown_preset(what: str, name: str) -> VStorageError:
    """The preset that was named does not exist."""
    return VStorageError(
        Code.UNKNOWN_PRESET,
        what,
        f"there is no preset {name!r}",
        "'vstorage preset list' shows the presets",
    )


def unknown_snapshot(what: str, volume: str, name: str) -> VStorageError:
    """The snapshot that was named does not exist."""
    return VStorageError(
        Code.UNKNOWN_SNAPSHOT,
        what,
        f"volume {volume!r} has no snapshot {name!r}",
        f"'vstorage snapshot list {volume}' shows its snapshots",
    )
