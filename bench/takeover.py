"""`make bench-takeover`: how long guests wait when their volume's owner dies, or hands it over.

Two owners in two Domains, etcd, and a third host with an Edge, on which a guest writes without a
pause and keeps a journal. Each round moves the volume, then kills the owner with SIGKILL and lets
it come back; the guest's longest wait for an answer around each is the round's figure. At the end
every sector is held against the journal.

Then a node with many small volumes dies, each with a few written clusters that only the write
buffer and the log on the other node have: how long until the other node has all of them open. That
grows with their number and with what is not on the backend, not with their size.

The last line is ``RESULT {json}``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ovs_daemon.client import Client
from tests.crash.journal import Lost
from tests.support.etcd import Etcd
from tests.support.nbdwire import NBD_CMD_WRITE, Wire
from tests.support.node import parse_nbd_uri
from tests.support.rooms import Guest, Rooms

SIZE = 64 << 20
SMALL_SIZE = 1 << 30
WRITTEN = 16 << 10
# Answers before and after each round: the guest is at work when something happens, and again.
ANSWERS = 300
PATIENCE_S = 120.0


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def describe(what: str, values: Sequence[float], unit: str) -> str:
    """One line of the table."""
    figures = f"p50 {statistics.median(values):8.3f}  p99 {percentile(values, 99):8.3f}"
    return f"{what:28} {figures}  longest {max(values):8.3f}  {unit}  ({len(values)} rounds)"


def until(what: str, holds: Callable[[], bool]) -> None:
    """Wait for something that no process of ours tells.

    :raises TimeoutError: it does not come
    """
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} did not come to be within {PATIENCE_S:g} s")
        time.sleep(0.1)


class Bench:
    """The cluster, and what is measured on it."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        etcd = stack.enter_context(Etcd())
        self.cloud = Rooms(stack, folder, etcd.url("bench"))
        first = self.cloud.start("a1", None)
        for domain in ("room1", "room2", "room3"):
            first.cli("domain", "create", domain)
        first.cli("node", "set", "a1", "--domain", "room1")
        self.cloud.start("b1", "room2", "room1")
        first.cli("node", "set", "a1", "--recovery-domain", "room2")
        self.cloud.start("h1", "room3", owns=False, edge=True)

    def guests(self, rounds: int) -> tuple[list[float], list[float], int]:
        """Kill and move under a guest.

        Returns the longest waits in seconds, of each kill and of each move, and the acknowledged
        writes that are lost.
        """
        cloud = self.cloud
        cloud["a1"].cli("volume", "create", "web1", str(SIZE))
        kills: list[float] = []
        moves: list[float] = []
        with Guest(cloud["h1"], "web1", SIZE) as guest:
            for _ in range(rounds):
                owner = cloud.volume("web1", "h1")["node"]
                other = cloud.until_in_sync("web1", "h1")
                moves.append(self.waited(guest, partial(self.move, owner, other)))
                cloud.until_in_sync("web1", "h1")
                kills.append(self.waited(guest, cloud[other].kill9_daemon))
                cloud[other].start_daemon()
            try:
                guest.verify()
            except Lost as lost:
                print(lost)
                return kills, moves, 1
        return kills, moves, 0

    def move(self, owner: str, other: str) -> None:
        """Hand the volume over."""
        with contextlib.closing(Client(self.cloud[owner].run_dir / "control.sock")) as asked:
            asked.move_volume("web1", other)

    @staticmethod
    def waited(guest: Guest, act: Callable[[], object]) -> float:
        """The guest's longest wait for an answer while something happens, in seconds."""
        guest.wait_for_more(ANSWERS, PATIENCE_S)
        guest.pause_s = 0.0
        act()
        guest.wait_for_more(ANSWERS, PATIENCE_S)
        return guest.pause_s

    def crowd(self, count: int) -> float:
        """Seconds from the death of a node with so many volumes until all are open elsewhere."""
        a1, b1 = self.cloud["a1"], self.cloud["b1"]
        with contextlib.closing(Client(a1.run_dir / "control.sock")) as control:
            for number in range(count):
                name = f"small{number}"
                control.create_volume(name, SMALL_SIZE)
                write_a_little(control, name)
            until("a complete log of each", lambda: all_in_sync(control.list_volumes(), count))
        with contextlib.closing(Client(b1.run_dir / "control.sock")) as control:
            a1.kill9_daemon()
            began = time.monotonic()
            until("a living owner of each", lambda: owned_by(control, "b1") >= count)
            until("each volume", lambda: open_volumes(control) >= count)
            return time.monotonic() - began


def write_a_little(control: Client, name: str) -> None:
    """Write to a volume, and leave it."""
    attached = control.attach_volume(name, "direct")
    wire = Wire(parse_nbd_uri(attached["uri"])[0])
    wire.go("")
    wire.command(NBD_CMD_WRITE, 0, WRITTEN, data=name.encode().ljust(WRITTEN, b"."))
    wire.close()
    control.detach_volume(name)


def all_in_sync(volumes: Sequence[dict[str, Any]], count: int) -> bool:
    """Whether so many have a complete log."""
    states = [str(one["dtl"]["state"]) for one in volumes]
    return states.count("in_sync") >= count


def owned_by(control: Client, node: str) -> int:
    """How many of the small volumes a node owns."""
    volumes = control.list_volumes()
    return sum(one["node"] == node and one["name"].startswith("small") for one in volumes)


def open_volumes(control: Client) -> int:
    """How many of them its engine serves."""
    volumes = control.status()["volumes"]
    return sum(str(one["name"]).startswith("small") for one in volumes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50, help="kills, and moves (50)")
    parser.add_argument("--volumes", type=int, default=1000, help="of the dead node (1000)")
    options = parser.parse_args()
    result: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ovs-bench-")))
        bench = Bench(stack, folder)
        if options.rounds:
            kills, moves, lost = bench.guests(options.rounds)
            print(describe("owner killed, guest waits", kills, "s"))
            print(describe("handed over, guest waits", [1e3 * one for one in moves], "ms"))
            result["takeover_p99_s"] = round(percentile(kills, 99), 3)
            result["handover_p99_ms"] = round(1e3 * percentile(moves, 99), 1)
            result["lost_acknowledged_writes"] = lost
        if options.volumes:
            taken_s = bench.crowd(options.volumes)
            print(f"{options.volumes} volumes of a dead node, open again: {taken_s:.1f} s")
            key = f"takeover_{options.volumes}_s"
            result[key] = round(taken_s, 2)
    print(f"RESULT {json.dumps(result)}")


if __name__ == "__main__":
    main()
