"""`make cluster-demo`: a Domain dies under a guest, which goes on and has every acknowledged write.

The story, told line by line with times as it happens:

1. start two nodes in each of the Domains room1 and room2, and in room3 a host that serves guests;
2. create a volume in room1; its log is kept in room2, its Recovery Domain;
3. attach it in room3 and write, read and flush without a pause, by a client with a journal;
4. kill -9 both daemons of room1: the client waits, then goes on with the volume in room2;
5. start room1 again and move the volume back under the client;
6. compare every sector with what was acknowledged.

`vstorage status` is printed at each step. Ends with the line ``DEMO OK`` and status 0, or with the
logs' ends and status 1.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.demo.demo import Story
from tests.support.nbdwire import Disconnected
from tests.support.node import CLI_SECONDS_MAX, CliError
from tests.support.process import ProcessError, find_program
from tests.support.rooms import Guest, Rooms

VOLUME = "web1"
VOLUME_BYTES = 64 << 20
ANSWERS = 1000
HOST = "h1"


def show_status(cloud: Rooms, story: Story) -> None:
    """Print what `vstorage status` says on the guest's host, and where the volume is."""
    command = [find_program("vstorage"), "--run-dir", str(cloud[HOST].run_dir), "status"]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=CLI_SECONDS_MAX
    )
    volume = cloud.volume(VOLUME, HOST)
    dtl = volume["dtl"]
    kept = "nowhere" if dtl["node"] is None else f"on {dtl['node']}, {dtl['state']}"
    story.tell(f"{VOLUME} is on {volume['node']}, its log {kept}; vstorage status:")
    print("\n".join(f"    {line}".rstrip() for line in shown.stdout.splitlines()), flush=True)


def prepare(cloud: Rooms, story: Story) -> str:
    """Start the nodes and create the volume; the node that keeps its log."""
    first = cloud.start("a1", "room1")
    for domain in ("room2", "room3"):
        first.cli("domain", "create", domain)
    cloud.start("b1", "room2", "room1")
    first.cli("node", "set", "a1", "--recovery-domain", "room2")
    cloud.start("a2", "room1", "room2")
    cloud.start("b2", "room2", "room1")
    cloud.start(HOST, "room3", owns=False, edge=True)
    story.tell("room1: a1, a2; room2: b1, b2; room3: h1, which serves guests")
    first.cli("volume", "create", VOLUME, str(VOLUME_BYTES))
    keeper = cloud.until_in_sync(VOLUME, "a1")
    story.tell(f"volume {VOLUME} created on a1, its log is kept on {keeper}")
    outlook = first.cli("what-if", "lose", "room1")
    for one in outlook["continuing"]:
        story.tell(f"what-if lose room1: {VOLUME} goes on, on {one['to']}")
    return keeper


def lose_a_domain(cloud: Rooms, guest: Guest, story: Story) -> None:
    """Kill all of room1, and see the guest go on."""
    before = guest.answers
    story.tell(f"kill -9 of both daemons of room1, {before} requests are answered")
    for name in ("a2", "a1"):
        cloud[name].kill9_daemon()
    owner = cloud.until_owned_by(VOLUME, {"b1", "b2"}, HOST)
    story.tell(f"{owner} has taken over the volume")
    guest.wait_for_more(ANSWERS)
    story.tell(f"the guest goes on after {guest.pause_s:.1f} s: {guest.answers} answers, no error")
    cloud.until_in_sync(VOLUME, HOST)
    show_status(cloud, story)


def come_back(cloud: Rooms, guest: Guest, story: Story) -> None:
    """Start room1 again, and give it the volume under the guest."""
    for name in ("a1", "a2"):
        cloud[name].start_daemon()
    owner = cloud.volume(VOLUME, HOST)["node"]
    story.tell(f"room1 is there again; {owner} still has the volume")
    show_status(cloud, story)
    guest.wait_for_more(ANSWERS)
    guest.pause_s = 0.0
    cloud[owner].cli("volume", "move", VOLUME, "a1")
    guest.wait_for_more(ANSWERS)
    pause = f"a pause of {guest.pause_s:.1f} s"
    story.tell(f"moved to a1 under the guest, {pause}: {guest.answers} answers, no error")
    cloud.until_in_sync(VOLUME, HOST)
    show_status(cloud, story)


def perform(cloud: Rooms, story: Story) -> None:
    """The whole story."""
    prepare(cloud, story)
    with Guest(cloud[HOST], VOLUME, VOLUME_BYTES) as guest:
        guest.wait_for_more(ANSWERS)
        story.tell(f"attached on {HOST}; a guest writes, reads and flushes through its Edge")
        show_status(cloud, story)
        lose_a_domain(cloud, guest, story)
        come_back(cloud, guest, story)
        answers = guest.verify()
        story.tell(f"{answers} requests answered; every acknowledged write is there, no error")


def main() -> int:
    """Run the demo and return the exit status."""
    story = Story()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ovs-rooms-")))
        cloud = Rooms(stack, folder)
        try:
            perform(cloud, story)
        except (AssertionError, ProcessError, CliError, Disconnected, OSError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            for name, node in cloud.nodes.items():
                print(f"=== {name}\n{node.tails()}", file=sys.stderr)
            print("DEMO FAILED", flush=True)
            return 1
    print("DEMO OK", flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    sys.exit(main())
