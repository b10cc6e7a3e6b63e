"""A twin of the native engine without data: what exists, what is open, and every refusal.

`FakeDisk` is what survives a kill, `FakeEngine` one life of the engine on it. The twin is strict
where the daemon must be right: it refuses to open a volume twice, under an epoch that it has seen,
before the parents it needs, or with a snapshot it never took.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ovs_daemon import _native


class FakeEngineError(Exception):
    """args = (code, what, why, fix), like the native EngineError."""

    def __init__(self, code: str, what: str, why: str) -> None:
        super().__init__(code.upper(), f"cannot {what}", why, "mend the test")


def _judged(judge: Callable[[], str]) -> str:
    try:
        return judge()
    except _native.EngineError as failure:
        code, what, why, _ = failure.args
        raise FakeEngineError(code, what.removeprefix("cannot "), why) from failure


@dataclass
class FakeVolume:
    """What the disk holds of one volume; content is a number that a test may set."""

    size: int
    parent: dict[str, str] | None
    epoch: int
    content: int = 0
    corrupt: bool = False
    snapshots: dict[str, int] = field(default_factory=dict)
    # What was ever written, and what at the time of each snapshot: [offset, length] in bytes.
    written: list[list[int]] = field(default_factory=list)
    frozen: dict[str, list[list[int]]] = field(default_factory=dict)


@dataclass
class FakeDisk:
    """What survives a kill."""

    volumes: dict[str, FakeVolume] = field(default_factory=dict)


@dataclass
class FakeTail:
    """What a DTL node keeps of one volume: content is the number that `FakeVolume` has, too."""

    epoch: int
    content: int = 0
    suspect: bool = False


@dataclass
class FakeKeepers:
    """The DTL nodes of a cluster, by address; one that is not reachable is not in ``up``."""

    up: set[str] = field(default_factory=set)
    tails: dict[tuple[str, str], FakeTail] = field(default_factory=dict)


@dataclass
class OpenVolume:
    """What the engine remembers of an open volume."""

    size: int
    read_only: bool
    export: str | None = None
    limits: dict[str, float] = field(default_factory=dict)
    preset: dict[str, Any] | None = None
    generation: int = 0


class FakeEngine:
    """One life of the engine.

    :param fail: names of methods that fail, with a disk error, until taken out
    """

    def __init__(
        self,
        disk: FakeDisk | None = None,
        run_dir: str = "/run/vstorage",
        keepers: FakeKeepers | None = None,
    ) -> None:
        self.keepers = FakeKeepers() if keepers is None else keepers
        self.dtl: dict[str, dict[str, Any] | None] = {}
        self.followers: dict[str, list[dict[str, str]]] = {}
        self.retained: list[str] = []
        self.stopped: set[str] = set()
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.answers: dict[int, bool] = {}
        #: events whose volumes were paired anew
        self.stale: set[int] = set()
        #: what was granted, as it was told: the end and the term
        self.leases: list[tuple[int, int]] = []
        #: volumes whose leftovers were removed
        self.cleared: list[str] = []
        #: where the Edges of volumes that were closed were told to look
        self.moved: dict[str, str | None] = {}
        self._fetched: set[tuple[str, int]] = set()
        self.disk = FakeDisk() if disk is None else disk
        self.open: dict[str, OpenVolume] = {}
        self.fail: set[str] = set()
        self.findings: list[dict[str, str]] = []
        self.sealed: dict[str, int] | None = None
        self.drained: bool | None = None
        self._run_dir = run_dir
        # What OSD servers serve, by address, and what the engine was told of.
        self.servers: dict[str, list[dict[str, str]]] = {}
        # Of which release servers say they are, by address; others are folders of the node.
        self.releases: dict[str, str] = {}
        self.osds: dict[str, dict[str, str]] = {}
        self.caches: list[dict[str, str]] = []
        #: OSDs that cannot be reached
        self.away: set[str] = set()
        #: orders of the upkeep, what was started of it, and its figures; None: no such backend
        self.orders: dict[str, Any] | None = None
        self.started: list[str] = []
        self.figures: dict[str, Any] | None = None

    # Pure functions need no twin, but report by the twin's error.
    @staticmethod
    def shipped_presets() -> str:
        return _native.Engine.shipped_presets()

    @staticmethod
    def describe_preset(preset_json: str, /) -> str:
        return _judged(lambda: _native.Engine.describe_preset(preset_json))

    @staticmethod
    def judge_preset(preset_json: str, cluster_json: str, /) -> str:
        return _judged(lambda: _native.Engine.judge_preset(preset_json, cluster_json))

    def create_volume(self, spec_json: str, /) -> None:
        self._maybe_fail("create_volume")
        spec = json.loads(spec_json)
        parent = spec["parent"]
        content = 0
        if parent is not None:
            origin = self._volume("create_volume", parent["volume"])
            content = self._snapshot("create_volume", origin, parent["snapshot"])
        new = FakeVolume(spec["size"], parent, spec["epoch"], content)
        self.disk.volumes.setdefault(spec["uuid"], new)

    def open_volume(self, spec_json: str, /) -> str:
        self._maybe_fail("open_volume")
        spec = json.loads(spec_json)
        volume = self._volume("open_volume", spec["uuid"])
        if volume.corrupt:
            raise FakeEngineError("corrupt", "open_volume", "a SCO is corrupt")
        term = self.leases[-1][1] if self.leases else None
        if None not in (term, spec["term"]) and term != spec["term"]:
            raise FakeEngineError("lease", "open_volume", "this node's lease was over")
        if spec["uuid"] in self.open:
            raise FakeEngineError("busy", "open_volume", "it is open")
        if spec["epoch"] <= volume.epoch:
            raise FakeEngineError("stale", "open_volume", f"epoch {volume.epoch} was seen")
        for ancestor in spec["ancestors"]:
            if ancestor not in self.open:
                raise FakeEngineError("order", "open_volume", f"{ancestor} is not open")
        dtl = spec["dtl"]
        fetched = (spec["uuid"], spec["epoch"]) in self._fetched
        if dtl is not None and dtl["state"] == "in_sync" and not fetched:
            raise FakeEngineError("tail_not_fetched", "open_volume", "its tail was not fetched")
        for snapshot in spec["snapshots"]:
            self._snapshot("open_volume", volume, snapshot)
        self.dtl[spec["uuid"]] = dtl
        self.followers[spec["uuid"]] = spec["followers"]
        volume.epoch, volume.size = spec["epoch"], spec["size"]
        volume.snapshots = {uuid: volume.snapshots[uuid] for uuid in spec["snapshots"]}
        limits = dict(spec["qos"] or {})
        opened = OpenVolume(spec["size"], spec["read_only"], limits=limits, preset=spec["preset"])
        opened.generation = spec["generation"]
        self.open[spec["uuid"]] = opened
        return json.dumps({"size": spec["size"], "recovered": {}})

    def settle_volume(self, uuid: str, /) -> None:
        self._maybe_fail("settle_volume")
        self._opened("settle_volume", uuid)

    def close_volume(self, uuid: str, moved_to: str | None = None, /) -> bool:
        self._maybe_fail("close_volume")
        self._opened("close_volume", uuid)
        self.moved[uuid] = moved_to
        drained = uuid not in self.stopped
        self.stopped.discard(uuid)
        del self.open[uuid]
        return drained

    def delete_volume(self, uuid: str, /) -> None:
        self._maybe_fail("delete_volume")
        self._volume("delete_volume", uuid)
        for other in self.disk.volumes.values():
            if other.parent is not None and other.parent["volume"] == uuid:
                raise FakeEngineError("has_clones", "delete_volume", "a clone needs it")
        del self.disk.volumes[uuid]
        self.open.pop(uuid, None)

    def resize_volume(self, uuid: str, size: int, /) -> None:
        self._maybe_fail("resize_volume")
        self._opened("resize_volume", uuid).size = size
        self.disk.volumes[uuid].size = size

    def create_snapshot(self, uuid: str, snapshot_uuid: str, /) -> None:
        self._maybe_fail("create_snapshot")
        self._opened("create_snapshot", uuid)
        self._freeze(uuid, snapshot_uuid)

    def snapshot_group(self, members_json: str, /) -> None:
        self._maybe_fail("snapshot_group")
        members = json.loads(members_json)
        for uuid, _ in members:
            self._opened("snapshot_group", uuid)
        for uuid, snapshot in members:
            self._freeze(uuid, snapshot)

    def _freeze(self, uuid: str, snapshot: str) -> None:
        volume = self.disk.volumes[uuid]
        volume.snapshots[snapshot] = volume.content
        volume.frozen[snapshot] = list(volume.written)

    def delete_snapshot(self, uuid: str, snapshot_uuid: str, /) -> None:
        self._maybe_fail("delete_snapshot")
        self._opened("delete_snapshot", uuid)
        volume = self.disk.volumes[uuid]
        self._snapshot("delete_snapshot", volume, snapshot_uuid)
        for other in self.disk.volumes.values():
            if other.parent == {"volume": uuid, "snapshot": snapshot_uuid}:
                raise FakeEngineError("has_clones", "delete_snapshot", "a clone needs it")
        del volume.snapshots[snapshot_uuid]

    def revert_volume(self, uuid: str, snapshot_uuid: str, /) -> None:
        self._maybe_fail("revert_volume")
        self._opened("revert_volume", uuid)
        volume = self.disk.volumes[uuid]
        volume.content = self._snapshot("revert_volume", volume, snapshot_uuid)

    def diff_snapshots(self, uuid: str, from_uuid: str | None, to_uuid: str, /) -> str:
        self._maybe_fail("diff_snapshots")
        self._opened("diff_snapshots", uuid)
        volume = self.disk.volumes[uuid]
        for snapshot in (from_uuid, to_uuid):
            if snapshot is not None:
                self._snapshot("diff_snapshots", volume, snapshot)
        known = [] if from_uuid is None else volume.frozen[from_uuid]
        # Writes are appended, so that what is new since a snapshot is the rest of the list.
        return json.dumps(sorted(volume.frozen[to_uuid][len(known) :]))

    def set_qos(self, uuid: str, limits_json: str, /) -> None:
        self._maybe_fail("set_qos")
        self._opened("set_qos", uuid).limits = json.loads(limits_json)

    def shut_out(self, uuid: str, generation: int, /) -> None:
        self._maybe_fail("shut_out")
        opened = self._opened("shut_out", uuid)
        if generation > opened.generation:
            opened.generation, opened.export = generation, None

    def export_nbd(self, uuid: str, name: str, /) -> str:
        self._maybe_fail("export_nbd")
        opened = self._opened("export_nbd", uuid)
        if opened.export is not None:
            raise FakeEngineError("busy", "export_nbd", "it is exported")
        opened.export = name
        return f"{self._run_dir}/direct/{uuid}.sock"

    def unexport_nbd(self, uuid: str, /) -> None:
        self._maybe_fail("unexport_nbd")
        self._opened("unexport_nbd", uuid).export = None

    def set_dtl(self, uuid: str, dtl_json: str, /) -> None:
        self._maybe_fail("set_dtl")
        self._opened("set_dtl", uuid)
        dtl = json.loads(dtl_json)
        if dtl is not None and dtl["state"] == "in_sync":
            raise FakeEngineError("bad_request", "set_dtl", "a new pair is not in sync")
        self.dtl[uuid] = dtl

    def set_followers(self, uuid: str, spec_json: str, /) -> None:
        self._maybe_fail("set_followers")
        self._opened("set_followers", uuid)
        self.followers[uuid] = json.loads(spec_json)["followers"]

    def retain_followed(self, uuids_json: str, /) -> None:
        self._maybe_fail("retain_followed")
        self.retained = json.loads(uuids_json)

    def next_event(self, timeout_s: float, /) -> str | None:
        try:
            return json.dumps(self.events.get(timeout=timeout_s))
        except queue.Empty:
            return None

    def event_stands(self, id: int, /) -> bool:
        return id not in self.stale

    def answer_event(self, id: int, accepted: bool, /) -> None:
        self.answers[id] = accepted

    def fetch_tail(self, request_json: str, /) -> str:
        self._maybe_fail("fetch_tail")
        spec = json.loads(request_json)
        if spec["uuid"] in self.open:
            raise FakeEngineError("busy", "fetch_tail", "it is open")
        if spec["address"] not in self.keepers.up:
            raise FakeEngineError("dtl_unreachable", "fetch_tail", f"{spec['address']} is away")
        tail = self.keepers.tails.get((spec["address"], spec["uuid"]))
        if tail is not None and tail.epoch > spec["epoch"]:
            raise FakeEngineError("dtl_fenced", "fetch_tail", f"epoch {tail.epoch} was there")
        if tail is None or (tail.suspect and not spec["keep_local"]):
            raise FakeEngineError("dtl_suspect", "fetch_tail", "it may have too little")
        tail.epoch = spec["epoch"]
        self._fetched.add((spec["uuid"], spec["epoch"]))
        return json.dumps({"sequence": 1, "scos": 1, "bytes": 4096, "source": "dtl"})

    def drop_tail(self, request_json: str, /) -> None:
        self._maybe_fail("drop_tail")
        spec = json.loads(request_json)
        if spec["address"] not in self.keepers.up:
            raise FakeEngineError("dtl_unreachable", "drop_tail", f"{spec['address']} is away")
        self.keepers.tails.pop((spec["address"], spec["uuid"]), None)

    def clear_buffer(self, uuid: str, /) -> None:
        self._maybe_fail("clear_buffer")
        if uuid in self.open:
            raise FakeEngineError("busy", "clear_buffer", "it is open")
        self.cleared.append(uuid)

    def extend_lease(self, end_ns: int, term: int, /) -> None:
        if self.leases and self.leases[-1][1] != term:
            self.stopped |= self.open.keys()
        self.leases.append((end_ns, term))

    def osd_roll(self, address: str, /) -> str:
        if address not in self.servers:
            raise FakeEngineError("osd_server", f"ask {address}", "connection refused")
        return json.dumps(self.servers[address])

    def set_osds(self, osds_json: str, /) -> None:
        self._maybe_fail("set_osds")
        self.osds |= {one["osd"]: one for one in json.loads(osds_json)}

    def set_caches(self, osds_json: str, /) -> None:
        self._maybe_fail("set_caches")
        self.caches = json.loads(osds_json)

    def set_upkeep(self, orders_json: str, /) -> None:
        self._maybe_fail("set_upkeep")
        self.orders = json.loads(orders_json)

    def start_upkeep(self, kind: str, /) -> None:
        if self.figures is None:
            raise FakeEngineError("no_alba", f"{kind} the backend", "it is a directory")
        self.started.append(kind)

    def upkeep(self) -> str:
        return json.dumps(self.figures)

    def _server(self, osd: str) -> str:
        return self.osds[osd]["address"]

    def osd_releases(self) -> str:
        said = {osd: self.releases.get(self._server(osd)) for osd in self.osds.keys() - self.away}
        return json.dumps({osd: release for osd, release in said.items() if release is not None})

    def osd_states(self) -> str:
        state = {"why": None, "total": 10 << 30, "free": 9 << 30}
        return json.dumps(
            [
                {"osd": osd, "name": osd, "reachable": osd not in self.away, **state}
                | {"release": None if osd in self.away else self.releases.get(self._server(osd))}
                for osd in self.osds
            ]
        )

    def status(self) -> str:
        volumes = [
            {"uuid": uuid, "size": opened.size, "state": "open", "mapped_bytes": 0}
            for uuid, opened in self.open.items()
        ]
        answer: dict[str, Any] = {"volumes": volumes, "findings": self.findings}
        answer["sealed"] = self.sealed
        capacity = {"backend_total_bytes": 100 << 30, "backend_free_bytes": 60 << 30}
        return json.dumps(answer | {"buffer_free_bytes": 1 << 30} | capacity)

    def shutdown(self, drain: bool, /) -> None:
        self.drained = drain
        self.open.clear()

    def _maybe_fail(self, method: str) -> None:
        if method in self.fail:
            raise FakeEngineError("io", method, "the disk failed, as the test wished")

    def _volume(self, what: str, uuid: str) -> FakeVolume:
        if uuid not in self.disk.volumes:
            raise FakeEngineError("unknown_volume", what, f"there is no {uuid}")
        return self.disk.volumes[uuid]

    def _opened(self, what: str, uuid: str) -> OpenVolume:
        self._volume(what, uuid)
        if uuid not in self.open:
            raise FakeEngineError("not_open", what, f"{uuid} is not open")
        return self.open[uuid]

    def _snapshot(self, what: str, volume: FakeVolume, uuid: str) -> int:
        if uuid not in volume.snapshots:
            raise FakeEngineError("no_snapshot", what, f"there is no {uuid}")
        return volume.snapshots[uuid]
