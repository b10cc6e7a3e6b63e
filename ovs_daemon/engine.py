"""The engine's border on the Python side: typed calls in, JSON text across, one error out.

`Engine` is the raw contract (`ovs_daemon/_native.pyi`); the native extension and the twin in
`tests/support/fake_engine.py` both fulfil it. `EngineClient` is what the daemon uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from ovs_daemon.errors import VStorageError

# What the engine says about a volume or snapshot that is not there.
_ABSENT = frozenset({"unknown_volume", "no_snapshot"})

_Result = TypeVar("_Result")


class Engine(Protocol):
    """The raw engine; see `ovs_daemon/_native.pyi` for shapes, units and errors."""

    def create_volume(self, spec_json: str, /) -> None: ...
    def open_volume(self, spec_json: str, /) -> str: ...
    def settle_volume(self, uuid: str, /) -> None: ...
    def close_volume(self, uuid: str, moved_to: str | None = None, /) -> bool: ...
    def delete_volume(self, uuid: str, /) -> None: ...
    def resize_volume(self, uuid: str, size: int, /) -> None: ...
    def create_snapshot(self, uuid: str, snapshot_uuid: str, /) -> None: ...
    def delete_snapshot(self, uuid: str, snapshot_uuid: str, /) -> None: ...
    def revert_volume(self, uuid: str, snapshot_uuid: str, /) -> None: ...
    def export_nbd(self, uuid: str, name: str, /) -> str: ...
    def unexport_nbd(self, uuid: str, /) -> None: ...
    def shut_out(self, uuid: str, generation: int, /) -> None: ...
    def set_qos(self, uuid: str, limits_json: str, /) -> None: ...
    def snapshot_group(self, members_json: str, /) -> None: ...
    def diff_snapshots(self, uuid: str, from_uuid: str | None, to_uuid: str, /) -> str: ...
    @staticmethod
    def describe_preset(preset_json: str, /) -> str: ...
    @staticmethod
    def judge_preset(preset_json: str, cluster_json: str, /) -> str: ...
    @staticmethod
    def shipped_presets() -> str: ...
    def osd_roll(self, address: str, /) -> str: ...
    def set_osds(self, osds_json: str, /) -> None: ...
    def set_caches(self, osds_json: str, /) -> None: ...
    def osd_states(self) -> str: ...
    def osd_releases(self) -> str: ...
    def set_upkeep(self, orders_json: str, /) -> None: ...
    def start_upkeep(self, kind: str, /) -> None: ...
    def upkeep(self) -> str: ...
    def set_dtl(self, uuid: str, dtl_json: str, /) -> None: ...
    def set_followers(self, uuid: str, spec_json: str, /) -> None: ...
    def retain_followed(self, uuids_json: str, /) -> None: ...
    def next_event(self, timeout_s: float, /) -> str | None: ...
    def event_stands(self, id: int, /) -> bool: ...
    def answer_event(self, id: int, accepted: bool, /) -> None: ...
    def fetch_tail(self, request_json: str, /) -> str: ...
    def drop_tail(self, request_json: str, /) -> None: ...
    def clear_buffer(self, uuid: str, /) -> None: ...
    def extend_lease(self, end_ns: int, term: int, /) -> None: ...
    def status(self) -> str: ...
    def shutdown(self, drain: bool, /) -> None: ...


@dataclass(frozen=True)
class Parent:
    """Where a clone came from: a snapshot (UUID) of a volume (UUID)."""

    volume: str
    snapshot: str


@dataclass(frozen=True)
class CreateSpec:
    """What the engine needs to create a volume; sizes in bytes."""

    uuid: str
    size: int
    epoch: int
    parent: Parent | None
    sco_size: int
    preset: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DtlSpec:
    """Where the copy of a volume's unsaved tail is kept, and what the registry says of it."""

    mode: str
    node: str
    address: str
    state: str


@dataclass(frozen=True)
class OsdSpec:
    """An OSD behind a server: its UUID, ADDRESS:PORT, Domain, node, and how it stands."""

    osd: str
    address: str
    domain: str
    node: str
    standing: str = "member"


@dataclass(frozen=True)
class FollowerAt:
    """A node that follows a volume's map."""

    node: str
    address: str


@dataclass(frozen=True)
class Orders:
    """How the engine looks after an erasure-coded backend; see `control/upkeep.py`.

    :param domains: whose fragments it mends; None for all
    :param heard: OSDs that are lost, of which every node has heard that, each with the version of
        its record
    :param repair_bytes_per_s: what mending may move
    :param scrub_bytes_per_s: what scrubbing may read; 0: it is done only when somebody asks
    :param delay_s: after which an OSD that is away is taken for lost
    :param every_s: between two looks at all objects
    :param scrub_every_s: between two scrubs
    :param rebalance_bytes_per_s: what rebalancing may move; 0: it is done only when somebody asks
    :param rebalance_from: how much fuller a Domain's fullest disk is than its emptiest one when it
        begins, of their sizes
    """

    domains: tuple[str, ...] | None
    heard: dict[str, int]
    repair_bytes_per_s: int
    scrub_bytes_per_s: int
    delay_s: float
    every_s: float
    scrub_every_s: float
    rebalance_bytes_per_s: int
    rebalance_from: float


@dataclass(frozen=True)
class FetchSpec:
    """Which tail to fetch from whom, fencing all older epochs.

    :param keep_local: this node served the volume last: what it has may be longer
    """

    uuid: str
    epoch: int
    address: str
    keep_local: bool


@dataclass(frozen=True)
class OpenSpec:
    """What the engine needs to open a volume: all that the registry knows and the log does not.

    ``ancestors`` lists the UUIDs of the logs that the volume was cloned from, oldest first;
    ``snapshots`` those snapshots of it that exist. A snapshot that is not listed is forgotten.
    ``qos`` limits it from its first request on. ``preset`` is the one by which its objects are put;
    None for the backend's own. ``term`` is that of the lease when the registry was read: the engine
    opens nothing for another one. None where no lease is needed. Of its attachments earlier
    generations than ``generation`` are shut out.
    """

    uuid: str
    size: int
    epoch: int
    read_only: bool
    ancestors: tuple[str, ...]
    parent: Parent | None
    snapshots: tuple[str, ...]
    sco_size: int
    dtl: DtlSpec | None = None
    qos: Mapping[str, float] | None = None
    preset: Mapping[str, Any] | None = None
    followers: tuple[FollowerAt, ...] = ()
    term: int | None = None
    generation: int = 0


class EngineClient:
    """The engine as the daemon calls it.

    :param engine: the raw engine
    :param error: the exception class by which it reports (code, what, why, fix)
    """

    def __init__(self, engine: Engine, error: type[Exception]) -> None:
        self._engine = engine
        self._error = error

    def create_volume(self, spec: CreateSpec) -> None:
        """Create a volume; repeating it is harmless."""
        self._call(lambda: self._engine.create_volume(json.dumps(asdict(spec))))

    def open_volume(self, spec: OpenSpec) -> dict[str, Any]:
        """Open a volume under an epoch that was just raised; returns what was recovered."""
        return self._object(lambda: self._engine.open_volume(json.dumps(asdict(spec))))

    def settle_volume(self, uuid: str) -> None:
        """Bring what an open volume has now to the backend, while it is served."""
        self._call(lambda: self._engine.settle_volume(uuid))

    def close_volume(self, uuid: str, moved_to: str | None = None) -> bool:
        """Close an open volume; whether everything of it is on the backend.

        :param moved_to: "ADDRESS:PORT" where its Edges are told to look for it
        """
        return self._call(lambda: self._engine.close_volume(uuid, moved_to))

    def delete_volume(self, uuid: str) -> None:
        """Delete a volume's log and objects, open or not; a missing one is already deleted."""
        self._unless_unknown(lambda: self._engine.delete_volume(uuid))

    def resize_volume(self, uuid: str, size: int) -> None:
        """Grow an open volume to ``size`` bytes."""
        self._call(lambda: self._engine.resize_volume(uuid, size))

    def create_snapshot(self, uuid: str, snapshot: str) -> None:
        """Take a snapshot of an open volume."""
        self._call(lambda: self._engine.create_snapshot(uuid, snapshot))

    def delete_snapshot(self, uuid: str, snapshot: str) -> None:
        """Forget a snapshot; one that is not there is already deleted."""
        self._unless_unknown(lambda: self._engine.delete_snapshot(uuid, snapshot))

    def revert_volume(self, uuid: str, snapshot: str) -> None:
        """Make an open volume's content that of its snapshot; repeating it is harmless."""
        self._call(lambda: self._engine.revert_volume(uuid, snapshot))

    def export_nbd(self, uuid: str, name: str) -> str:
        """Serve an open volume in this process; returns the socket's path."""
        return self._call(lambda: self._engine.export_nbd(uuid, name))

    def unexport_nbd(self, uuid: str) -> None:
        """Stop serving an open volume in this process."""
        self._call(lambda: self._engine.unexport_nbd(uuid))

    def shut_out(self, uuid: str, generation: int) -> None:
        """Shut out earlier generations of an open volume's attachments; returns when nothing of
        them can happen any more."""
        self._call(lambda: self._engine.shut_out(uuid, generation))

    def set_qos(self, uuid: str, limits: Mapping[str, float]) -> None:
        """Limit an open volume; what ``limits`` does not name is unlimited."""
        self._call(lambda: self._engine.set_qos(uuid, json.dumps(dict(limits))))

    def snapshot_group(self, members: Sequence[tuple[str, str]]) -> None:
        """Take snapshots (volume, snapshot: UUIDs) of several open volumes at one instant."""
        self._call(lambda: self._engine.snapshot_group(json.dumps([list(m) for m in members])))

    def diff_snapshots(
        self, uuid: str, from_snapshot: str | None, to_snapshot: str
    ) -> list[list[int]]:
        """Extents [offset, length] (bytes) in which two snapshots may differ, in order.

        :param from_snapshot: None for all that was ever written up to ``to_snapshot``
        """
        text = self._call(lambda: self._engine.diff_snapshots(uuid, from_snapshot, to_snapshot))
        extents: list[list[int]] = json.loads(text)
        return extents

    def describe_preset(self, preset: Mapping[str, Any]) -> dict[str, Any]:
        """A preset with what each of its policies promises; refused when it makes no sense."""
        return self._object(lambda: self._engine.describe_preset(json.dumps(preset)))

    def judge_preset(
        self, preset: Mapping[str, Any], cluster: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Which policy of a preset a cluster satisfies, and why not those before it."""
        texts = json.dumps(preset), json.dumps(cluster)
        return self._object(lambda: self._engine.judge_preset(*texts))

    def shipped_presets(self) -> list[dict[str, Any]]:
        """The presets that come with the program."""
        presets: list[dict[str, Any]] = json.loads(self._call(self._engine.shipped_presets))
        return presets

    def osd_roll(self, address: str) -> list[dict[str, Any]]:
        """What the OSD server at an address serves: osd, domain, node and role of each."""
        osds: list[dict[str, Any]] = json.loads(self._call(lambda: self._engine.osd_roll(address)))
        return osds

    def set_osds(self, osds: Sequence[OsdSpec]) -> None:
        """Store objects on these as well, as they stand; one that is missing stays as it is."""
        text = json.dumps([asdict(osd) for osd in osds])
        self._call(lambda: self._engine.set_osds(text))

    def set_caches(self, osds: Sequence[OsdSpec]) -> None:
        """Read through these, the cache tier of this node's Domain, and no others."""
        text = json.dumps([asdict(osd) for osd in osds])
        self._call(lambda: self._engine.set_caches(text))

    def osd_releases(self) -> dict[str, str]:
        """Of each OSD that is reached the release of its server, "" if it tells none; by UUID."""
        releases: dict[str, str] = json.loads(self._call(self._engine.osd_releases))
        return releases

    def osd_states(self) -> list[dict[str, Any]]:
        """Of each OSD of the backend and its cache tier: osd, reachable, why, total and free; and
        of which release its server is: "" if it tells none, None if it is not reached."""
        states: list[dict[str, Any]] = json.loads(self._call(self._engine.osd_states))
        return states

    def set_upkeep(self, orders: Orders) -> None:
        """Look after the erasure-coded backend like this from now on."""
        self._call(lambda: self._engine.set_upkeep(json.dumps(asdict(orders))))

    def start_upkeep(self, kind: str) -> None:
        """Do it now: ``repair`` or ``scrub``."""
        self._call(lambda: self._engine.start_upkeep(kind))

    def upkeep(self) -> dict[str, Any] | None:
        """What the upkeep has seen and done; None when the backend is a folder of objects."""
        answer: dict[str, Any] | None = json.loads(self._call(self._engine.upkeep))
        return answer

    def set_dtl(self, uuid: str, dtl: DtlSpec | None) -> None:
        """Pair an open volume with another DTL node, as the registry says already."""
        text = json.dumps(None if dtl is None else asdict(dtl))
        self._call(lambda: self._engine.set_dtl(uuid, text))

    def set_followers(
        self, uuid: str, followers: Sequence[FollowerAt], parent: Parent | None
    ) -> None:
        """Have nodes follow an open volume's map, and no others."""
        spec = {
            "followers": [asdict(one) for one in followers],
            "parent": None if parent is None else asdict(parent),
        }
        self._call(lambda: self._engine.set_followers(uuid, json.dumps(spec)))

    def retain_followed(self, uuids: Sequence[str]) -> None:
        """Forget the maps of other nodes' volumes, but for these."""
        self._call(lambda: self._engine.retain_followed(json.dumps(list(uuids))))

    def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        """The next thing that the engine wants to have decided or known; None after the timeout."""
        text = self._call(lambda: self._engine.next_event(timeout_s))
        if text is None:
            return None
        event: dict[str, Any] = json.loads(text)
        return event

    def event_stands(self, ident: int) -> bool:
        """Whether an event's question is of interest still: the volume was not paired anew."""
        return self._call(lambda: self._engine.event_stands(ident))

    def answer_event(self, ident: int, accepted: bool) -> None:
        """Whether the registry has recorded what an event asked for."""
        self._call(lambda: self._engine.answer_event(ident, accepted))

    def fetch_tail(self, spec: FetchSpec) -> dict[str, Any]:
        """Fence older epochs at a DTL node and get the tail that it keeps."""
        return self._object(lambda: self._engine.fetch_tail(json.dumps(asdict(spec))))

    def drop_tail(self, uuid: str, epoch: int, address: str) -> None:
        """Have a DTL node forget a volume."""
        text = json.dumps({"uuid": uuid, "epoch": epoch, "address": address})
        self._call(lambda: self._engine.drop_tail(text))

    def clear_buffer(self, uuid: str) -> None:
        """Remove what the write buffer has of a volume that is not open."""
        self._call(lambda: self._engine.clear_buffer(uuid))

    def extend_lease(self, until_s: float, term: int) -> None:
        """Until then nobody else can own what is open here.

        :param until_s: by the clock that counts since the machine's boot (``CLOCK_BOOTTIME``)
        :param term: another one when the lease was over: what was opened before stops
        """
        end_ns = max(0, int(until_s * 1e9))
        self._call(lambda: self._engine.extend_lease(end_ns, term))

    def status(self) -> dict[str, Any]:
        """Counters of every open volume and the engine's findings."""
        return self._object(self._engine.status)

    def shutdown(self, drain: bool) -> None:
        """Stop; with ``drain``, first move what the write buffer holds to the backend."""
        self._call(lambda: self._engine.shutdown(drain))

    def _call(self, call: Callable[[], _Result]) -> _Result:
        try:
            return call()
        except self._error as failure:
            raise VStorageError.from_native(*failure.args) from failure

    def _object(self, call: Callable[[], str]) -> dict[str, Any]:
        answer = json.loads(self._call(call))
        if not isinstance(answer, dict):
            raise TypeError(f"the engine answered {type(answer).__name__} instead of an object")
        return answer

    def _unless_unknown(self, call: Callable[[], None]) -> None:
        try:
            self._call(call)
        except VStorageError as failure:
            if failure.code not in _ABSENT:
                raise
