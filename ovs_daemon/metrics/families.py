"""Figures as families of metrics, as Prometheus names things: base units, `_total` for what grows.

`doc/operating.md` lists the names. What is null or missing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from ovs_daemon.metrics.figures import Figures

PREFIX = "vstorage_"
_MICRO = 1e-6


@dataclass(frozen=True)
class Column:
    """A number of an object of figures, and what it is called.

    :param grows: since a start, of the daemon or of what it counts; else it is how it is now
    :param scale: by which the number is multiplied to be in base units
    """

    key: str
    name: str
    help: str
    grows: bool = False
    scale: float = 1


VOLUME = (
    Column("size", "volume_size_bytes", "What guests see."),
    Column("mapped_bytes", "volume_mapped_bytes", "What was written and not trimmed."),
    Column("map_ram_bytes", "volume_map_memory_bytes", "Memory of its LBA map."),
    Column("buffer_bytes", "volume_buffer_bytes", "Its part of the write buffer."),
    Column("scos_uploading", "volume_scos_uploading", "Closed SCOs not on the backend yet."),
    Column("snapshots", "volume_snapshots", "Snapshots of it."),
    Column("reads", "volume_reads_total", "Reads.", True),
    Column("writes", "volume_writes_total", "Writes.", True),
    Column("trims", "volume_trims_total", "Trims and write-zeroes.", True),
    Column("flushes", "volume_flushes_total", "Flushes.", True),
    Column("read_bytes", "volume_read_bytes_total", "Bytes read by its users.", True),
    Column("write_bytes", "volume_written_bytes_total", "Bytes written by its users.", True),
    Column("read_time_us", "volume_read_seconds_total",
           "Time of all reads together, in the engine.", True, _MICRO),
    Column("write_time_us", "volume_write_seconds_total",
           "Time of all writes, trims and flushes together, in the engine.", True, _MICRO),
    Column("checksum_errors", "volume_checksum_errors_total",
           "Clusters that did not match their checksum.", True),
    Column("moved_bytes", "volume_compacted_bytes_total", "Bytes moved by compaction.", True),
    Column("throttle_us", "volume_throttle_seconds",
           "How long each 4 KiB written is held back.", scale=_MICRO),
    Column("requests_waiting", "volume_requests_waiting", "Requests that limits hold back."),
    Column("requests_delayed", "volume_requests_delayed_total",
           "Requests that limits have held back.", True),
)  # fmt: skip
DTL = (
    Column("connected", "volume_dtl_connected", "Whether its keeper is connected."),
    Column("lag_bytes", "volume_dtl_lag_bytes", "What the keeper has not acknowledged."),
    Column("lag_batches", "volume_dtl_lag_batches", "The same in batches."),
)
FOLLOWER = (
    Column("lag_bytes", "volume_follower_lag_bytes", "Headers that the follower lacks."),
    Column("lag_batches", "volume_follower_lag_batches", "Batches that the follower lacks."),
)
FOLLOWED = (
    Column("mapped_bytes", "volume_mapped_bytes", VOLUME[1].help),
    Column("map_ram_bytes", "volume_map_memory_bytes", VOLUME[2].help),
)
KEEPER = (
    Column("volumes", "dtl_kept_volumes", "Volumes of other nodes whose logs are kept here."),
    Column("bytes", "dtl_kept_bytes", "Bytes of these logs."),
)
NODE = (
    Column("buffer_free_bytes", "buffer_free_bytes", "Room on the write buffer's disk."),
    Column("buffer_total_bytes", "buffer_size_bytes", "Size of the write buffer's disk."),
    Column("backend_free_bytes", "backend_free_bytes", "Data that the backend can still take."),
    Column("backend_total_bytes", "backend_size_bytes", "Data that the backend could take empty."),
)
SEALED = (
    Column("plain_bytes", "sealed_plain_bytes_total",
           "Data compressed or encrypted before it was cut into fragments.", True),
    Column("stored_bytes", "sealed_stored_bytes_total", "What became of it.", True),
)  # fmt: skip
UPKEEP = (
    Column("objects", "alba_objects", "Objects at the last look."),
    Column("unknown", "alba_objects_unknown", "Objects of which it cannot be told."),
    Column("to_mend", "alba_objects_to_mend", "Objects that lack fragments."),
    Column("missing", "alba_fragments_missing", "Fragments that these lack."),
    Column("surveys", "alba_surveys_total", "Looks at all objects that ended.", True),
    Column("surveyed_at", "alba_survey_timestamp_seconds", "When the last one ended; 0: never."),
    Column("scrubbed_at", "alba_scrub_timestamp_seconds", "When the last scrub ended; 0: never."),
    Column("collected", "alba_collected_fragments_total",
           "Fragments of puts that were cut off, removed.", True),
)  # fmt: skip
WORK = (
    Column("fragments", "alba_fragments_stored_total", "Fragments computed and stored.", True),
    Column("damaged", "alba_fragments_damaged_total", "Fragments found damaged.", True),
    Column("bytes", "alba_moved_bytes_total", "Bytes read and stored for it.", True),
    Column("bytes_between_domains", "alba_between_domains_bytes_total",
           "Of these, bytes that went from one Domain to another.", True),
)  # fmt: skip
OSD = (
    Column("reachable", "osd_up", "Whether this node reaches it."),
    Column("total", "osd_size_bytes", "Size of its disk."),
    Column("free", "osd_free_bytes", "What may still be stored on it."),
    Column("used", "osd_used_bytes", "What is not free on its disk, its reserve included."),
)
CACHE_ROOM = (
    Column("size", "cache_osd_size_bytes", "What it may keep."),
    Column("bytes", "cache_osd_used_bytes", "What it keeps."),
)
EDGE = (Column("in_flight", "edge_requests_in_flight", "Requests without an answer."),)
_VOLUME_STATES = ("ok", "throttled", "writes_wait", "fenced")
_DTL_STATES = ("in_sync", "catching_up", "degraded", "standalone")
_FOLLOWER_STATES = ("following", "beginning", "unable", "apart")
_EDGE_STATES = ("serving", "waiting", "attaching", "detaching", "no_socket")
_CACHE_STATES = ("size", "bytes", "reachable")
_UPKEEP = ("idle", "looking", "repairing", "scrubbing", "rebalancing")
_WORKS = (
    ("repair", "repaired", "repairs"),
    ("scrub", "scrubbed", "scrubs"),
    ("rebalance", "rebalanced", "rebalances"),
)


class Page:
    """Families by name, in the order in which they are first mentioned."""

    def __init__(self) -> None:
        # Each is of a class that takes metrics one by one, which the base class does not say.
        self._families: dict[str, Any] = {}

    def families(self) -> Iterator[Metric]:
        """All of them."""
        return iter(self._families.values())

    def put(self, name: str, help_: str, value: Any, /, **labels: str) -> None:
        """A number as it is now; None is left out."""
        self._add(GaugeMetricFamily, name, help_, value, labels)

    def count(self, name: str, help_: str, value: Any, /, **labels: str) -> None:
        """A number that grows; the name ends with ``_total``."""
        self._add(CounterMetricFamily, name, help_, value, labels)

    def state(
        self, name: str, help_: str, states: Sequence[str], value: Any, /, **labels: str
    ) -> None:
        """1 for the state that holds, 0 for the others."""
        for state in states:
            self.put(name, help_, state == value, **labels, state=state)

    def row(self, columns: Sequence[Column], figures: dict[str, Any], /, **labels: str) -> None:
        """The numbers of an object."""
        for column in columns:
            value = figures.get(column.key)
            if value is not None:
                add = self.count if column.grows else self.put
                add(column.name, column.help, value * column.scale, **labels)

    def _add(self, kind: Any, name: str, help_: str, value: Any, labels: dict[str, str]) -> None:
        if value is None:
            return
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = kind(PREFIX + name, help_, labels=tuple(labels))
        family.add_metric(tuple(labels.values()), float(value))


def families(figures: Figures) -> Iterator[Metric]:
    """All families."""
    page = Page()
    _node(page, figures)
    _volumes(page, figures)
    _upkeep(page, figures.upkeep)
    _osds(page, figures.osds)
    _cache(page, (figures.upkeep or {}).get("cache"))
    _edge(page, figures.sessions)
    return page.families()


def _node(page: Page, figures: Figures) -> None:
    page.put("node_info", "What this node is; always 1.", 1, node=figures.node,
             domain=figures.domain or "", release=figures.release)  # fmt: skip
    page.put("registry_up", "Whether the registry answers.", figures.findings is not None)
    page.put("edge_up", "Whether the Edge of this host answers.", figures.sessions is not None)
    for name, alive in sorted((figures.nodes or {}).items()):
        page.put("node_alive", "Whether a node of the cluster gives signs of life.", alive,
                 node=name)  # fmt: skip
    counts: dict[tuple[str, str], int] = {}
    for finding in figures.findings or ():
        key = (str(finding["severity"]), str(finding["code"]))
        counts[key] = counts.get(key, 0) + 1
    for (severity, code), count in sorted(counts.items()):
        page.put("findings", "What is wrong, by `vstorage status`.", count,
                 severity=severity, code=code)  # fmt: skip
    page.row(NODE, figures.engine)
    page.row(SEALED, figures.engine.get("sealed") or {})
    page.row(KEEPER, figures.engine.get("dtl_server") or {})


def _volumes(page: Page, figures: Figures) -> None:
    for role, listed in (("owner", "volumes"), ("follower", "followed")):
        for volume in figures.engine.get(listed, []):
            uuid = str(volume["uuid"])
            who = {"volume": uuid, "name": figures.names.get(uuid, "")}
            page.put("volume_role", "What this node is for a volume; always 1.", 1, **who,
                     role=role)  # fmt: skip
            if role == "owner":
                _volume(page, volume, who)
            else:
                page.row(FOLLOWED, volume, **who)


def _volume(page: Page, volume: dict[str, Any], who: dict[str, str]) -> None:
    page.row(VOLUME, volume, **who)
    page.state("volume_state", "How it serves.", _VOLUME_STATES, volume.get("state"), **who)
    dtl = volume.get("dtl")
    if dtl is not None:
        page.state("volume_dtl_state", "How complete the log is that another node keeps.",
                   _DTL_STATES, dtl.get("state"), **who)  # fmt: skip
        page.row(DTL, dtl, **who)
    for follower in volume.get("followers") or ():
        node = str(follower["node"])
        page.state("volume_follower_state", "How another node follows the map.",
                   _FOLLOWER_STATES, follower.get("state"), **who, follower=node)  # fmt: skip
        page.row(FOLLOWER, follower, **who, follower=node)


def _upkeep(page: Page, upkeep: dict[str, Any] | None) -> None:
    if upkeep is None:
        return
    page.row(UPKEEP, upkeep)
    for losses, count in sorted(upkeep["by_safety"].items(), key=lambda one: int(one[0])):
        page.put("alba_objects_by_safety", "Objects by how many more disks they can lose.",
                 count, losses=str(losses))  # fmt: skip
    page.state("alba_doing", "What this node does for upkeep.", _UPKEEP, upkeep["doing"])
    for work, done, runs in _WORKS:
        page.count("alba_runs_total", "Runs that ended.", upkeep[runs], work=work)
        page.row(WORK, upkeep[done], work=work)
    page.count("alba_trimmed_fragments_total", "Copies that were there twice, deleted.",
               upkeep["rebalanced"]["trimmed"])  # fmt: skip
    for domain, spread in sorted(upkeep["spread"].items()):
        page.put("alba_fullness_spread_ratio",
                 "How much fuller its fullest disk is than its emptiest one, of their sizes.",
                 spread, domain=domain)  # fmt: skip
    for domain, wire in sorted(upkeep["wire"].items()):
        for way in ("sent", "received"):
            page.count("alba_wire_bytes_total", "Bytes to and from the OSD servers of a Domain.",
                       wire[way], domain=domain, direction=way)  # fmt: skip
        page.count("alba_wire_fragment_bytes_total", "Of both, bytes of fragments.",
                   wire["fragments"], domain=domain)  # fmt: skip


def _osds(page: Page, osds: list[dict[str, Any]]) -> None:
    for osd in osds:
        total, free = osd.get("total"), osd.get("free")
        used = None if total is None or free is None else total - free
        page.row(OSD, {**osd, "used": used}, osd=str(osd["osd"]), name=str(osd["name"]))


def _cache(page: Page, cache: dict[str, Any] | None) -> None:
    """Whatever the engine counts of its cache tier, under the engine's own names."""
    if cache is None:
        return
    for key, value in sorted(cache.items()):
        if isinstance(value, int):
            page.count(f"cache_{key}_total", "Of the cache tier, by this node's reads.", value)
    for osd in cache.get("osds", ()):
        who = {"osd": str(osd["osd"]), "name": str(osd["name"])}
        page.row(CACHE_ROOM, osd, **who)
        for key, value in sorted(osd.items()):
            if isinstance(value, int) and key not in _CACHE_STATES:
                page.count(f"cache_osd_{key}_total", "Of an OSD of the cache tier.", value, **who)


def _edge(page: Page, sessions: list[dict[str, Any]] | None) -> None:
    if sessions is None:
        return
    for state in _EDGE_STATES:
        count = sum(one.get("state") == state for one in sessions)
        page.put("edge_sessions", "Volumes that the Edge has attached.", count, state=state)
    for one in sessions:
        page.row(EDGE, one, volume=str(one["volume"]), name=str(one["name"]))
