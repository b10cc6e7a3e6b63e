"""The cache tier: OSDs of role cache between volumes and disks, killed, stopped and damaged."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.client import Client
from tests.crash.journal import SECTOR_BYTES, Journal
from tests.functional.test_alba import VOLUME
from tests.functional.test_osd_servers import Lab, cluster_of, member
from tests.support.nbdwire import NBD_CMD_WRITE, Wire
from tests.support.osds import CLUSTER, Osds, OsdServer
from tests.support.waiting import wait_until

SIZE = 8 << 20
PAGE = 4096
BLOCK = 64 << 10
PART = 32 << 10


class Site:
    """Nine OSDs for capacity, two for the cache of Domain dc0, and an engine of that Domain."""

    def __init__(self, base: Path, osds: Osds) -> None:
        self.base, self.osds = base, osds
        self.lab = Lab(base, osds)
        self.caches = [cache(osds, CLUSTER, number) for number in range(2)]

    def start(self) -> Path:
        """Open the volume from the OSDs alone, through the cache; its socket."""
        engine = self.lab.start()
        engine.set_caches(json.dumps([server.spec() for server in self.caches]))
        wait_until(lambda: not self.away(), "caches within reach", self.away)
        return self.lab.open(SIZE)

    def away(self) -> list[str]:
        """Cache OSDs that the engine cannot reach."""
        return [one["osd"] for one in self.figures()["osds"] if not one["reachable"]]

    def figures(self) -> dict[str, Any]:
        """What the cache tier has done."""
        assert self.lab.engine is not None
        figures: dict[str, Any] = json.loads(self.lab.engine.upkeep())["cache"]
        return figures

    def of_osds(self, name: str) -> int:
        """A figure of all cache OSDs."""
        return sum(int(one.get(name, 0)) for one in self.figures()["osds"])

    def from_capacity(self) -> int:
        """Bytes of fragments that capacity OSDs gave and took."""
        assert self.lab.engine is not None
        wire = json.loads(self.lab.engine.upkeep())["wire"]
        return sum(int(one["fragments"]) for one in wire.values())

    def stop(self) -> None:
        """End the engine, then the caches."""
        self.lab.stop()
        for server in self.caches:
            server.kill9()


def cache(osds: Osds, cluster: str, number: int, **how: int) -> OsdServer:
    """A running OSD of role cache in the first Domain."""
    server = OsdServer(osds.root, osds.key, cluster, "dc0", f"flash{number}", "cache")
    for name, value in how.items():
        setattr(server, name, value)
    server.start()
    return server


@pytest.fixture
def site() -> Iterator[Site]:
    base = Path(tempfile.mkdtemp(prefix="ovs-"))
    with Osds(base / "osds") as osds:
        made = Site(base, osds)
        yield made
        made.stop()
    shutil.rmtree(base)


def filled(site: Site) -> bytes:
    """A volume that is on the OSDs only; its content."""
    site.lab.create(SIZE)
    content = random.Random(1).randbytes(SIZE)
    with Wire(site.lab.open(SIZE)) as wire:
        wire.go(VOLUME)
        for at in range(0, SIZE, BLOCK):
            part = content[at : at + BLOCK]
            assert wire.command(NBD_CMD_WRITE, at, len(part), data=part) == 0
    site.lab.forget()
    return content


def read_through(wire: Wire, content: bytes) -> None:
    """Every 4 KiB, in an order of its own."""
    order = list(range(0, SIZE, PAGE))
    random.Random(2).shuffle(order)
    for at in order:
        assert wire.read(at, PAGE) == content[at : at + PAGE], f"at {at}"


def warm(site: Site, wire: Wire, content: bytes) -> None:
    """Read each part until the cache gives all of it, and no byte comes from capacity OSDs.

    Where much else goes on, an answer of the cache may be too late.
    """
    for part in range(0, SIZE, PART):

        def alone(part: int = part) -> bool:
            bytes_before, before = site.from_capacity(), site.figures()
            for at in range(part, part + PART, PAGE):
                assert wire.read(at, PAGE) == content[at : at + PAGE], f"at {at}"
            after = site.figures()
            hit = after["hits"] - before["hits"] >= PART // PAGE
            others = ("misses", "late", "passed", "damaged")
            alone = all(after[name] == before[name] for name in others)
            return hit and alone and site.from_capacity() == bytes_before

        wait_until(alone, "part that the cache gives alone", site.figures)


def test_what_was_read_comes_from_the_cache_of_the_domain(site: Site) -> None:
    content = filled(site)
    with Wire(site.start()) as wire:
        wire.go(VOLUME)
        warm(site, wire, content)
    assert site.of_osds("bytes") >= SIZE
    for server in site.caches:
        assert f"serves cache OSD {server.uuid} in {server.folder}" in server.text()
    # Whoever serves the volume next finds it warm.
    site.lab.forget()
    with Wire(site.start()) as wire:
        wire.go(VOLUME)
        warm(site, wire, content)
        # But for what is read while it is opened.
        assert site.figures()["fills"] < SIZE // BLOCK // 4


def test_caches_are_killed_and_stopped_while_volumes_are_read(site: Site) -> None:
    content = filled(site)
    with Wire(site.start()) as wire:
        wire.go(VOLUME)
        warm(site, wire, content)
        first, second = site.caches
        first.kill9()
        read_through(wire, content)
        wait_until(lambda: site.away() == [first.uuid], "loss that is seen", site.away)
        warm(site, wire, content)
        first.start()
        second.pause()
        try:
            read_through(wire, content)
        finally:
            second.resume()
        wait_until(
            lambda: not site.away(),
            "return of both",
            site.away,
            lambda: read_through(wire, content),
        )
        warm(site, wire, content)
        for server in site.caches:
            server.kill9()
        read_through(wire, content)


def test_a_journalled_client_sees_no_old_bytes_through_the_cache(site: Site) -> None:
    site.lab.create(SIZE)
    client = Client(Journal(SIZE // SECTOR_BYTES), seed=5)
    client.connect(site.lab.open(SIZE), VOLUME)
    client.write_all()
    chaos = random.Random(5)
    for round_ in range(4):
        client.disconnect()
        site.lab.forget()
        client.connect(site.start(), VOLUME)
        client.verify()
        victim = chaos.choice(site.caches)
        client.run(200)
        victim.kill9()
        client.run(200)
        victim.start()
        if round_ % 2:
            wait_until(
                lambda: not site.away(), "return of the cache", site.away, lambda: client.run(1)
            )
        client.settle()
        client.verify()
    client.disconnect()


def test_flipped_bytes_of_the_cache_are_never_given(site: Site) -> None:
    content = filled(site)
    with Wire(site.start()) as wire:
        wire.go(VOLUME)
        warm(site, wire, content)
        for server in site.caches:
            path = server.folder / "cache.blocks"
            with path.open("r+b") as file:
                data = bytearray(file.read())
                assert len(data) >= BLOCK
                for at in range(17, len(data), PAGE):
                    data[at] ^= 8
                file.seek(0)
                file.write(data)
        read_through(wire, content)
        assert site.of_osds("damaged") > 0
        # What was damaged was brought again.
        warm(site, wire, content)


def test_a_cache_without_room_is_no_matter(site: Site) -> None:
    content = filled(site)
    full, small = site.caches
    full.kill9()
    full.reserve = 1 << 60
    full.start()
    small.kill9()
    small.cache_size = 10 * BLOCK
    small.start()
    with Wire(site.start()) as wire:
        wire.go(VOLUME)

        def both_met_their_limits() -> bool:
            read_through(wire, content)
            return site.of_osds("refused") > 0 and site.of_osds("evicted") > 0

        wait_until(both_met_their_limits, "block that is refused or evicted", site.figures)
        used = {one["osd"]: one["bytes"] for one in site.figures()["osds"]}
        assert used == {full.uuid: 0, small.uuid: 10 * BLOCK}


def test_daemons_use_the_caches_of_their_domain() -> None:
    base = Path(tempfile.mkdtemp(prefix="ovs-"))
    try:
        with member(base, "a") as near:
            near.start_daemon()
            daemon = near.daemon
            assert daemon is not None
            with Osds(base / "osds", cluster_of(near)) as osds:
                (home,) = (one["domain"] for one in near.cli("node", "list"))
                flash = OsdServer(osds.root, osds.key, cluster_of(near), home, "f", "cache")
                far = OsdServer(osds.root, osds.key, cluster_of(near), "dc2", "g", "cache")
                for server in [*osds.servers.values(), flash, far]:
                    if server in (flash, far):
                        server.start()
                    near.cli("osd", "add", server.address)

                def cache_tier() -> Any:
                    return near.cli("alba", "status")["cache"]

                def is_reached() -> bool:
                    return bool(cache_tier()) and all(
                        one["reachable"] for one in cache_tier()["osds"]
                    )

                try:
                    daemon.wait_until(is_reached, "a cache tier")
                    assert [one["osd"] for one in cache_tier()["osds"]] == [flash.uuid]
                    rows = {one["uuid"]: one for one in near.cli("osd", "list")}
                    assert rows[flash.uuid]["role"] == "cache"
                    assert rows[flash.uuid]["reachable"] is True
                    assert rows[flash.uuid]["size"] > 0
                    # Another Domain's: known, and nothing for this node.
                    assert rows[far.uuid]["reachable"] is None
                    policy = ("--policy", "4+2,c=5,x=1,domains=3,local=1")
                    how = ("--sco-size", "1M", "--cache-on-write")
                    assert near.cli("preset", "create", "warm", *policy, *how)["cache_on_write"]
                    near.cli("volume", "create", "vol", str(SIZE), "--preset", "warm")
                    client = Client(Journal(SIZE // SECTOR_BYTES), seed=6)
                    client.connect(*near.attach("vol", direct=True))
                    client.write_all()
                    client.run(100)
                    client.settle()

                    def arrived() -> bool:
                        client.run(1)
                        return bool(cache_tier()["osds"][0]["bytes"] >= 1 << 20)

                    daemon.wait_until(arrived, "what was written in the cache")
                    client.settle()
                    client.verify()
                    client.disconnect()
                finally:
                    flash.kill9()
                    far.kill9()
    finally:
        shutil.rmtree(base)
