"""What guests notice of repair and scrub: the latency of a volume on OSD servers, with and without.

A disk is lost for good, and the engine mends what was on it and compares everything with its
checksums, both under the default budgets, while fio goes on reading and writing at a fixed pace.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.servers import BenchError
from tests.support.osds import Osds
from tests.support.process import find_program

# The default budgets (`[alba] repair_rate`, `scrub_rate`).
ORDERS: dict[str, Any] = {
    "domains": None,
    "repair_bytes_per_s": 64 << 20,
    "scrub_bytes_per_s": 16 << 20,
    "delay_s": 0.5,
    "every_s": 0.5,
    "scrub_every_s": 86400.0,
}
# Requests a second of reads, and as many of writes: far below what the engine can do.
PACE = 500
SECONDS = 6
PATIENCE_S = 120.0


def latency_us(uri: str, size: int, folder: Path) -> float:
    """p99 of 4 KiB at random places, read and written at a fixed pace."""
    output = folder / "latency.json"
    command = [
        find_program("fio"), f"--output={output}", "--output-format=json", f"--aux-path={folder}",
        "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--size={size}", "--rw=randrw",
        "--bs=4k", "--iodepth=4", f"--rate_iops={PACE},{PACE}", "--time_based",
        f"--runtime={SECONDS}", "--group_reporting",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS + PATIENCE_S, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(command)}` failed: {done.stdout}{done.stderr}")
    text = output.read_text()
    (job,) = json.loads(text[text.index("{") :])["jobs"]
    if job["error"]:
        raise BenchError(f"fio failed: {job['error']}")
    sides = (job[side]["clat_ns"]["percentile"]["99.000000"] for side in ("read", "write"))
    return max(float(one) for one in sides) / 1000


def until(what: str, holds: Callable[[], bool]) -> None:
    """Wait for something that the engine does not tell by itself.

    :raises BenchError: it does not come
    """
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > give_up:
            raise BenchError(f"{what} did not come to be within {PATIENCE_S:g} s")
        time.sleep(0.1)


def under_repair(
    engine: Any, osds: Osds, volume: str, uri: str, size: int, folder: Path
) -> dict[str, float]:
    """p99 while a disk is mended, over that of a moment before; the median of three disks.

    :param engine: which serves ``volume`` at ``uri``, all of it written once
    """
    engine.set_upkeep(json.dumps(ORDERS))

    def latency() -> float:
        # A window writes less than a SCO: settled before, it has no upload in it. One costs guests
        # the same with a repair and without, and would fall into one window of many.
        engine.settle_volume(volume)
        return latency_us(uri, size, folder)

    def figures() -> dict[str, Any]:
        said: dict[str, Any] = json.loads(engine.upkeep())
        return said

    def moved() -> int:
        return int(figures()["repaired"]["bytes"])

    until("the first look at all objects", lambda: int(figures()["surveys"]) > 0)
    latency()  # What filling the volume has left to the kernel is written back meanwhile.
    ratios = []
    for server in [osds.servers[0, 0], osds.servers[1, 1], osds.servers[2, 2]]:
        until("the end of all repairs", lambda: int(figures()["missing"]) == 0)
        quiet, before = latency(), moved()
        server.kill9()
        shutil.rmtree(server.folder)
        until("a repair", partial(lambda bytes_: moved() > bytes_, before))
        engine.start_upkeep("scrub")
        busy = latency()
        print(
            f"p99 of 4 KiB at {2 * PACE}/s: {quiet:.0f} us, {busy:.0f} us while a lost disk was "
            f"mended ({(moved() - before) >> 20} MiB moved)",
            flush=True,
        )
        ratios.append(busy / quiet)
    return {"front_end_p99_ratio_under_repair": round(statistics.median(ratios), 2)}
