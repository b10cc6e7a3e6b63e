"""A host made of twins, which can be killed and started again on what survived."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

from ovs_daemon.control.host import Host, Settings
from ovs_daemon.control.liveness import Liveness
from ovs_daemon.control.records import State, Volume
from ovs_daemon.control.recovery import recover
from ovs_daemon.control.store import Store
from ovs_daemon.control.topology import Alive
from ovs_daemon.engine import Engine, EngineClient
from ovs_daemon.registry import Registry
from ovs_daemon.registry.memory import MemoryRegistry
from tests.support.fake_edge import FakeEdge
from tests.support.fake_engine import FakeDisk, FakeEngine, FakeEngineError

MIB = 1 << 20
_FOR_EVER_S = 1e9


class House:
    """What survives (registry, disk) and one life of the daemon on it (engine, host).

    :param domain: the Domain in which the host registers
    """

    def __init__(self, domain: str = "default") -> None:
        self.domain = domain
        self.registry = MemoryRegistry()
        self.disk = FakeDisk()
        self.edge = FakeEdge()
        self._clock = itertools.count()
        self._uuids = itertools.count(1)
        self.start()

    def start(self) -> None:
        """Begin a life."""
        self.engine = FakeEngine(self.disk)
        self.host = self.make_host(self.registry, self.engine)
        me = Alive("node1", "", self.host.now())
        Liveness(self.host.store, me, _FOR_EVER_S).begin()
        recover(self.host)

    def make_host(self, registry: Registry, engine: Engine) -> Host:
        """A host on any registry and engine; its clock and UUIDs never repeat."""
        settings = Settings("node1", Path("/run/vstorage"), 64 * MIB, "107:107", 0o660, self.domain)
        return Host(
            Store(registry),
            EngineClient(engine, FakeEngineError),
            self.edge,
            settings,
            now=lambda: f"2026-01-01T00:00:00.{next(self._clock):06}+00:00",
            new_uuid=lambda: f"00000000-0000-4000-8000-{next(self._uuids):012x}",
        )

    def fork(self) -> House:
        """Another house on a copy of what survives; its first life has yet to begin."""
        twin = copy.copy(self)
        twin.registry = MemoryRegistry()
        twin.registry._records = dict(self.registry._records)
        twin.registry._revision = self.registry._revision
        twin.disk = copy.deepcopy(self.disk)
        twin.edge = FakeEdge()
        twin.edge.served = dict(self.edge.served)
        twin._clock, twin._uuids = copy.copy(self._clock), copy.copy(self._uuids)
        return twin

    def check(self) -> None:
        """Assert that registry and engine agree and nothing is half done."""
        store = self.host.store
        volumes = {volume.uuid: volume for volume in store.volumes()}
        snapshots = store.snapshots()
        assert volumes.keys() == self.disk.volumes.keys()
        for volume in volumes.values():
            self._check_volume(volume, {one.uuid for one in snapshots if one.volume == volume.uuid})
        for snapshot in snapshots:
            assert snapshot.state in (State.AVAILABLE, State.HIDDEN), snapshot
            parents = [one.parent.snapshot for one in volumes.values() if one.parent is not None]
            assert snapshot.clones == parents.count(snapshot.uuid)
            assert snapshot.listed or snapshot.kept or snapshot.clones, "nothing needs it"
        listed = [one.uuid for one in volumes.values() if one.listed]
        listed += [one.uuid for one in snapshots if one.listed]
        named = [str(name.body["uuid"]) for name in self.registry.list("name")]
        assert sorted(named) == sorted(listed)

    def _check_volume(self, volume: Volume, snapshots: set[str]) -> None:
        on_disk = self.disk.volumes[volume.uuid]
        assert volume.state in (State.AVAILABLE, State.HIDDEN), volume
        assert on_disk.snapshots.keys() == snapshots
        assert on_disk.size == volume.size
        assert on_disk.epoch == volume.epoch
        assert volume.reverting is None
        if volume.uuid in self.engine.open:
            assert self.engine.open[volume.uuid].limits == (volume.limits or {})
        assert volume.listed or snapshots, "hidden, but nothing needs it"

    def picture(self) -> list[object]:
        """What users see: two houses that look alike have the same picture."""
        store = self.host.store
        names = {volume.uuid: volume.name for volume in store.volumes()}
        volumes = [
            (
                volume.name,
                volume.size,
                volume.template,
                volume.parent and names[volume.parent.volume],
                volume.multi_attach,
                volume.limits,
                [(one.holder, one.mode, one.read_only) for one in volume.attachments],
                self.disk.volumes[volume.uuid].content,
            )
            for volume in store.volumes()
            if volume.listed
        ]
        snapshots = [(names[one.volume], one.name) for one in store.snapshots() if one.listed]
        return [*sorted(volumes, key=str), *sorted(snapshots, key=str)]
