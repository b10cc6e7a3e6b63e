"""What a real daemon tells Prometheus, on its default backend, with and without the Edge."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import libnbd
from tests.support.node import Node
from tests.support.scrape import Scrape, scrape
from tests.support.sockets import free_port

nbd = libnbd.load()
STEP, STEPS = 64 << 10, 96


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def node(port: int) -> Iterator[Node]:
    options = {"metrics": {"listen": f"127.0.0.1:{port}"}}
    with Node({"sco_size": "1MiB"}, options=options, coded=True) as made:
        made.start()
        yield made


def connect(socket: Path, export: str) -> Any:
    client = nbd.NBD()
    client.set_export_name(export)
    client.connect_unix(str(socket))
    return client


def use(node: Node) -> None:
    """Writes, flushes and reads, all answered when it returns."""
    client = connect(*node.attach("web1"))
    for number in range(STEPS):
        client.pwrite(bytes([number]) * STEP, number * STEP)
    client.flush()
    for number in range(0, STEPS, 2):
        assert client.pread(STEP, number * STEP) == bytes([number]) * STEP
    client.shutdown()


def test_a_daemon_tells_what_it_has_done(node: Node, port: int) -> None:
    node.create("web1", 64 << 20)
    found = scrape(port)
    assert found("node_info", domain="default") == found("registry_up") == found("edge_up") == 1
    assert found("volume_writes_total", name="web1") == 0
    use(node)
    found = scrape(port)
    assert found("volume_written_bytes_total", name="web1") == STEP * STEPS
    assert found("volume_writes_total", name="web1") == STEPS
    assert found("volume_read_bytes_total", name="web1") == STEP * STEPS / 2
    assert found("volume_flushes_total", name="web1") >= 1
    # One after the other: none can have been there before this process was.
    for figure in ("volume_read_seconds_total", "volume_write_seconds_total"):
        assert 0 < found(figure, name="web1") < uptime(found), figure
    assert found("volume_state", name="web1", state="ok") == 1
    assert found("volume_role", name="web1", role="owner") == 1
    assert found("edge_sessions", state="serving") == 1
    assert found("edge_requests_in_flight", name="web1") == 0
    assert 0 < found("backend_free_bytes") < found("backend_size_bytes")


def uptime(found: Scrape) -> float:
    """Seconds from the start of the daemon to now."""
    started = next(
        value for (name, _), value in found.samples.items() if name == "process_start_time_seconds"
    )
    return time.time() - started


def test_objects_and_osds_are_counted_and_lost_ones_noticed(node: Node, port: int) -> None:
    node.create("web1", 64 << 20)
    use(node)
    node.cli("volume", "detach", "web1")
    node.cli("alba", "repair")
    found = scrape(port)
    osds = [key for key in found.samples if key[0] == "vstorage_osd_up"]
    assert len(osds) == 9
    assert all(found.samples[key] == 1 for key in osds)
    assert found("alba_objects") > 0
    assert found("alba_objects_unknown") == found("alba_fragments_missing") == 0
    # 4+2 over three Domains with one local each: any three may go.
    assert found("alba_objects_by_safety", losses="3") == found("alba_objects")
    lost = sorted((node.root / "state" / "alba").glob("*/*"))[0]
    lost.rename(lost.with_name("away"))
    node.cli("alba", "repair")
    found = scrape(port)
    assert found("osd_up", name=str(lost)) == 0
    assert found("alba_fragments_missing") > 0
    assert found("findings", code="osd_missing", severity="warning") == 1


def test_the_edge_may_be_away_and_the_page_is_off_unless_asked_for(node: Node, port: int) -> None:
    node.create("web1", 64 << 20)
    node.attach("web1")
    node.kill9_edge()
    daemon = node.daemon
    assert daemon is not None
    daemon.wait_until(lambda: scrape(port)("edge_up") == 0, "the Edge to be missed")
    assert scrape(port)("findings", code="edge_unavailable", severity="critical") == 1
    node.kill9_daemon()
    node.config.write_text(
        node.config.read_text().replace("[metrics]\nlisten", "[metrics]\n#listen")
    )
    node.start_daemon()
    with pytest.raises(urllib.error.URLError, match="refused"):
        scrape(port)
