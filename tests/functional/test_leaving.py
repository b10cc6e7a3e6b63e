"""OSDs leave a cluster of real daemons and servers: emptied and removed, or lost and forgotten,
under a client that verifies; what was deleted while one was away goes when it is back."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.crash.client import Client
from tests.crash.journal import SECTOR_BYTES, Journal
from tests.functional.test_osd_servers import ANSWERS, JOURNALLED
from tests.support.node import CliError, Node
from tests.support.osds import Osds, OsdServer
from tests.support.waiting import wait_until

SCO = 1 << 20
OBJECTS = JOURNALLED // SCO - 1


class Cloud:
    """A daemon in each of two Domains, OSD servers in three, and a client on a volume."""

    def __init__(self, stack: ExitStack, base: Path) -> None:
        key = base / "cluster.key"
        key.write_text("0123456789abcdef" * 4 + "\n")
        options = {
            "registry": {"url": f"sqlite://{base}/registry.sqlite"},
            "alba": {"shared": "true", "repair_delay": "0.5", "survey_interval": "1"},
        }
        self.nodes = []
        for number in range(2):
            place = {"host": f"h{number}", "domain": f"dc{number}"}
            default = {"DEFAULT": {"cluster_key_file": str(key), **place}}
            node = Node(engine={"sco_size": str(SCO)}, options={**options, **default})
            self.nodes.append(stack.enter_context(node))
        self.first, self.second = self.nodes
        self.first.start_daemon()
        self.identity = self.first.cli("node", "show", "h0")["backend"].removeprefix("alba:")
        self.osds = stack.enter_context(Osds(base, self.identity, nodes=4))
        for server in self.osds.servers.values():
            self.first.cli("osd", "add", server.address)
        self.first.cli("domain", "create", "dc1")
        self.second.start_daemon()
        self.first.cli("volume", "create", "vol", str(JOURNALLED))
        self.client = Client(Journal(JOURNALLED // SECTOR_BYTES), seed=5)
        self.client.connect(*self.first.attach("vol", direct=True))
        self.client.write_all()
        self.until("number of whole objects", self.is_whole)

    def until(self, what: str, holds: Callable[[], object]) -> None:
        """The client reads and compares everything meanwhile."""
        self.client.verify()
        wait_until(holds, what, self.state, self.client.verify)

    def state(self) -> str:
        """For who waits for too long."""
        told = [self.first.cli("osd", "list"), self.first.cli("status")["findings"]]
        figures = [node.cli("alba", "status") for node in self.nodes]
        logs = [node.tails() for node in self.nodes]
        return "\n".join([json.dumps(told), json.dumps(figures), *logs])

    def look(self) -> dict[str, Any]:
        """What a look at all objects finds now."""
        found: dict[str, Any] = self.first.cli("alba", "repair")
        return found

    def is_whole(self) -> bool:
        """Whether all objects are there with all fragments."""
        figures = self.look()
        wrong: int = figures["missing"] + figures["unknown"]
        return figures["objects"] >= OBJECTS and wrong == 0

    def listed(self, server: OsdServer) -> bool:
        """Whether an OSD belongs to the cluster."""
        return server.uuid in {osd["uuid"] for osd in self.first.cli("osd", "list")}

    def refused(self, *words: str) -> str:
        """What is said to a command that is refused."""
        with pytest.raises(CliError) as caught:
            self.first.cli(*words)
        return str(caught.value)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    base = Path(tempfile.mkdtemp(prefix="ovs-"))
    with ExitStack() as stack:
        yield Cloud(stack, base)
    shutil.rmtree(base)


def test_an_osd_is_emptied_inside_its_domain_and_removed(cloud: Cloud) -> None:
    server = cloud.osds.by_fragments(1)[0]
    assert "may be nowhere else" in cloud.refused("osd", "remove", server.uuid)
    assert "it answers" in cloud.refused("osd", "remove", server.uuid, "--lost")
    cloud.first.cli("osd", "decommission", server.uuid)
    cloud.client.run(ANSWERS)
    cloud.until("end of the OSD", lambda: not cloud.listed(server))
    assert cloud.second.cli("alba", "status")["repaired"]["bytes_between_domains"] == 0
    # Nobody needs what is on it, and nobody asks it any more.
    cloud.until("state in which all is whole", cloud.is_whole)
    server.kill9()
    cloud.client.run(ANSWERS)
    cloud.until("state in which all is whole", cloud.is_whole)
    codes = {one["code"] for one in cloud.first.cli("status")["findings"]}
    assert not codes & {"osd_missing", "osd_leaving", "objects_to_mend"}
    server.start()
    assert "nobody believes it any more" in cloud.refused("osd", "add", server.address)
    assert not cloud.listed(server)
    cloud.client.verify()
    cloud.client.disconnect()


def lose_and_replace(cloud: Cloud, domain: int) -> None:
    """A disk is gone with its server; the cluster forgets it, and gets a new one."""
    server = cloud.osds.by_fragments(domain)[0]
    server.kill9()
    shutil.rmtree(server.folder)
    command = f"vstorage osd remove {server.uuid} --lost"

    def is_missed() -> bool:
        found = cloud.first.cli("status")["findings"]
        return any(command in one["fix"] for one in found if one["code"] == "osd_missing")

    cloud.until("finding that says what to do", is_missed)
    cloud.first.cli(*command.split()[1:])
    cloud.client.run(ANSWERS)
    cloud.until("end of the OSD", lambda: not cloud.listed(server))
    cloud.first.cli("osd", "add", cloud.osds.replace(server).address)


def test_osds_are_lost_and_replaced_one_after_the_other_and_puts_go_on(cloud: Cloud) -> None:
    for domain in (0, 1, 2, 1, 0):
        lose_and_replace(cloud, domain)
    cloud.client.write_all()
    cloud.until("state in which all is whole", cloud.is_whole)
    cloud.client.disconnect()
    cloud.first.cli("volume", "detach", "vol")
    # The other node has nothing of it but what is on the OSDs.
    cloud.first.cli("volume", "move", "vol", "h1")
    cloud.client.connect(*cloud.second.attach("vol", direct=True))
    cloud.client.verify()
    cloud.client.disconnect()
