"""`make demo`: a guest that boots from a volume and does not notice that the engine was killed.

The node is what one is by default: its backend is erasure-coded over nine folders that stand for
three Domains of three nodes. The story, told line by line with times as it happens:

1. start a node, create a volume, import the guest image, boot QEMU from it through the Edge;
2. kill -9 the engine under the running guest: its writes wait;
3. start the engine again: the writes go on, and the guest saw no I/O error;
4. kill -9 engine, Edge and QEMU together, and remove the disks of a whole Domain; start all again,
   boot: the file that the guest had synced is there.

Ends with the line ``DEMO OK`` and status 0, or with the logs' ends and status 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.guest import build
from tests.support.guest import Guest
from tests.support.node import CliError, Node
from tests.support.process import ProcessError

VOLUME = "guest-disk"
LOST_DOMAIN = "domain2"
# Larger than the image, as a user's volume would be.
VOLUME_BYTES = 256 << 20
BOOT_SECONDS_MAX = 180.0
TICK_SECONDS_MAX = 60.0
TICKS_BEFORE_KILL = 20
TICKS_AFTER_RESTART = 20
# A tick that was on its way when the engine died may still reach the console.
SETTLE_SECONDS = 1.0
STALL_SECONDS = 3.0


class DemoError(Exception):
    """The story did not go as told."""


class Story:
    """Prints what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def tell(self, text: str) -> None:
        """Print one line of the story."""
        print(f"[{time.monotonic() - self._start:6.2f} s] {text}", flush=True)


def wait_for_ticks(guest: Guest, count: int) -> int:
    """Wait for ``count`` tick lines; return the number of the last tick."""
    last = 0
    for _ in range(count):
        last = int(guest.wait_for(r"GUEST: tick (\d+)", TICK_SECONDS_MAX).group(1))
    return last


def disks(node: Node) -> list[Path]:
    """The folders of the backend, Domain by Domain."""
    return sorted((node.root / "state" / "alba").glob("*/*"))


def backend(node: Node) -> str:
    """How the node keeps objects, by what it has."""
    count = len(disks(node))
    domains = len({disk.parent for disk in disks(node)})
    cluster = f"{domains}x{count // domains}x1"
    policy = node.cli("preset", "check", "default", "--cluster", cluster)["policy"]
    return f"{policy['notation']}, on {count} folders that stand for disks"


def prepare(node: Node, story: Story) -> Path:
    """Start the node and put the guest's disk on a volume; return its NBD socket."""
    disk = build.image()
    story.tell(f"guest image: {disk.stat().st_size >> 20} MiB, {disk}")
    node.start()
    assert node.daemon is not None
    assert node.edge is not None
    story.tell(f"node is up: daemon pid {node.daemon.pid}, Edge pid {node.edge.pid}")
    story.tell(f"its backend is erasure-coded: {backend(node)}")
    node.create(VOLUME, VOLUME_BYTES)
    node.cli("volume", "import", VOLUME, str(disk))
    story.tell(f"volume {VOLUME} created ({VOLUME_BYTES >> 20} MiB) and the image imported")
    socket, export = node.attach(VOLUME)
    if export:
        raise DemoError(f"the socket {socket} wants export name {export!r}; expected the default")
    story.tell(f"attached through the Edge: {socket}")
    return socket


def first_boot(guest: Guest, story: Story) -> str:
    """Boot for the first time; return the token that the guest synced."""
    guest.wait_for(r"GUEST: up", BOOT_SECONDS_MAX)
    story.tell(f"the guest booted from the volume (QEMU pid {guest.pid})")
    token = guest.wait_for(r"GUEST: synced (\S+)", BOOT_SECONDS_MAX).group(1)
    story.tell(f"the guest wrote a file and synced it: {token}")
    guest.wait_for(r"GUEST: trimmed", TICK_SECONDS_MAX)
    tick = wait_for_ticks(guest, TICKS_BEFORE_KILL)
    story.tell(f"the guest writes and syncs in a loop, tick {tick}")
    return token


def kill_engine_under_guest(node: Node, guest: Guest, story: Story) -> None:
    """Kill -9 the engine, see the ticks stop; start it, see them go on."""
    assert node.daemon is not None
    story.tell(f"kill -9 {node.daemon.pid} (the daemon with the engine), the guest keeps running")
    node.kill9_daemon()
    guest.drain(SETTLE_SECONDS)
    during = guest.drain(STALL_SECONDS)
    if during:
        raise DemoError(
            f"without an engine the guest printed {[line.text for line in during]}: its writes "
            "went somewhere else"
        )
    story.tell(f"no tick for {STALL_SECONDS:.0f} s: the guest's I/O waits")
    node.start_daemon()
    story.tell(f"the daemon runs again, pid {node.daemon.pid}")
    tick = wait_for_ticks(guest, 1)
    story.tell(f"the ticks go on: {tick}")
    tick = wait_for_ticks(guest, TICKS_AFTER_RESTART)
    story.tell(f"tick {tick}, and no I/O error on the guest's console")


def kill_everything(node: Node, guest: Guest, story: Story) -> None:
    """Kill -9 daemon, Edge and QEMU at once, lose a Domain's disks; start the first two again."""
    story.tell("kill -9 of daemon, Edge and QEMU together")
    node.kill9_daemon()
    node.kill9_edge()
    guest.kill9()
    for disk in disks(node):
        if disk.parent.name == LOST_DOMAIN:
            shutil.rmtree(disk)
    story.tell(f"the disks of {LOST_DOMAIN} are removed with all that was on them")
    node.start()
    assert node.daemon is not None
    assert node.edge is not None
    story.tell(f"node is up again: daemon pid {node.daemon.pid}, Edge pid {node.edge.pid}")


def second_boot(node: Node, token: str, guests: list[Guest], story: Story) -> None:
    """Boot the same volume again and expect the token."""
    socket, _ = node.attach(VOLUME)
    with Guest(socket) as guest:
        guests.append(guest)
        found = guest.wait_for(r"GUEST: (?:found|synced) (\S+)", BOOT_SECONDS_MAX)
        if not found.group(0).endswith(f"found {token}"):
            raise DemoError(f"the guest says {found.group(0)!r}, expected `found {token}`")
        story.tell(f"the guest booted again and found its file: {token}")
        tick = wait_for_ticks(guest, TICKS_AFTER_RESTART)
        story.tell(f"and writes on: tick {tick}")
    status = node.cli("status")
    for volume in status["volumes"]:
        story.tell(
            f"status: volume {volume['name']} is {volume['state']}, "
            f"{volume['mapped_bytes'] >> 20} MiB mapped, {volume['writes']} writes since the start"
        )
    for finding in status["findings"]:
        story.tell(f"{finding['severity']}: {finding['object']}: {finding['why']}")
    node.stop()
    story.tell("daemon and Edge ended on SIGTERM")


def perform(story: Story, node: Node, guests: list[Guest]) -> None:
    """Perform the story; every guest that was booted is appended to ``guests``."""
    socket = prepare(node, story)
    with Guest(socket) as guest:
        guests.append(guest)
        token = first_boot(guest, story)
        kill_engine_under_guest(node, guest, story)
        kill_everything(node, guest, story)
    second_boot(node, token, guests, story)


def report(error: Exception, node: Node, guests: list[Guest], say: Callable[[str], None]) -> None:
    """Print why the demo failed and the ends of all logs."""
    say(f"{type(error).__name__}: {error}")
    say(node.tails())
    for number, guest in enumerate(guests, 1):
        say(f"--- console of boot {number}\n{guest.tail()}")


def main() -> int:
    """Run the demo and return the exit status."""
    story = Story()
    guests: list[Guest] = []
    with Node(coded=True) as node:
        try:
            perform(story, node, guests)
        except (
            DemoError, ProcessError, CliError, build.BuildError, OSError,
            subprocess.TimeoutExpired,
        ) as error:  # fmt: skip
            report(error, node, guests, lambda text: print(text, file=sys.stderr))
            print("DEMO FAILED", flush=True)
            return 1
    print("DEMO OK", flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    sys.exit(main())
