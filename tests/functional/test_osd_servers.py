"""Volumes on OSDs behind real servers, which are killed, stopped, filled, damaged and cut off."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ovs_daemon import _native
from tests.crash.client import Client
from tests.crash.journal import SECTOR_BYTES, Journal
from tests.functional.test_alba import VOLUME, check, fill
from tests.support.node import CliError, Node
from tests.support.osds import CLUSTER, Osds
from tests.support.process import ProcessError
from tests.support.waiting import wait_until

SIZE = 64 << 20
JOURNALLED = 8 << 20
PAGE = 4096
ANSWERS = 400


class Lab:
    """Nine servers in three Domains, and engines on them, one after the other."""

    def __init__(self, base: Path, osds: Osds) -> None:
        self.base = base
        self.osds = osds
        self.epoch = 0
        self.engine: _native.Engine | None = None

    def start(self) -> _native.Engine:
        """An engine that has only the servers."""
        config = {
            "buffer_dir": str(self.base / "buffer"),
            "alba": {"osds": self.osds.specs(), "preset": "default", "reserve": 0},
            "run_dir": str(self.base / "r"),
            "sco_size": 1 << 20,
            "buffer_size": 8 << 20,
            "reserve": 0,
            "cluster": CLUSTER,
            "cluster_key_file": str(self.osds.key),
        }
        self.engine = _native.Engine(json.dumps(config))
        return self.engine

    def create(self, size: int = SIZE) -> None:
        """The volume, not open yet."""
        self.start().create_volume(json.dumps({"uuid": VOLUME, "size": size, "epoch": 0}))

    def open(self, size: int = SIZE) -> Path:
        """The volume under a new epoch; returns the socket on which it is served."""
        assert self.engine is not None
        self.epoch += 1
        spec = {"uuid": VOLUME, "size": size, "epoch": self.epoch, "ancestors": [VOLUME]}
        self.engine.open_volume(json.dumps(spec))
        return Path(self.engine.export_nbd(VOLUME, VOLUME))

    def away(self) -> list[str]:
        """OSDs that the engine cannot reach."""
        assert self.engine is not None
        states = json.loads(self.engine.osd_states())
        return [state["name"] for state in states if not state["reachable"]]

    def forget(self) -> None:
        """The write buffer is gone with its disk: what is read comes from the OSDs."""
        self.stop()
        shutil.rmtree(self.base / "buffer")

    def settle(self) -> None:
        """What was written so far is on the OSDs, and they know of each other."""
        assert self.engine is not None
        self.engine.settle_volume(VOLUME)

    def stop(self) -> None:
        """Everything is brought to the backend first."""
        if self.engine is not None:
            self.engine.shutdown(True)
            self.engine = None


@pytest.fixture
def lab() -> Iterator[Lab]:
    base = Path(tempfile.mkdtemp(prefix="ovs-"))
    with Osds(base / "osds") as osds:
        made = Lab(base, osds)
        yield made
        made.stop()
    shutil.rmtree(base)


def journalled(lab: Lab) -> Client:
    lab.create(JOURNALLED)
    client = Client(Journal(JOURNALLED // SECTOR_BYTES), seed=1)
    client.connect(lab.open(JOURNALLED), VOLUME)
    return client


def until_back(lab: Lab, meanwhile: Callable[[], object]) -> None:
    """Go on until the engine reaches all OSDs."""
    wait_until(lambda: not lab.away(), "engine that reaches all OSDs", lab.away, meanwhile)


def verified(lab: Lab, client: Client) -> None:
    """What was acknowledged is there: now, and from the OSDs alone."""
    client.verify()
    client.disconnect()
    lab.forget()
    lab.start()
    client.connect(lab.open(JOURNALLED), VOLUME)
    client.verify()
    client.disconnect()


def test_servers_end_when_one_of_them_does_not_start(base: Path) -> None:
    """Who enters and fails is never left: no server may outlive that."""
    osds = Osds(base, domains=1, nodes=3)
    shutil.rmtree(osds[0, 1].folder)
    try:
        with pytest.raises(ProcessError, match="ended with status"), osds:
            pass
        with pytest.raises(ProcessLookupError):
            os.kill(osds[0, 0].pid, 0)
    finally:
        osds.kill9()


def test_servers_are_killed_while_volumes_write(lab: Lab) -> None:
    client = journalled(lab)
    chaos = random.Random(1)
    for _ in range(6):
        victim = lab.osds[chaos.randrange(3), chaos.randrange(3)]
        client.run(ANSWERS // 2)
        victim.kill9()
        client.run(ANSWERS)
        victim.start()
    until_back(lab, lambda: client.run(1))
    verified(lab, client)


def test_a_domain_is_cut_off_and_comes_back(lab: Lab) -> None:
    client = journalled(lab)
    client.run(ANSWERS)
    # As long as nothing says what those that are cut off may have, nothing is stored without them.
    lab.settle()
    for server in lab.osds.domain(1):
        server.kill9()
    client.run(4 * ANSWERS)
    wait_until(lambda: len(lab.away()) == 3, "loss that is seen", lab.away, lambda: client.run(1))
    client.settle()
    client.verify()
    for server in lab.osds.domain(1):
        server.start()
    until_back(lab, lambda: client.run(1))
    verified(lab, client)


def test_a_server_that_hangs_is_read_around(lab: Lab) -> None:
    lab.create()
    content = fill(lab.open(), 2)
    lab.forget()
    lab.start()
    socket = lab.open()
    hanging = lab.osds[0, 1]
    hanging.pause()
    try:
        check(socket, content)
    finally:
        hanging.resume()
    until_back(lab, lambda: check(socket, content))
    check(socket, content)


def test_flipped_bits_are_found_and_read_around(lab: Lab) -> None:
    lab.create()
    content = fill(lab.open(), 3)
    lab.forget()
    damaged = 0
    for fragment in lab.osds[1, 2].folder.rglob("*.obj/*"):
        contents = bytearray(fragment.read_bytes())
        for at in range(PAGE + 100, len(contents), 3 * PAGE):
            contents[at] ^= 4
        fragment.write_bytes(contents)
        damaged += 1
    assert damaged >= 5
    lab.start()
    check(lab.open(), content)


def test_a_full_disk_takes_nothing_and_gives_all(lab: Lab) -> None:
    lab.create()
    fill(lab.open(), 4)
    lab.forget()
    full = lab.osds[2, 0]
    full.kill9()
    full.reserve = 1 << 60
    full.start()
    lab.start()
    socket = lab.open()
    before = sum(1 for _ in full.folder.rglob("*.obj/*"))
    assert before > 0
    content = fill(socket, 5)
    lab.forget()
    assert sum(1 for _ in full.folder.rglob("*.obj/*")) <= before
    lab.start()
    check(lab.open(), content)


def test_a_server_ends_cleanly_and_says_what_it_serves(lab: Lab) -> None:
    server = lab.osds[0, 0]
    assert f"serves capacity OSD {server.uuid} in {server.folder}" in server.text()
    assert server.terminate() == 0
    assert "ends on signal 15" in server.text()
    server.folder.joinpath("osd.claim").unlink()
    with pytest.raises(Exception, match="nobody has claimed it"):
        server.start()


@pytest.fixture
def base() -> Iterator[Path]:
    """A short path: sockets lie below."""
    made = Path(tempfile.mkdtemp(prefix="ovs-"))
    yield made
    shutil.rmtree(made)


def member(base: Path, name: str, **options: dict[str, str]) -> Node:
    """A node of a cluster that keeps its objects on the OSDs of the registry."""
    (base / "cluster.key").write_text("0123456789abcdef" * 4 + "\n")
    default = {"host": name, "cluster_key_file": str(base / "cluster.key")}
    url = f"sqlite://{base}/registry.sqlite"
    shared = {"DEFAULT": default, "registry": {"url": url}, "alba": {"shared": "true"}}
    return Node(options={**shared, **options})


def cluster_of(node: Node) -> str:
    """The cluster's UUID, which is the backend's identity."""
    identity = str(node.cli("node", "list")[0]["backend"])
    assert identity.startswith("alba:")
    return identity.removeprefix("alba:")


def test_nodes_share_the_osds_of_the_registry(base: Path) -> None:
    with member(base, "a") as first, member(base, "b") as second:
        first.start_daemon()
        assert first.cli("osd", "list") == []
        with Osds(base, cluster_of(first)) as osds:
            for server in osds.servers.values():
                first.cli("osd", "add", server.address)
            second.start_daemon()
            assert second.cli("node", "show", "b")["backend"] == f"alba:{cluster_of(first)}"
            listed = second.cli("osd", "list")
            known = [server.uuid for server in osds.servers.values()]
            assert [one["uuid"] for one in listed] == known
            wait_until(
                lambda: all(one["reachable"] for one in second.cli("osd", "list")),
                "node that reaches all OSDs",
                lambda: second.cli("osd", "list"),
            )
            second.cli("volume", "create", "vol", str(JOURNALLED))
            socket, export = second.attach("vol", direct=True)
            client = Client(Journal(JOURNALLED // SECTOR_BYTES), seed=2)
            client.connect(socket, export)
            client.run(ANSWERS)
            client.verify()
            client.disconnect()
            second.cli("volume", "detach", "vol")
            # The other node has nothing of it but what is on the OSDs.
            assert second.cli("volume", "move", "vol", "a")["node"] == "a"
            socket, export = first.attach("vol", direct=True)
            client.connect(socket, export)
            client.verify()
            client.disconnect()
            first.stop()
            second.stop()


def test_a_node_dies_with_a_disk_and_another_one_goes_on(base: Path) -> None:
    log = {"listen": "127.0.0.1:0"}
    with member(base, "a", dtl=log) as first, member(base, "b", dtl=log) as second:
        first.start_daemon()
        second.start_daemon()
        with Osds(base, cluster_of(first)) as osds:
            for server in osds.servers.values():
                second.cli("osd", "add", server.address)
            second.cli("volume", "create", "vol", str(JOURNALLED))
            client = Client(Journal(JOURNALLED // SECTOR_BYTES), seed=3)
            client.connect(*second.attach("vol", direct=True))
            client.run(4 * ANSWERS)
            client.settle()

            def volume() -> dict[str, Any]:
                found: dict[str, Any] = first.cli("volume", "show", "vol")
                return found

            assert first.daemon is not None
            in_sync = "a log that is in sync"
            first.daemon.wait_until(lambda: volume()["dtl"]["state"] == "in_sync", in_sync)
            second.kill9_daemon()
            osds[1, 0].kill9()
            client.disconnect()
            first.daemon.wait_until(lambda: volume()["node"] == "a", "a new owner")
            client.connect(*attached(first))
            client.run(ANSWERS)
            client.verify()
            client.disconnect()


def attached(node: Node) -> tuple[Path, str]:
    """The volume on a node that is about to open it."""
    found: list[tuple[Path, str]] = []

    def try_it() -> bool:
        try:
            found.append(node.attach("vol", direct=True))
        except CliError:
            return False
        return True

    assert node.daemon is not None
    node.daemon.wait_until(try_it, "the volume")
    return found[0]


def test_a_daemon_registers_what_its_server_serves(base: Path) -> None:
    with member(base, "a") as first:
        first.start_daemon()
        (row,) = first.cli("osd", "claim", str(base / "disk"))
        cluster = cluster_of(first)
        with Osds(base, cluster, domains=1, nodes=1) as osds:
            server = {"server": osds[0, 0].address}
            with member(base, "b", osd=server) as second:
                second.start_daemon()
                wait_until(lambda: second.cli("osd", "list"), "registered OSD", second.tails)
                (found,) = second.cli("osd", "list")
                wait_until(
                    lambda: (
                        second.cli("osd", "show", found["uuid"])["release"] == _native.__version__
                    ),
                    "server that says its release",
                    second.tails,
                )
                assert "releases_differ" not in json.dumps(second.cli("status"))
        assert (found["uuid"], found["registered_by"]) == (osds[0, 0].uuid, "b")
        assert found["address"] == osds[0, 0].address
        assert row["uuid"] != found["uuid"]
