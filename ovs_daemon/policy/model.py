"""The cluster as the policy sees it: who is where, who is alive, who owns what.

Names are unique. All collections are tuples in a fixed order, so that equal clusters decide
equally on every node.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace


class Role(enum.StrEnum):
    """What a node does: serve guests, own volumes and keep logs of others, store fragments."""

    EDGE = "edge"
    ROUTER = "router"
    OSD = "osd"


class DtlMode(enum.StrEnum):
    """When a write is acknowledged: once the other node has it, before, or without another."""

    SYNC = "sync"
    ASYNC = "async"
    NONE = "none"


class DtlState(enum.StrEnum):
    """Whether the other node has every acknowledged write that is not on the backend.

    * ``in_sync``: it has (with ``async``: but for the last moments);
    * ``catching_up``: it is being given them;
    * ``degraded``: it cannot be reached, and the owner acknowledges alone;
    * ``standalone``: there is no other node.
    """

    IN_SYNC = "in_sync"
    CATCHING_UP = "catching_up"
    DEGRADED = "degraded"
    STANDALONE = "standalone"


@dataclass(frozen=True)
class Node:
    """A host that runs the daemon.

    :param domain: None for a node that was not assigned yet: it owns nothing and keeps nothing
    :param router: whether it may own volumes and keep logs of others
    :param draining: it is to lose what it has and get nothing new
    """

    name: str
    domain: str | None
    recovery_domain: str | None = None
    router: bool = True
    alive: bool = True
    draining: bool = False

    @property
    def serving(self) -> bool:
        """Whether it can serve volumes."""
        return self.router and self.alive and self.domain is not None

    @property
    def usable(self) -> bool:
        """Whether something new may be placed on it."""
        return self.serving and not self.draining


@dataclass(frozen=True)
class Volume:
    """A volume's place.

    :param dtl_node: None when there is no other node
    :param mds: nodes that follow its map, beside the owner
    :param ancestors: the volumes (UUIDs) from which it was cloned, oldest first: what they have not
        on the backend yet is in their owner's write buffer, so that one node serves them all
    :param handed: its owner was given it, with everything on the backend, and has not opened it yet
    :param served: the node whose write buffer has everything that is not on the backend; None: the
        owner
    """

    uuid: str
    owner: str
    mode: DtlMode = DtlMode.SYNC
    dtl_node: str | None = None
    dtl_state: DtlState = DtlState.STANDALONE
    mds: tuple[str, ...] = ()
    ancestors: tuple[str, ...] = ()
    handed: bool = False
    served: str | None = None

    @property
    def root(self) -> str:
        """The oldest of its family: all that were cloned from it, directly or not."""
        return (*self.ancestors, self.uuid)[0]


@dataclass(frozen=True)
class Cluster:
    """All nodes and volumes at one moment."""

    nodes: tuple[Node, ...]
    volumes: tuple[Volume, ...] = ()

    def node(self, name: str | None) -> Node | None:
        """The node with this name."""
        return next((node for node in self.nodes if node.name == name), None)

    def alive(self, name: str | None) -> bool:
        """Whether the node exists and is alive."""
        node = self.node(name)
        return node is not None and node.alive

    def members(self, domain: str | None) -> tuple[Node, ...]:
        """The nodes of a Domain."""
        return tuple(node for node in self.nodes if domain is not None and node.domain == domain)

    def owned(self, name: str) -> tuple[Volume, ...]:
        """The volumes of a node, ancestors before their descendants."""
        mine = (volume for volume in self.volumes if volume.owner == name)
        return tuple(sorted(mine, key=lambda volume: (len(volume.ancestors), volume.uuid)))

    def families(self) -> tuple[tuple[Volume, ...], ...]:
        """All volumes by family, ancestors before their descendants."""
        found: dict[str, list[Volume]] = {}
        for volume in sorted(self.volumes, key=lambda one: (len(one.ancestors), one.uuid)):
            found.setdefault(volume.root, []).append(volume)
        return tuple(tuple(family) for family in found.values())

    def domains(self) -> tuple[str, ...]:
        """Domains that have nodes."""
        return tuple(sorted({node.domain for node in self.nodes if node.domain is not None}))

    def without(self, lost: Iterable[str]) -> Cluster:
        """The same with these nodes dead."""
        names = set(lost)
        nodes = (replace(node, alive=node.alive and node.name not in names) for node in self.nodes)
        return replace(self, nodes=tuple(nodes))

    def with_volume(self, changed: Volume) -> Cluster:
        """The same with one volume somewhere else."""
        volumes = (changed if one.uuid == changed.uuid else one for one in self.volumes)
        return replace(self, volumes=tuple(volumes))

    def draining(self, name: str) -> Cluster:
        """The same with one node that is to be emptied."""
        nodes = (replace(node, draining=node.draining or node.name == name) for node in self.nodes)
        return replace(self, nodes=tuple(nodes))
