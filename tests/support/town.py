"""Several hosts of twins that share a registry, a backend and the nodes that keep logs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from ovs_daemon.control.dtl import DtlDesk
from ovs_daemon.control.host import Host, Membership, Settings
from ovs_daemon.control.liveness import Liveness
from ovs_daemon.control.records import Dtl, Volume
from ovs_daemon.control.recovery import recover
from ovs_daemon.control.steward import Steward
from ovs_daemon.control.store import Store, put
from ovs_daemon.control.topology import Alive, Domain
from ovs_daemon.engine import EngineClient
from ovs_daemon.policy.model import DtlState
from ovs_daemon.registry import Registry
from ovs_daemon.registry.memory import MemoryRegistry
from tests.support.fake_edge import FakeEdge
from tests.support.fake_engine import (
    FakeDisk,
    FakeEngine,
    FakeEngineError,
    FakeKeepers,
    FakeTail,
)

MIB = 1 << 20
TTL_S = 3.0


class Inhabitant:
    """One host: its engine, its daemon's parts, and whether it lives."""

    def __init__(self, town: Town, name: str, domain: str, recovery: str | None) -> None:
        self.town = town
        self.name = name
        # A port for each node, as if all were on one host.
        edge_tcp = f"127.0.0.1:{6640 + sum(name.encode())}"
        addresses = (("dtl", f"{name}:1"), ("edge_tcp", edge_tcp))
        member = Membership(
            True, recovery, addresses=addresses, instance=name, backend=town.backend
        )
        self.settings = replace(
            Settings(name, Path("/run/vstorage"), 64 * MIB, None, 0o660, domain),
            membership=member,
            cluster_key=b"k" * 32,
        )
        self.start()

    def start(self) -> None:
        """Begin a life."""
        town = self.town
        self.engine = FakeEngine(town.disk, keepers=town.keepers)
        self.host = Host(
            Store(town.registry),
            EngineClient(self.engine, FakeEngineError),
            FakeEdge(),
            self.settings,
            now=lambda: f"2026-01-01T00:00:00.{next(town.ticks):06}+00:00",
            new_uuid=lambda: f"00000000-0000-4000-8000-{next(town.uuids):012x}",
        )
        self.steward = Steward(
            self.host, lambda: True, clock=lambda: town.time_s, patience_s=town.patience_s
        )
        self.desk = DtlDesk(self.host, self.steward.fenced, self.steward.recorded)
        me = Alive(self.name, self.name, "now")
        renewed = self.host.engine.extend_lease
        self.liveness = Liveness(self.host.store, me, TTL_S, renewed, clock=lambda: town.time_s)
        self.liveness.begin()
        self.host.guard = self.liveness
        self.host.await_change = lambda _revision, _seconds: town.tend(but=self)
        town.keepers.up.add(f"{self.name}:1")
        self.up = True
        recover(self.host)

    def kill(self) -> None:
        """The process and its engine are gone; its last sign of life fades."""
        self.up = False
        self.town.keepers.up.discard(f"{self.name}:1")

    def says(
        self, volume: Volume, before: DtlState, after: DtlState, ident: int = 1
    ) -> bool | None:
        """The engine asks for a change of a DTL's state; returns the daemon's answer."""
        current = self.host.store.volume(volume.uuid)
        assert current is not None
        dtl = self.engine.dtl[volume.uuid]
        assert dtl is not None
        self.desk.handle(
            {
                "id": ident,
                "kind": "dtl_state",
                "uuid": volume.uuid,
                "epoch": current.epoch,
                "node": dtl["node"],
                "from": before.value,
                "to": after.value,
            }
        )
        return self.engine.answers.get(ident)


class Town:
    """:param nodes: (Domain, Recovery Domain) of each node"""

    def __init__(
        self, nodes: dict[str, tuple[str, str | None]], registry: Registry | None = None
    ) -> None:
        self.time_s = 0.0
        # What a steward begins, it waits for, however slow this machine is.
        self.patience_s = 600.0
        # Identity of the backend that nodes which are started find.
        self.backend = "shared"
        self.registry = registry or MemoryRegistry(clock=lambda: self.time_s)
        self.disk = FakeDisk()
        self.keepers = FakeKeepers()
        self.ticks, self.uuids = itertools.count(), itertools.count(1)
        store = Store(self.registry)
        for domain in sorted({domain for domain, _ in nodes.values()}):
            store.commit(put(Domain(domain, "", None, "now")))
        self.nodes = {name: Inhabitant(self, name, *where) for name, where in nodes.items()}

    def __getitem__(self, name: str) -> Inhabitant:
        return self.nodes[name]

    def pass_time(self) -> None:
        """Everybody who lives gives a sign; the leases of the dead are over."""
        for _ in range(4):
            self.time_s += TTL_S / 3
            for node in self.nodes.values():
                if node.up:
                    node.liveness.beat()

    def tend(self, but: Inhabitant | None = None) -> None:
        """Every living steward makes a pass, and another one for what the first ones changed.

        :param but: one that is busy
        """
        for _ in range(2):
            for node in self.nodes.values():
                if node.up and node is not but:
                    node.steward.tend()

    def in_sync(self, volume: Volume) -> Volume:
        """The engine of the owner brings the keeper up to date, and says so."""
        owner = self.nodes[volume.node]
        dtl = owner.engine.dtl[volume.uuid]
        assert dtl is not None
        self.keepers.tails[dtl["address"], volume.uuid] = FakeTail(volume.epoch)
        assert owner.says(volume, DtlState.DEGRADED, DtlState.IN_SYNC, next(self.ticks))
        return self.volume(volume.uuid)

    def volume(self, uuid: str) -> Volume:
        """A volume's record."""
        found = Store(self.registry).volume(uuid)
        assert found is not None
        return found

    def set_dtl(self, volume: Volume, dtl: Dtl) -> Volume:
        """Put a DTL into the record, as if it had come to be."""
        Store(self.registry).commit(put(replace(self.volume(volume.uuid), dtl=dtl)))
        return self.volume(volume.uuid)
