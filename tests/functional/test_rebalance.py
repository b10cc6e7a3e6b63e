"""Disks are added to Domains of real OSD servers: fragments move there, each Domain's inside it,
under a verifying client, until all disks are about as full, and then no more.

Each disk is a tmpfs of its own, so the tests need root (as installing does).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ovs_daemon import _native
from tests.crash.client import Client
from tests.crash.journal import SECTOR_BYTES, Journal
from tests.functional.test_alba import VOLUME
from tests.functional.test_osd_servers import ANSWERS
from tests.functional.test_upkeep import ORDERS, SCO, House
from tests.support.disk import disk
from tests.support.osds import Osds, OsdServer

SIZE = 32 << 20
DISK_MIB = 16
NODES = 3
# Of the difference between the fullest and the emptiest disk, as told and as found on the disks.
FROM = 0.1
EQUAL = 0.06
PACE = {"rebalance_bytes_per_s": 1 << 30, "rebalance_from": FROM}


class Estate(House):
    """Its disks have sizes, and there may be more of them later."""

    def __init__(self, stack: ExitStack, base: Path) -> None:
        self.stack = stack
        for domain in range(3):
            for node in range(NODES):
                self.stack.enter_context(disk(base / "osds" / f"dc{domain}-n{node}", DISK_MIB))
        super().__init__(base, stack.enter_context(Osds(base / "osds", nodes=NODES)))

    def grow(self, domain: int) -> None:
        """One node with an empty disk more."""
        root = self.osds.root
        node = len(self.osds.domain(domain))
        self.stack.enter_context(disk(root / f"dc{domain}-n{node}", DISK_MIB))
        key, cluster = self.osds.key, self.osds.cluster
        server = OsdServer(root, key, cluster, f"dc{domain}", f"n{node}")
        self.osds.servers[domain, node] = server
        server.start()
        specs = json.dumps(self.osds.specs())
        for engine in self.engines().values():
            engine.set_osds(specs)

    def engines(self) -> dict[int, _native.Engine]:
        """By the Domain of which each repairs and moves the fragments."""
        assert self.engine is not None
        return {0: self.engine, **self.menders}

    def rebalance(self, domain: int, **pace: Any) -> None:
        """From now on."""
        orders = {**ORDERS, "domains": [f"dc{domain}"], **PACE, **pace}
        self.engines()[domain].set_upkeep(json.dumps(orders))

    def levels(self, domain: int) -> list[float]:
        """How full the disks of a Domain are, the fullest one first."""

        def level(server: OsdServer) -> float:
            stat = os.statvfs(server.folder)
            return 1 - stat.f_bavail / stat.f_blocks

        return sorted(map(level, self.osds.domain(domain)), reverse=True)

    def unequal(self, domain: int) -> float:
        """The difference between its fullest and its emptiest disk."""
        levels = self.levels(domain)
        return levels[0] - levels[-1]

    def doubles(self, domain: int) -> int:
        """How many copies there are of fragments that are on another disk, too."""
        names = [
            fragment.relative_to(server.folder)
            for server in self.osds.domain(domain)
            for fragment in server.fragments()
        ]
        return len(names) - len(set(names))

    def fragments(self, domain: int) -> set[Path]:
        """The files of all fragments in a Domain."""
        return {one for server in self.osds.domain(domain) for one in server.fragments()}

    def moved(self, domain: int) -> int:
        """Fragments that its engine has moved."""
        return int(self.figures(domain)["rebalanced"]["fragments"])


@pytest.fixture
def estate() -> Iterator[Estate]:
    base = Path(tempfile.mkdtemp(prefix="ovs-"))
    with ExitStack() as stack:
        made = Estate(stack, base)
        try:
            yield made
        finally:
            made.close()
    shutil.rmtree(base)


def begin(estate: Estate) -> tuple[Client, int]:
    """A client that has written everything once; how safe all objects are."""
    estate.create(SIZE)
    client = Client(Journal(SIZE // SECTOR_BYTES), seed=2)
    client.connect(estate.open(SIZE), VOLUME)
    client.write_all()
    client.settle()
    count = SIZE // SCO - 1

    def stored() -> bool:
        return estate.is_whole() and bool(estate.figures()["objects"] >= count)

    estate.until(client, f"look that finds {count} objects whole", stored)
    return client, estate.safest()


def until_equal(estate: Estate, client: Client, domain: int) -> None:
    """Until its run has ended."""
    estate.until(
        client,
        f"end of the rebalancing of dc{domain}",
        lambda: bool(estate.figures(domain)["rebalances"] > 0),
    )
    assert estate.unequal(domain) < EQUAL, estate.levels(domain)
    assert estate.figures(domain)["spread"][f"dc{domain}"] < EQUAL


def until_looked_twice(estate: Estate, client: Client, domain: int) -> None:
    """Until two looks at everything have begun and ended."""
    seen = estate.figures(domain)["surveys"]
    estate.until(
        client,
        f"two looks more by dc{domain}",
        lambda: bool(estate.figures(domain)["surveys"] > seen + 2),
    )


def test_added_disks_are_filled_inside_their_domains_and_then_it_rests(estate: Estate) -> None:
    client, whole = begin(estate)
    estate.start_mender(1)
    for domain in (0, 1):
        assert estate.unequal(domain) < FROM, estate.levels(domain)
        estate.rebalance(domain)
        until_looked_twice(estate, client, domain)
        assert estate.moved(domain) == 0, "they are equal enough"
    for domain in (0, 1, 2):
        estate.grow(domain)
        assert estate.unequal(domain) > 3 * FROM, estate.levels(domain)
    before = estate.fragments(2)
    excess = [sum(estate.levels(domain)[:NODES]) / (NODES + 1) for domain in (0, 1)]
    for domain in (0, 1):
        until_equal(estate, client, domain)
        assert estate.safest() == whole
    # What is stored there beside fragments says where logs are, on all disks.
    assert estate.fragments(2) == before, "nobody was told to do it there"
    for domain in (0, 1):
        figures = estate.figures(domain)
        moved = figures["rebalanced"]
        assert moved["bytes_between_domains"] == 0
        # Each is read once and stored once, and no more than it takes.
        most = 2 * (excess[domain] + EQUAL * (NODES + 1)) * DISK_MIB * (1 << 20)
        assert 0 < moved["bytes"] < most
        assert estate.doubles(domain) == 0
    assert estate.between(1) == 0, "the sockets saw nothing else"

    moved = [estate.moved(domain) for domain in (0, 1)]
    for domain in (0, 1):
        until_looked_twice(estate, client, domain)
        assert estate.figures(domain)["rebalances"] == 1
    assert [estate.moved(domain) for domain in (0, 1)] == moved, "it rests"
    client.run(ANSWERS)
    client.settle()
    client.verify()
    client.disconnect()
    estate.forget()
    estate.start()
    client.connect(estate.open(SIZE), VOLUME)
    client.verify()
    client.disconnect()


def test_one_that_is_killed_is_carried_on_and_a_repair_comes_first(estate: Estate) -> None:
    client, whole = begin(estate)
    estate.start_mender(1)
    # One more than a repair needs: what is mended goes to no disk that has a copy of another
    # fragment of its piece, and who is killed leaves such copies for minutes.
    estate.grow(1)
    estate.grow(1)
    # Minutes for everything.
    estate.rebalance(1, rebalance_bytes_per_s=512 << 10)
    estate.until(client, "first moves", lambda: estate.moved(1) > 0)
    assert estate.figures(1)["rebalances"] == 0
    estate.menders.pop(1).shutdown(False)
    estate.start_mender(1)
    estate.rebalance(1, rebalance_bytes_per_s=512 << 10)
    estate.until(client, "moves by the next one", lambda: estate.moved(1) > 0)
    lost = estate.osds.by_fragments(1)[0]
    lost.kill9()
    for folder in lost.folder.iterdir():
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    estate.until(client, "repair in dc1", lambda: estate.figures(1)["repaired"]["fragments"] > 0)
    estate.until_as_before(client, whole)
    client.settle()
    client.verify()
    client.disconnect()


def test_it_is_done_when_somebody_asks_where_it_is_not_done_by_itself(estate: Estate) -> None:
    client, whole = begin(estate)
    estate.grow(0)
    estate.rebalance(0, rebalance_bytes_per_s=0)
    until_looked_twice(estate, client, 0)
    assert estate.moved(0) == 0
    engine = estate.engines()[0]
    engine.start_upkeep("rebalance")
    until_equal(estate, client, 0)
    assert estate.moved(0) > 0
    assert estate.safest() == whole
    client.disconnect()
