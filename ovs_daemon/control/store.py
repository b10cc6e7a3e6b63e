"""What the registry holds, typed; volumes and snapshots also found by name.

Kinds of records: ``volume``, ``snapshot`` and ``osd`` by UUID; ``domain``, ``preset`` and ``node``
by name; ``heard`` by the node's name, and ``alive``, as long as it lives; one ``cluster``; and
``name``, whose identity is ``volume/NAME`` or ``snapshot/VOLUME-UUID/NAME`` and whose body holds
the UUID.
The name is a record of its own because creating it is what makes names unique, in one transaction
with the record it names.
"""

from __future__ import annotations

import uuid

from ovs_daemon.control.records import Snapshot, Volume
from ovs_daemon.control.topology import Alive, Domain, Heard, Node, Osd, Preset, Standing
from ovs_daemon.registry import Conflict, Create, Delete, Operation, Registry, Update, retry

VOLUME = "volume"
SNAPSHOT = "snapshot"
NAME = "name"
DOMAIN = "domain"
NODE = "node"
PRESET = "preset"
OSD = "osd"
HEARD = "heard"
ALIVE = "alive"
CLUSTER = "cluster"

Stored = Volume | Snapshot | Domain | Node | Osd | Heard | Preset


class Store:
    """The registry as the verbs use it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def registry(self) -> Registry:
        """What it all is in."""
        return self._registry

    def volume(self, uuid: str) -> Volume | None:
        """The volume with this UUID, in whatever state."""
        record = self._registry.get(VOLUME, uuid)
        return None if record is None else Volume.from_body(record.body, record.version)

    def find_volume(self, reference: str) -> Volume | None:
        """The volume with this name, else with this UUID."""
        named = self._registry.get(NAME, _volume_name(reference))
        return self.volume(reference if named is None else str(named.body["uuid"]))

    def volumes(self) -> list[Volume]:
        """All volumes in all states, parents before their clones, then by name."""
        records = self._registry.list(VOLUME)
        volumes = [Volume.from_body(record.body, record.version) for record in records]
        return sorted(volumes, key=lambda volume: (len(volume.ancestors), volume.name))

    def snapshot(self, uuid: str) -> Snapshot | None:
        """The snapshot with this UUID, in whatever state."""
        record = self._registry.get(SNAPSHOT, uuid)
        return None if record is None else Snapshot.from_body(record.body, record.version)

    def find_snapshot(self, volume: Volume, reference: str) -> Snapshot | None:
        """The volume's snapshot with this name, else with this UUID."""
        named = self._registry.get(NAME, _snapshot_name(volume.uuid, reference))
        snapshot = self.snapshot(reference if named is None else str(named.body["uuid"]))
        return snapshot if snapshot is not None and snapshot.volume == volume.uuid else None

    def snapshots(self, volume: str | None = None) -> list[Snapshot]:
        """All snapshots (of one volume, by UUID) in all states, oldest first."""
        records = self._registry.list(SNAPSHOT)
        snapshots = [Snapshot.from_body(record.body, record.version) for record in records]
        chosen = [snapshot for snapshot in snapshots if volume in (None, snapshot.volume)]
        return sorted(chosen, key=lambda snapshot: (snapshot.created_at, snapshot.name or ""))

    def commit(self, *operations: Operation) -> int:
        """Perform all operations or none; raises :class:`Conflict`."""
        return self._registry.commit(operations)

    def cluster_id(self) -> str:
        """The UUID of everything that shares this registry; made when first asked for."""

        def attempt() -> str:
            record = self._registry.get(CLUSTER, CLUSTER)
            if record is not None:
                return str(record.body["uuid"])
            made = str(uuid.uuid4())
            self.commit(Create(CLUSTER, CLUSTER, {"uuid": made}))
            return made

        return retry("name the cluster", attempt)

    def domain(self, name: str) -> Domain | None:
        """The Domain with this name."""
        record = self._registry.get(DOMAIN, name)
        return None if record is None else Domain.from_body(record.body, record.version)

    def domains(self) -> list[Domain]:
        """All Domains, by name."""
        records = self._registry.list(DOMAIN)
        return [Domain.from_body(record.body, record.version) for record in records]

    def node(self, name: str) -> Node | None:
        """The node with this name."""
        record = self._registry.get(NODE, name)
        return None if record is None else Node.from_body(name, record.body, record.version)

    def nodes(self) -> list[Node]:
        """All nodes, dead or alive, by name."""
        records = self._registry.list(NODE)
        return [Node.from_body(record.ident, record.body, record.version) for record in records]

    def alive(self) -> dict[str, Alive]:
        """Who is alive, by the node's name."""
        records = self._registry.list(ALIVE)
        return {one.ident: Alive.from_body(one.ident, one.body, one.version) for one in records}

    def preset(self, name: str) -> Preset | None:
        """The preset with this name."""
        record = self._registry.get(PRESET, name)
        return None if record is None else Preset.from_body(record.body, record.version)

    def presets(self) -> list[Preset]:
        """All presets that were made here, by name."""
        records = self._registry.list(PRESET)
        return [Preset.from_body(record.body, record.version) for record in records]

    def osd(self, uuid: str) -> Osd | None:
        """The OSD with this UUID, however it stands."""
        record = self._registry.get(OSD, uuid)
        return None if record is None else Osd.from_body(record.body, record.version)

    def heard(self) -> dict[str, Heard]:
        """What nodes have heard of OSDs that are lost, by the node's name."""
        records = self._registry.list(HEARD)
        return {one.ident: Heard.from_body(one.ident, one.body, one.version) for one in records}

    def osds(self) -> list[Osd]:
        """All OSDs that were not removed, by Domain, node and UUID."""
        return [osd for osd in self.all_osds() if osd.standing is not Standing.REMOVED]

    def all_osds(self) -> list[Osd]:
        """Those and the ones that were removed."""
        records = self._registry.list(OSD)
        osds = [Osd.from_body(record.body, record.version) for record in records]
        return sorted(osds, key=lambda osd: (osd.domain, osd.node, osd.uuid))

    def release_name(self, record: Volume | Snapshot) -> list[Operation]:
        """Operations that free the name of a record; none when it does not hold it (any more)."""
        ident = _name_ident(record)
        name = self._registry.get(NAME, ident)
        if name is None or name.body["uuid"] != record.uuid:
            return []
        return [Delete(NAME, ident, name.version)]


def put(record: Stored) -> Create | Update:
    """The operation that stores a record that was read (at its version) or is new."""
    kind, ident = _place(record)
    if record.version == 0:
        return Create(kind, ident, record.body())
    return Update(kind, ident, record.version, record.body())


def drop(record: Stored) -> Delete:
    """The operation that removes a record that was read."""
    return Delete(*_place(record), record.version)


def _place(record: Stored) -> tuple[str, str]:
    match record:
        case Volume():
            return VOLUME, record.uuid
        case Snapshot():
            return SNAPSHOT, record.uuid
        case Domain():
            return DOMAIN, record.name
        case Preset():
            return PRESET, record.name
        case Osd():
            return OSD, record.uuid
        case Heard():
            return HEARD, record.node
    return NODE, record.name


def claim_name(record: Volume | Snapshot) -> Create:
    """The operation that gives a new record its name, if the name is free."""
    return Create(NAME, _name_ident(record), {"uuid": record.uuid})


def lost_name(conflict: Conflict) -> bool:
    """Whether a transaction failed because its name is taken."""
    return conflict.operation.kind == NAME and isinstance(conflict.operation, Create)


def _name_ident(record: Volume | Snapshot) -> str:
    if isinstance(record, Volume):
        return _volume_name(record.name)
    return _snapshot_name(record.volume, record.name or "")


def _volume_name(name: str) -> str:
    return f"volume/{name}"


def _snapshot_name(volume: str, name: str) -> str:
    return f"snapshot/{volume}/{name}"
