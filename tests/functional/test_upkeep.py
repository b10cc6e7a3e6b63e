"""Objects on real OSD servers are kept safe: servers are killed for good, emptied, damaged, filled
and cut off under a verifying client; each Domain repairs its own, and sockets are counted."""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ovs_daemon import _native
from tests.crash.client import Client
from tests.crash.journal import SECTOR_BYTES, Journal
from tests.functional.test_osd_servers import ANSWERS, JOURNALLED, Lab
from tests.support.node import Node
from tests.support.osds import CLUSTER, Osds
from tests.support.waiting import wait_until

SCO = 1 << 20
ORDERS = {
    "repair_bytes_per_s": 1 << 30,
    "scrub_bytes_per_s": 0,
    "delay_s": 0.5,
    "every_s": 0.5,
    "scrub_every_s": 86400.0,
}
# The whole volume is written once: so many SCOs are closed then, and all of them are needed.
OBJECTS = JOURNALLED // SCO - 1


class House(Lab):
    """The engine of the volume in dc0, and one in each other Domain that only repairs."""

    def __init__(self, base: Path, osds: Osds) -> None:
        super().__init__(base, osds)
        self.menders: dict[int, _native.Engine] = {}

    def start(self) -> _native.Engine:
        engine = super().start()
        engine.set_upkeep(json.dumps({**ORDERS, "domains": ["dc0"]}))
        return engine

    def start_mender(self, domain: int) -> _native.Engine:
        """The engine of another Domain's node."""
        folder = self.base / f"node{domain}"
        config = {
            "buffer_dir": str(folder / "buffer"),
            "alba": {"osds": self.osds.specs(), "preset": "default", "reserve": 0},
            "run_dir": str(folder / "r"),
            "sco_size": SCO,
            "reserve": 0,
            "cluster": CLUSTER,
            "cluster_key_file": str(self.osds.key),
        }
        engine = _native.Engine(json.dumps(config))
        engine.set_upkeep(json.dumps({**ORDERS, "domains": [f"dc{domain}"]}))
        self.menders[domain] = engine
        return engine

    def figures(self, domain: int = 0) -> dict[str, Any]:
        """What the engine of a Domain says."""
        engine = self.engine if domain == 0 else self.menders[domain]
        assert engine is not None
        figures: dict[str, Any] = json.loads(engine.upkeep())
        return figures

    def safest(self) -> int:
        """How many more fragments the least safe object can lose."""
        return min(map(int, self.figures()["by_safety"]), default=-1)

    def between(self, domain: int) -> int:
        """Bytes of fragments that an engine exchanged with servers of other Domains."""
        wire = self.figures(domain)["wire"]
        return sum(its["fragments"] for name, its in wire.items() if name != f"dc{domain}")

    def until(self, client: Client, what: str, holds: Callable[[], bool]) -> None:
        """The client reads and compares everything until something holds that the engines bring
        about. It writes nothing: what it overwrites would be stored anew, and need no repair."""

        def state() -> object:
            return [self.figures(), *map(self.figures, self.menders)]

        client.verify()
        wait_until(holds, what, state, client.verify)

    def is_whole(self) -> bool:
        """Whether the last look found many objects and nothing to repair."""
        figures = self.figures()
        wrong: int = figures["missing"] + figures["unknown"]
        return figures["objects"] >= OBJECTS and wrong == 0

    def until_as_before(self, client: Client, safety: int) -> None:
        """Until everything is there, and as safe as it was."""
        what = f"state in which all objects are whole and can lose {safety} fragments"
        self.until(client, what, lambda: self.is_whole() and self.safest() == safety)

    def close(self) -> None:
        """End all engines."""
        self.stop()
        for engine in self.menders.values():
            engine.shutdown(False)


@pytest.fixture
def house() -> Iterator[House]:
    base = Path(tempfile.mkdtemp(prefix="ovs-"))
    with Osds(base / "osds", nodes=4) as osds:
        made = House(base, osds)
        yield made
        made.close()
    shutil.rmtree(base)


def begin(house: House) -> tuple[Client, int]:
    """A client that has written; how safe all objects are."""
    house.create(JOURNALLED)
    client = Client(Journal(JOURNALLED // SECTOR_BYTES), seed=1)
    client.connect(house.open(JOURNALLED), "aaaaaaaa-0000-4000-8000-000000000001")
    client.write_all()
    client.run(ANSWERS)
    house.until(client, "look at all objects that finds them whole", house.is_whole)
    return client, house.safest()


def verified(house: House, client: Client) -> None:
    """What was acknowledged is there, from the OSDs alone."""
    client.settle()
    client.verify()
    client.disconnect()
    house.forget()
    house.start()
    client.connect(house.open(JOURNALLED), "aaaaaaaa-0000-4000-8000-000000000001")
    client.verify()
    client.disconnect()


def test_a_server_that_is_lost_for_good_is_replaced_inside_its_domain(house: House) -> None:
    client, whole = begin(house)
    house.start_mender(1)
    victim = house.osds.by_fragments(1)[0]
    victim.kill9()
    shutil.rmtree(victim.folder)
    house.until(client, "loss that is seen", lambda: house.safest() < whole)
    house.until(client, "repair in dc1", lambda: house.figures(1)["repaired"]["fragments"] > 0)
    client.run(ANSWERS)
    house.until_as_before(client, whole)
    done = house.figures(1)
    assert done["repaired"]["bytes_between_domains"] == 0
    assert house.between(1) == 0, "the sockets saw nothing else"
    assert done["wire"]["dc1"]["fragments"] >= done["repaired"]["bytes"]
    verified(house, client)


def test_an_emptied_disk_and_flipped_bits_are_made_good(house: House) -> None:
    client, whole = begin(house)
    client.settle()
    house.start_mender(2)
    damaged, emptied, *_ = house.osds.by_fragments(2)
    flipped = 0
    for fragment in damaged.fragments()[:4]:
        contents = bytearray(fragment.read_bytes())
        contents[4096 + random.Random(flipped).randrange(len(contents) - 4096)] ^= 8
        fragment.write_bytes(contents)
        flipped += 1
    assert flipped > 0

    def scrubbed(times: int) -> bool:
        return bool(house.figures(2)["scrubs"] == times)

    for scrubs in (1, 2):
        # The second one finds nothing that is damaged any more.
        house.menders[2].start_upkeep("scrub")
        house.until(client, f"end of scrub {scrubs}", partial(scrubbed, scrubs))
        assert house.figures(2)["scrubbed"]["damaged"] == flipped

    for folder in emptied.folder.iterdir():
        if folder.is_dir() and folder.name != "uses":
            shutil.rmtree(folder)
    house.until(client, "repair in dc2", lambda: house.figures(2)["repaired"]["fragments"] > 0)
    house.until_as_before(client, whole)
    assert house.between(2) == 0
    verified(house, client)


def scrub_at(house: House, bytes_per_s: int) -> None:
    """How fast dc1 is scrubbed."""
    orders = {**ORDERS, "domains": ["dc1"], "scrub_bytes_per_s": bytes_per_s}
    house.menders[1].set_upkeep(json.dumps(orders))


def begin_scrub(house: House, client: Client) -> None:
    """A scrub of dc1 that needs minutes for all objects, seconds for each."""
    mender = house.start_mender(1)
    scrub_at(house, 128 << 10)
    mender.start_upkeep("scrub")
    house.until(client, "scrub", lambda: house.figures(1)["doing"] == "scrubbing")


def test_a_repair_does_not_wait_for_a_scrub(house: House) -> None:
    client, _ = begin(house)
    begin_scrub(house, client)
    victim = house.osds.by_fragments(1)[0]
    victim.kill9()
    shutil.rmtree(victim.folder)
    house.until(client, "repair in dc1", lambda: house.figures(1)["repaired"]["fragments"] > 0)
    assert house.figures(1)["scrubs"] == 0, "it goes on behind the last object that it has read"
    scrub_at(house, 1 << 30)
    house.until(client, "end of the scrub", lambda: house.figures(1)["scrubs"] == 1)
    client.disconnect()


def test_a_scrub_goes_on_when_a_disk_cannot_be_listed_for_a_while(house: House) -> None:
    client, _ = begin(house)
    begin_scrub(house, client)
    ill = house.osds.by_fragments(1)[0]
    (fragments,) = (one for one in ill.folder.iterdir() if one.is_dir() and one.name != "uses")
    aside = ill.folder.with_name("aside")
    fragments.rename(aside)
    fragments.write_text("what should be a folder is a file")
    failures = house.figures(1)["failures"]
    house.until(client, "failure to list", lambda: house.figures(1)["failures"] > failures)
    scrub_at(house, 1 << 30)
    fragments.unlink()
    aside.rename(fragments)
    house.until(client, "end of the scrub", lambda: house.figures(1)["scrubs"] == 1)
    client.disconnect()


def test_a_domain_that_comes_back_is_given_what_it_missed(house: House) -> None:
    client, whole = begin(house)
    house.start_mender(1)
    for server in house.osds.domain(1):
        server.kill9()
    house.until(client, "loss that is seen", lambda: house.safest() < whole)
    client.run(2 * ANSWERS)
    for server in house.osds.domain(1):
        server.start()
    house.until_as_before(client, whole)
    verified(house, client)


def test_with_full_disks_a_repair_waits_for_room(house: House) -> None:
    client, whole = begin(house)
    house.start_mender(1)
    lost, *full = house.osds.by_fragments(1)
    for server in full:
        server.kill9()
        server.reserve = 1 << 60
        server.start()
    lost.kill9()
    shutil.rmtree(lost.folder)
    house.until(client, "loss that is seen", lambda: house.figures(1)["to_mend"] > 0)
    seen = house.figures(1)["repairs"]
    house.until(client, "two repairs more", lambda: house.figures(1)["repairs"] > seen + 1)
    assert house.figures(1)["repaired"]["fragments"] == 0
    client.verify()
    for server in full:
        server.kill9()
        server.reserve = 0
        server.start()
    house.until_as_before(client, whole)
    verified(house, client)


def tends_only(node: Node, domain: str) -> bool:
    """Whether a daemon repairs this Domain and no other, as its log has it."""
    told = re.findall("this node repairs the fragments of (.*)", node.log())
    return told[-1:] == [domain]


def least_safe(node: Node) -> int:
    """How many more fragments the least safe object can lose."""
    return min(map(int, node.cli("alba", "repair")["by_safety"]))


def found(node: Node) -> set[str]:
    """What is wrong, as a daemon has it."""
    return {one["code"] for one in node.cli("status")["findings"]}


def test_daemons_share_the_work_and_one_that_is_killed_is_carried_on(tmp_path: Path) -> None:
    base = Path(tempfile.mkdtemp(prefix="ovs-"))
    key = base / "cluster.key"
    key.write_text("0123456789abcdef" * 4 + "\n")

    def node(number: int) -> Node:
        return Node(
            engine={"sco_size": str(SCO)},
            options={
                "DEFAULT": {
                    "cluster_key_file": str(key),
                    "host": f"h{number}",
                    "domain": f"dc{number}",
                },
                "registry": {"url": f"sqlite://{tmp_path}/registry.sqlite"},
                "alba": {
                    "shared": "true",
                    "repair_delay": "0.5",
                    "survey_interval": "1",
                    "repair_rate": "1MiB",
                },
            },
        )

    with node(0) as first, node(1) as second, node(2) as third:
        first.start_daemon()
        identity = first.cli("node", "show", "h0")["backend"].removeprefix("alba:")
        with Osds(base, identity, nodes=4) as osds:
            for server in osds.servers.values():
                first.cli("osd", "add", server.address)
            first.cli("domain", "create", "dc1")
            first.cli("domain", "create", "dc2")
            second.start_daemon()
            third.start_daemon()
            first.cli("volume", "create", "vol", str(JOURNALLED))
            socket, export = first.attach("vol", direct=True)
            client = Client(Journal(JOURNALLED // SECTOR_BYTES), seed=3)
            client.connect(socket, export)

            def state() -> str:
                nodes = (first, second, third)
                return "\n".join(f"{one.cli('alba', 'status')}\n{one.tails()}" for one in nodes)

            def until(what: str, holds: Callable[[], object]) -> None:
                client.verify()
                wait_until(holds, what, state, client.verify)

            for number, one in enumerate((first, second, third)):
                domain = f"dc{number}"
                until(f"node that repairs {domain} only", partial(tends_only, one, domain))
            client.write_all()
            until(
                "number of objects on the OSDs",
                lambda: first.cli("alba", "repair")["objects"] >= OBJECTS,
            )
            whole = least_safe(first)
            # Not any: with more disks than fragments some may have none of the objects.
            lost = osds.by_fragments(1)[0]
            lost.kill9()
            shutil.rmtree(lost.folder)
            until(
                "repair by the node of dc1",
                lambda: second.cli("alba", "status")["repaired"]["fragments"],
            )
            second.kill9_daemon()
            second.start_daemon()
            client.run(ANSWERS)
            until("end of the repair", lambda: not first.cli("alba", "repair")["missing"])
            until("safety as before", lambda: least_safe(first) >= whole)
            until("end of the finding", lambda: "objects_to_mend" not in found(first))
            client.disconnect()
            for one in (first, second, third):
                assert one.cli("alba", "status")["repaired"]["bytes_between_domains"] == 0
                one.stop()
    shutil.rmtree(base)
