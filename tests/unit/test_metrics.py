"""Figures for Prometheus as a program reads them; the page and the alerts name what there is."""

from __future__ import annotations

import re
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovs_daemon.errors import VStorageError
from ovs_daemon.metrics.families import families
from ovs_daemon.metrics.figures import Figures, Gatherer
from ovs_daemon.metrics.server import MetricsServer
from tests.support.house import House
from tests.support.scrape import scrape

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "etc" / "prometheus" / "vstorage.rules.yml"
PAGE = ROOT / "doc" / "operating.md"
UUID = "00000000-0000-4000-8000-000000000001"
WORK = {"fragments": 3, "damaged": 1, "bytes": 4096, "bytes_between_domains": 0}
FULL = Figures(
    node="node1",
    release="1.0",
    domain="room1",
    engine={
        "volumes": [
            {
                "uuid": UUID, "size": 1 << 30, "mapped_bytes": 8192, "map_ram_bytes": 100,
                "buffer_bytes": 4096, "scos_uploading": 0, "snapshots": 1, "reads": 7, "writes": 5,
                "trims": 1, "flushes": 2, "read_bytes": 28672, "write_bytes": 20480,
                "read_time_us": 1500, "write_time_us": 2_000_000, "checksum_errors": 0,
                "moved_bytes": 0, "throttle_us": 250, "requests_waiting": 0, "requests_delayed": 4,
                "state": "throttled",
                "dtl": {"state": "degraded", "connected": False, "lag_bytes": 9, "lag_batches": 1},
                "followers": [
                    {"node": "node2", "state": "following", "lag_bytes": 1, "lag_batches": 2}
                ],
            }
        ],
        "followed": [{"uuid": "other", "mapped_bytes": 4096, "map_ram_bytes": 8}],
        "dtl_server": {"address": "192.0.2.1:6630", "volumes": 2, "bytes": 77},
        "buffer_free_bytes": 1, "buffer_total_bytes": 2,
        "backend_free_bytes": 3, "backend_total_bytes": 4,
        "sealed": {"plain_bytes": 5, "stored_bytes": 6},
    },
    upkeep={
        "doing": "repairing", "done": 1, "of": 2, "surveys": 3, "repairs": 1, "scrubs": 0,
        "rebalances": 2, "rebalanced": {**WORK, "trimmed": 3}, "spread": {"dc1": 0.25},
        "surveyed_at": 1000, "scrubbed_at": 0, "objects": 9, "by_safety": {"3": 7, "10": 2},
        "unknown": 0, "missing": 4, "to_mend": 2, "repaired": WORK, "scrubbed": WORK,
        "collected": 0,
        "cache": {
            "hits": 12, "hit_bytes": 4096,
            "osds": [{"osd": "c", "name": "/srv/c", "reachable": True, "hits": 20, "size": 9,
                      "bytes": 8}],
        },
        "wire": {"dc1": {"sent": 10, "received": 20, "fragments": 25}},
    },
    osds=[
        {"osd": "a", "name": "/srv/a", "reachable": True, "why": None, "total": 100, "free": 60},
        {"osd": "b", "name": "/srv/b", "reachable": False, "why": "gone", "total": None,
         "free": None},
    ],
    findings=[
        {"severity": "critical", "code": "node_dead"},
        {"severity": "critical", "code": "node_dead"},
    ],
    nodes={"node1": True, "node2": False},
    sessions=[
        {"volume": UUID, "name": "web1", "state": "serving", "in_flight": 2},
        {"volume": "other", "name": "web2", "state": "waiting", "in_flight": 0},
    ],
    names={UUID: "web1"},
)  # fmt: skip


def serve(gather: Any) -> Iterator[int]:
    server = MetricsServer(gather, "127.0.0.1:0")
    server.start()
    yield server.port
    server.stop()


@pytest.fixture
def house() -> House:
    """A host of twins."""
    return House()


@pytest.fixture
def full() -> Iterator[int]:
    """A server that has everything to tell; its port."""
    yield from serve(lambda: FULL)


def test_everything_is_told_in_base_units(full: int) -> None:
    found = scrape(full)
    volume = {"volume": UUID, "name": "web1"}
    assert found("volume_reads_total", **volume) == 7
    assert found("volume_read_seconds_total", **volume) == 0.0015
    assert found("volume_write_seconds_total", **volume) == 2.0
    assert found("volume_throttle_seconds", **volume) == 0.00025
    assert found("volume_state", state="throttled", **volume) == 1
    assert found("volume_state", state="ok", **volume) == 0
    assert found("volume_dtl_state", state="degraded") == 1
    assert found("volume_dtl_connected", **volume) == 0
    assert found("volume_role", role="owner") == found("volume_role", role="follower") == 1
    assert found("volume_mapped_bytes", volume="other") == 4096
    assert found("volume_follower_lag_batches", follower="node2") == 2
    assert found("dtl_kept_bytes") == 77
    assert found("alba_objects_by_safety", losses="10") == 2
    assert found("alba_moved_bytes_total", work="repair") == 4096
    assert found("alba_wire_bytes_total", domain="dc1", direction="received") == 20
    assert found("alba_doing", state="repairing") == 1
    assert found("alba_runs_total", work="rebalance") == 2
    assert found("alba_trimmed_fragments_total") == 3
    assert found("alba_fullness_spread_ratio", domain="dc1") == 0.25
    assert found("osd_used_bytes", osd="a") == 40
    assert found("osd_up", osd="b") == 0
    assert found("cache_hits_total") == 12
    assert found("cache_osd_hits_total", name="/srv/c") == 20
    assert found("cache_osd_used_bytes", osd="c") == 8
    assert found("findings", severity="critical", code="node_dead") == 2
    assert found("node_alive", node="node2") == 0
    assert found("edge_sessions", state="waiting") == 1
    assert found("edge_requests_in_flight", name="web1") == 2
    assert found.types["vstorage_volume_reads"] == "counter"
    assert found.types["vstorage_volume_size_bytes"] == "gauge"
    # What an OSD out of reach does not tell, is not made up.
    assert not [key for key in found.samples if "osd_size" in key[0] and ("osd", "b") in key[1]]
    assert "process_resident_memory_bytes" in found.names()


def test_there_is_one_path(full: int) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(full, "/")


@pytest.mark.parametrize("listen", ["9750", "here:", "127.0.0.1:http", "127.0.0.1:99999", "9.9:9"])
def test_a_wrong_address_is_refused(listen: str) -> None:
    with pytest.raises(VStorageError, match=r"\[metrics\] listen"):
        MetricsServer(lambda: FULL, listen)


def test_an_address_that_is_taken_is_refused(full: int) -> None:
    with pytest.raises(VStorageError, match="in use"):
        MetricsServer(lambda: FULL, f"127.0.0.1:{full}")


def test_a_node_without_registry_and_edge_tells_the_rest(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    gatherer = Gatherer(house.host)
    house.edge.reachable = True
    whole = gatherer.gather()
    assert (whole.findings, whole.sessions, whole.nodes) == ([], [], {"node1": True})

    def away() -> None:
        raise VStorageError("registry", "read", "it is away", "wait")

    monkeypatch.setattr(house.host.store, "nodes", away)
    house.edge.reachable = False
    for server in serve(gatherer.gather):
        found = scrape(server)
        assert found("registry_up") == found("edge_up") == 0
        assert found("buffer_free_bytes") == 1 << 30
        assert "vstorage_findings" not in found.names()
    monkeypatch.undo()


def test_findings_are_those_of_the_status(house: House) -> None:
    house.engine.findings.append(
        {"code": "BUFFER_FULL", "severity": "critical", "object": "x", "why": "y", "fix": "z"}
    )
    gathered = Gatherer(house.host).gather()
    assert [one["code"] for one in gathered.findings or []] == ["buffer_full"]
    house.engine.findings.clear()


def all_names() -> set[str]:
    """Every sample's name, without what the cache tier calls its own."""
    names = {sample.name for family in families(FULL) for sample in family.samples}
    return {name for name in names if not name.startswith("vstorage_cache_")}


def test_the_page_lists_every_figure() -> None:
    listed = set(re.findall(r"^\| `(vstorage_\w+)", PAGE.read_text(), re.MULTILINE))
    assert listed == all_names()


def test_alerts_ask_for_what_there_is() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 0
    for rule in rules:
        asked = set(re.findall(r"vstorage_\w+", rule["expr"]))
        assert asked, rule["alert"]
        assert asked <= all_names(), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "action"}
