"""Domains and nodes as the registry keeps them.

A node's record stays; that it is alive is a record of its own, which is bound to a lease and goes
when the node does (`liveness.py`). Whatever depends on who is in a Domain writes the Domain's
record as well, unchanged, so that two such decisions never pass each other unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ovs_daemon.control.bodies import body_of, known
from ovs_daemon.policy.model import Role

ALL_ROLES = tuple(Role)
#: role of OSDs that keep objects
CAPACITY = "capacity"


@dataclass(frozen=True)
class Domain:
    """Nodes that can fail together: a rack, a room, a datacenter.

    :param availability_zone: OpenStack's name for it; None when it has none
    :param version: of its registry record; 0 when it was never stored
    :param rest: what a later release has in its record
    """

    name: str
    description: str
    availability_zone: str | None
    created_at: str
    version: int = 0
    rest: dict[str, Any] = field(default_factory=dict, hash=False)

    def body(self) -> dict[str, Any]:
        """The registry record."""
        return body_of(self)

    @classmethod
    def from_body(cls, body: Mapping[str, Any], version: int) -> Domain:
        """The inverse of :meth:`body`."""
        return cls(**known(cls, body), version=version)


@dataclass(frozen=True)
class Preset:
    """How the erasure-coded backend keeps objects, as an operator wrote it (`doc/presets.md`).

    :param policies: fields k, m, c, x, domains and local of each, the preferred one first
    :param fragment_size: bytes
    :param sco_size: bytes
    :param compression: of objects: ``none``, ``lz4`` or ``zstd``
    :param encryption: of objects: ``none`` or ``aes-256-gcm``
    :param cache_on_write: whether objects are brought to the cache tier when they are put
    :param version: of its registry record; 0 when it was never stored
    :param rest: what a later release has in its record
    """

    name: str
    policies: tuple[dict[str, Any], ...]
    fragment_size: int
    sco_size: int
    created_at: str
    compression: str = "none"
    encryption: str = "none"
    cache_on_write: bool = False
    version: int = 0
    rest: dict[str, Any] = field(default_factory=dict, hash=False)

    def body(self) -> dict[str, Any]:
        """The registry record."""
        return body_of(self)

    @classmethod
    def from_body(cls, body: Mapping[str, Any], version: int) -> Preset:
        """The inverse of :meth:`body`."""
        fields = {**known(cls, body), "policies": tuple(body["policies"])}
        return cls(**fields, version=version)


@dataclass(frozen=True)
class Node:
    """A host that runs the daemon.

    :param domain: name; None for a node that was not assigned yet
    :param recovery_domain: name of the Domain whose nodes keep its volumes' logs
    :param wanted_recovery_domain: asked for by its configuration, but without a node so far
    :param addresses: where others reach it, by use: ``control``, ``edge_tcp``, ``dtl``
    :param release: version of the software
    :param instance: tells two hosts apart that were given one name
    :param draining: it is being emptied and gets nothing new
    :param backend: identity of the backend that it stores objects on; "" in older records
    :param version: of its registry record; 0 when it was never stored
    :param rest: what a later release has in its record
    """

    name: str
    domain: str | None = None
    recovery_domain: str | None = None
    wanted_recovery_domain: str | None = None
    roles: tuple[Role, ...] = ALL_ROLES
    addresses: dict[str, str] = field(default_factory=dict)
    release: str = ""
    registered_at: str = ""
    started_at: str = ""
    instance: str = ""
    draining: bool = False
    backend: str = ""
    version: int = 0
    rest: dict[str, Any] = field(default_factory=dict, hash=False)

    def shares_backend(self, other: Node) -> bool:
        """Whether what one has stored, the other can open; of older records nobody knows."""
        return not self.backend or not other.backend or self.backend == other.backend

    def body(self) -> dict[str, Any]:
        """The registry record."""
        return body_of(self)

    @classmethod
    def from_body(cls, name: str, body: Mapping[str, Any], version: int) -> Node:
        """The inverse of :meth:`body`; records of earlier releases know less."""
        fields = known(cls, {"name": name, **body})
        if "roles" in fields:
            fields["roles"] = tuple(Role(role) for role in fields["roles"])
        return cls(**fields, version=version)


class Standing(StrEnum):
    """How an OSD stands to the cluster; `leaving.py` says what becomes of it."""

    MEMBER = "member"
    LEAVING = "leaving"
    SEALED = "sealed"
    LOST = "lost"
    REMOVED = "removed"


@dataclass(frozen=True)
class Osd:
    """A disk behind a `vstorage-osd`, which keeps fragments for all nodes of the cluster.

    :param uuid: its number, for life; it is on the disk
    :param domain: where it was claimed for
    :param address: ADDRESS:PORT of its server
    :param role: ``capacity`` or ``cache``
    :param registered_by: the node whose daemon found it
    :param version: of its registry record; 0 when it was never stored
    :param rest: what a later release has in its record
    """

    uuid: str
    domain: str
    node: str
    address: str
    role: str
    registered_by: str
    registered_at: str
    standing: Standing = Standing.MEMBER
    version: int = 0
    rest: dict[str, Any] = field(default_factory=dict, hash=False)

    def body(self) -> dict[str, Any]:
        """The registry record."""
        return {**body_of(self), "standing": self.standing.value}

    @classmethod
    def from_body(cls, body: Mapping[str, Any], version: int) -> Osd:
        """The inverse of :meth:`body`; in records of earlier releases all are members."""
        standing = Standing(body.get("standing", Standing.MEMBER))
        return cls(**{**known(cls, body), "standing": standing}, version=version)


@dataclass(frozen=True)
class Heard:
    """What a node's engine has been told of OSDs that are lost.

    :param osds: their UUIDs, each with the version of its record
    :param version: of its registry record; 0 when it was never stored
    """

    node: str
    osds: dict[str, int] = field(default_factory=dict)
    version: int = 0

    def body(self) -> dict[str, Any]:
        """The registry record."""
        return {"osds": self.osds}

    @classmethod
    def from_body(cls, node: str, body: Mapping[str, Any], version: int) -> Heard:
        """The inverse of :meth:`body`."""
        return cls(node, dict(body["osds"]), version)


@dataclass(frozen=True)
class Alive:
    """A node's sign of life: there is one while it lives.

    :param since: when this life began
    :param version: of its registry record
    """

    node: str
    instance: str
    since: str
    version: int = 0

    def body(self) -> dict[str, Any]:
        """The registry record."""
        return {"instance": self.instance, "since": self.since}

    @classmethod
    def from_body(cls, node: str, body: Mapping[str, Any], version: int) -> Alive:
        """The inverse of :meth:`body`; only the node itself writes it."""
        return cls(node, body["instance"], body["since"], version)
