"""`make alba-demo`: disks, a node and a Domain of the erasure-coded backend go under a client.

The story, told line by line with times as it happens:

1. start a node and four OSD servers in each of three Domains; create a volume and attach it;
2. fill it, then write, read and flush without a pause, by a client with a journal;
3. remove a disk for good: the daemons repair what was on it, with 0 bytes between Domains;
4. kill a node with its disk, cut a Domain off, and bring both back;
5. lose a whole Domain and a disk of another one: what was repaired carries the volume;
6. recover an object from the folders that are left, by pyeclib alone, and compare it.

`vstorage status` is printed at each step. Ends with the line ``DEMO OK`` and status 0, or with the
logs' ends and status 1.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.crash.client import Client, RequestFailed
from tests.crash.journal import SECTOR_BYTES, Journal
from tests.demo.demo import Story
from tests.support.nbdwire import Disconnected
from tests.support.node import CLI_SECONDS_MAX, CliError, parse_nbd_uri
from tests.support.osds import Osds, OsdServer
from tests.support.process import ProcessError, find_program
from tests.support.rooms import Guest, Rooms

VOLUME, SNAPSHOT, CLONE = "web1", "full", "web2"
VOLUME_BYTES = 16 << 20
ANSWERS = 400
DISKS = 4
OWNER, KEEPER, HOST = "a", "b", "c"
# A disk of Domain dc1, and node n0 of Domain dc0, in which is the daemon that has the volume.
LOST = (1, 2)
KILLED = (0, 0)
# With the lost Domain, what a repaired cluster bears.
ALSO_LOST = (1, 0)
OPTIONS = {
    "alba": {"shared": "true", "repair_delay": "10", "survey_interval": "5"},
    # Less than the volume, so that there are reads of the OSDs.
    "engine": {"buffer_size": str(12 << 20), "sco_size": str(1 << 20)},
}


class DemoError(Exception):
    """The story did not go as told."""


def run(program: str, *words: str | Path) -> str:
    """Run one of our programs; what it printed."""
    done = subprocess.run(
        [find_program(program), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=CLI_SECONDS_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise DemoError(f"{program} {words[0]}: status {done.returncode}: {done.stderr}")
    return done.stdout


def show(text: str) -> None:
    """Print what a program said, under the line that told of it."""
    print("\n".join(f"    {line}".rstrip() for line in text.splitlines()), flush=True)


class Cluster:
    """Nodes, OSD servers and the client."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, story: Story) -> None:
        self.rooms = Rooms(stack, folder, given=OPTIONS)
        self.folder = folder
        self.story = story
        first = self.rooms.start(OWNER, "dc0")
        for domain in ("dc1", "dc2"):
            first.cli("domain", "create", domain)
        self.rooms.start(KEEPER, "dc1", "dc0")
        first.cli("node", "set", OWNER, "--recovery-domain", "dc1")
        self.rooms.start(HOST, "dc2", owns=False, edge=True)
        identity = first.cli("node", "show", OWNER)["backend"].removeprefix("alba:")
        self.identity = identity
        self.osds = stack.enter_context(Osds(folder, identity, nodes=DISKS))
        for server in self.osds.servers.values():
            first.cli("osd", "add", server.address)
        self.until_away(0)
        #: what the snapshot holds
        self.filled = Journal(VOLUME_BYTES // SECTOR_BYTES)

    def fill(self, client: Client) -> None:
        """Write the whole volume; a snapshot keeps that while the client overwrites it."""
        client.write_all()
        self.rooms[OWNER].cli("volume", "snapshot", VOLUME, SNAPSHOT)
        self.filled = client.journal.copy()

    def away(self, by: str = HOST) -> int:
        """How many OSDs of the registry a node cannot reach."""
        return sum(not osd["reachable"] for osd in self.rooms[by].cli("osd", "list"))

    def until_away(self, count: int, by: str = HOST) -> None:
        """Wait until so many OSDs are out of reach."""
        self.rooms.until(by, f"{count} OSDs out of reach", lambda: self.away(by) == count)

    def look(self, name: str) -> Any:
        """Have a node look at all objects now, and repair; what it knows then."""
        return self.rooms[name].cli("alba", "repair")

    def repaired(self, figure: str) -> int:
        """What all nodes have done for repair."""
        nodes = self.rooms.nodes.values()
        return sum(int(node.cli("alba", "status")["repaired"][figure]) for node in nodes)

    def tell(self, text: str) -> None:
        """A line of the story, then `vstorage status`."""
        owner = self.rooms.volume(VOLUME, HOST)["node"]
        self.story.tell(f"{text}; {VOLUME} is on {owner}; vstorage status:")
        show(run("vstorage", "--run-dir", self.rooms[HOST].run_dir, "status"))


def lose_a_disk(cluster: Cluster, guest: Guest) -> None:
    """Take a disk away for good."""
    server = cluster.osds[LOST]
    server.kill9()
    shutil.rmtree(server.folder)
    cluster.until_away(1)
    guest.wait_for_more(ANSWERS)

    def is_seen() -> bool:
        # Unless somebody was quicker with the repair than this with looking.
        return bool(cluster.look(HOST)["missing"] or cluster.repaired("fragments"))

    cluster.rooms.until(HOST, "a look at the objects that finds what is missing", is_seen)
    cluster.tell(f"the disk of {server.domain}/{server.node} is gone for good, the client goes on")


def kill_a_node(cluster: Cluster, guest: Guest) -> None:
    """Kill the daemon that has the volume and the OSD server of its host, and bring them back."""
    server = cluster.osds[KILLED]
    server.kill9()
    cluster.rooms[OWNER].kill9_daemon()
    owner = cluster.rooms.until_owned_by(VOLUME, {KEEPER}, HOST)
    guest.wait_for_more(ANSWERS)
    cluster.tell(
        f"kill -9 of node {OWNER} and of the server of {server.domain}/{server.node}: {owner} went "
        f"on after {guest.pause_s:.1f} s"
    )
    server.start()
    # It is the address of before: nobody has to be told.
    cluster.rooms[OWNER].start_daemon()
    cluster.until_away(1)
    cluster.rooms.until_in_sync(VOLUME, HOST)
    guest.wait_for_more(ANSWERS)
    cluster.tell("both run again")


def cut_off_a_domain(cluster: Cluster, guest: Guest) -> None:
    """Have all OSD servers of a Domain answer nobody, and then again."""
    cut = cluster.osds.domain(KILLED[0])
    for server in cut:
        server.pause()
    try:
        cluster.until_away(1 + len(cut))
        guest.wait_for_more(ANSWERS)
        cluster.tell(f"no OSD of {cut[0].domain} answers, with all connections open")
    finally:
        for server in cut:
            server.resume()
    cluster.until_away(1)
    guest.wait_for_more(ANSWERS)
    cluster.tell(f"{cut[0].domain} is back")


def repair(cluster: Cluster, guest: Guest) -> None:
    """Wait until the daemons have stored what was lost anew, each Domain's in that Domain."""
    node = cluster.rooms[KEEPER]

    def is_whole() -> bool:
        return cluster.look(KEEPER)["missing"] == 0 and cluster.repaired("fragments") > 0

    cluster.rooms.until(KEEPER, "a repair of everything", is_whole)
    cluster.look(HOST)
    guest.wait_for_more(ANSWERS)
    cluster.story.tell(f"repaired under the client; vstorage alba status on {KEEPER}:")
    show(run("vstorage", "--run-dir", node.run_dir, "alba", "status"))
    between = cluster.repaired("bytes_between_domains")
    if between:
        raise DemoError(f"the repair moved {between} bytes between Domains")
    fragments = cluster.repaired("fragments")
    cluster.tell(f"{fragments} fragments restored, 0 bytes between Domains; safety is as before")


def verify(cluster: Cluster, client: Client, volume: str = VOLUME) -> None:
    """Read everything and hold it against the journal."""
    node = cluster.rooms[HOST]
    client.connect(*parse_nbd_uri(node.cli("volume", "show", volume)["uri"]))
    client.verify()
    client.disconnect()


def lose_a_domain_and_a_disk(cluster: Cluster, client: Client) -> list[OsdServer]:
    """Kill what the repaired cluster bears the loss of; those that are left."""
    gone = [*cluster.osds.domain(KILLED[0]), cluster.osds[ALSO_LOST]]
    for server in gone:
        server.kill9()
    cluster.until_away(1 + len(gone))
    verify(cluster, client)
    host = cluster.rooms[HOST]
    # Of the time before the disk was lost: much of it needs what was repaired.
    owner = cluster.rooms[cluster.rooms.volume(VOLUME, HOST)["node"]]
    owner.cli("volume", "create", CLONE, "--from", f"{VOLUME}@{SNAPSHOT}")
    host.cli("volume", "attach", CLONE)
    verify(cluster, Client(cluster.filled, seed=1), CLONE)
    cluster.tell(
        "all OSDs of dc0 and one more of dc1 are gone; every acknowledged write is there, and so "
        "is all of the snapshot"
    )
    gone.append(cluster.osds[LOST])
    return [server for server in cluster.osds.servers.values() if server not in gone]


def recover(cluster: Cluster, left: list[OsdServer]) -> None:
    """Decode an object from the folders that are left, and compare it with the whole cluster's."""
    for node in cluster.rooms.nodes.values():
        node.kill9_daemon()
    for server in cluster.osds.servers.values():
        server.kill9()
    words = [word for server in left for word in ("--osd", str(server.folder))]
    gone = [server for server in cluster.osds.servers.values() if server not in left]
    name = min(
        str(path.relative_to(server.folder)).removesuffix(".obj")
        for server in gone
        for path in server.folder.glob("*/sco/*.obj")
    )
    original = gather(cluster, name)
    output = cluster.folder / "recovered"
    run("vstorage", "alba", "recover", *words, "--object", name, output)
    recovered = (output / name).read_bytes()
    if recovered != original:
        raise DemoError(f"what was recovered of {name} is not what was stored")
    run("vstorage-offline", "verify", output / name)
    cluster.story.tell(
        f"vstorage alba recover: object {name}, {len(recovered) >> 10} KiB, from {len(left)} of "
        f"{len(cluster.osds.servers)} folders by pyeclib alone; it is the original, byte by byte"
    )


def gather(cluster: Cluster, name: str) -> bytes:
    """An object from all of its fragments, by the code in Rust."""
    fragments = cluster.folder / "fragments"
    fragments.mkdir()
    for server in cluster.osds.servers.values():
        for path in server.folder.joinpath(f"{name}.obj").glob("*"):
            shutil.copy(path, fragments / path.name)
    run("vstorage-offline", "decode", fragments, cluster.folder / "original")
    return (cluster.folder / "original").read_bytes()


def perform(cluster: Cluster, story: Story) -> None:
    """The whole story."""
    rooms = cluster.rooms
    story.tell(f"dc0, dc1, dc2 with {DISKS} OSD servers each; nodes {OWNER}, {KEEPER}, {HOST}")
    rooms[OWNER].cli("volume", "create", VOLUME, str(VOLUME_BYTES))
    keeper = rooms.until_in_sync(VOLUME, OWNER)
    story.tell(f"volume {VOLUME} created on {OWNER}, its log is kept on {keeper}")
    with Guest(rooms[HOST], VOLUME, VOLUME_BYTES, first=cluster.fill) as guest:
        guest.wait_for_more(ANSWERS)
        filled = f"{VOLUME_BYTES >> 20} MiB, of which there is a snapshot"
        cluster.tell(f"attached on {HOST} and filled, {filled}; a client goes on")
        lose_a_disk(cluster, guest)
        repair(cluster, guest)
        kill_a_node(cluster, guest)
        cut_off_a_domain(cluster, guest)
        answers = guest.verify()
        story.tell(f"{answers} requests answered; every acknowledged write is there, no error")
    left = lose_a_domain_and_a_disk(cluster, guest.client)
    recover(cluster, left)


def main() -> int:
    """Run the demo and return the exit status."""
    story = Story()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ovs-alba-")))
        cluster: Cluster | None = None
        try:
            cluster = Cluster(stack, folder, story)
            perform(cluster, story)
        except (
            AssertionError,
            RequestFailed,
            DemoError,
            ProcessError,
            CliError,
            Disconnected,
            OSError,
        ) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            for name, node in ({} if cluster is None else cluster.rooms.nodes).items():
                print(f"=== {name}\n{node.tails()}", file=sys.stderr)
            print("DEMO FAILED", flush=True)
            return 1
    print("DEMO OK", flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    sys.exit(main())
