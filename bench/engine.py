"""`make bench-engine`: our engine beside qemu-nbd, with the same client on the same file system.

What is compared: ``ovs-serve`` (the engine, log-structured, checksummed) directly and through the
Edge process, against ``qemu-nbd -t -e 0 --cache=writeback --aio=threads`` (its defaults) on a raw
file that is fully written beforehand. nbdkit's memory plugin, which stores nothing, gives
orientation. The client is fio's nbd engine, for everybody.

How: servers alternate within a round, several rounds, medians. *Unpinned* shows the IOPS that a
user sees; *pinned* puts servers and client on one CPU, which takes the cost of waking another CPU
out and makes CPU per operation repeatable. CPU is user + system time of all server processes.
Reads come after random overwrites: the volume is as fragmented as a used one.

Prints a table and, as its last line, ``RESULT {json}``. A program that is missing or fails is an
error; a key stands in RESULT only if it was measured in this run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.load import WORKLOADS, Run, idle_cpu_ms_per_s, measure, prefill
from bench.servers import REPOSITORY, SERVERS, BenchError, Ours, release_binary
from tests.support.process import ProcessError

PROGRAMS = {
    "shm": ("bench_shm", ("shm_w32_iops", "shm_r32_iops")),
    "engine": ("bench_engine", ("engine_writes_per_s", "engine_reads_per_s")),
    "map": ("bench_map", ("map_bytes_random", "map_bytes_sequential", "snapshot_1tib_ms")),
}
SECTIONS = ("nbd", "edge", "nbdkit", *PROGRAMS)
PROGRAM_SECONDS_MAX = 600.0


@dataclass(frozen=True)
class Setting:
    """Where and how a group of workloads is run."""

    store: str
    pinned: bool
    workloads: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name for the table."""
        return f"{self.store} {'pinned' if self.pinned else 'unpinned'}"


SETTINGS = (
    Setting("shm", False, ("w1", "w32", "r1", "r32", "f1", "sw", "sr")),
    Setting("shm", True, ("w1", "w32", "r1", "r32")),
    Setting("disk", False, ("w1", "w32", "r32", "f1", "sw", "sr")),
)

# (store, pinned, workload, server) -> its runs, one per round.
Runs = dict[tuple[str, bool, str, str], list[Run]]


def run_setting(
    setting: Setting, kinds: list[str], rounds: int, options: argparse.Namespace
) -> tuple[Runs, dict[str, float]]:
    """Measure every server of ``kinds`` in ``setting``; also what each uses when idle."""
    store = Path(options.shm if setting.store == "shm" else options.disk)
    runs: Runs = defaultdict(list)
    idle: dict[str, float] = {}
    workloads = [name for name in setting.workloads if name in options.workloads]
    for number in range(rounds):
        # Every other round backwards: nobody always runs first.
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            with SERVERS[kind](store, options.size, pinned=setting.pinned) as server:
                prefill(server)
                for workload in workloads:
                    run = measure(server, workload, options.seconds)
                    runs[setting.store, setting.pinned, workload, kind].append(run)
                    progress(setting, number, kind, workload, run)
                if number == 0 and not setting.pinned:
                    idle[kind] = idle_cpu_ms_per_s(server)
    return runs, idle


def progress(setting: Setting, number: int, kind: str, workload: str, run: Run) -> None:
    """Tell on standard error that one run is done."""
    print(
        f"round {number + 1}, {setting.label}, {kind} {workload}: {run.iops:,.0f} IOPS, "
        f"server {run.server_us:.2f} us/op",
        file=sys.stderr,
        flush=True,
    )


def median(runs: list[Run]) -> Run:
    """Return the median of each figure."""
    return Run(*(statistics.median(values) for values in zip(*map(row, runs), strict=True)))


def row(run: Run) -> tuple[float, float, float, float]:
    """Return the figures of a run in the order of its fields."""
    return run.iops, run.mean_us, run.server_us, run.client_us


def print_table(runs: Runs, kinds: list[str]) -> None:
    """Print one line per setting, workload and server; ratios are against qemu-nbd."""
    print(
        f"{'where':14} {'load':4} {'server':9} {'IOPS':>10} {'x qemu':>7} {'mean us':>9} "
        f"{'server us/op':>13} {'x qemu':>7} {'client us/op':>13}"
    )
    for setting in SETTINGS:
        for workload in setting.workloads:
            peer = runs.get((setting.store, setting.pinned, workload, "qemu-nbd"))
            for kind in kinds:
                mine = runs.get((setting.store, setting.pinned, workload, kind))
                if not mine or not peer:
                    continue
                run, base = median(mine), median(peer)
                cpu_ratio = run.server_us / base.server_us if base.server_us else float("nan")
                print(
                    f"{setting.label:14} {workload:4} {kind:9} {run.iops:10,.0f} "
                    f"{run.iops / base.iops:7.2f} {run.mean_us:9.1f} {run.server_us:13.2f} "
                    f"{cpu_ratio:7.2f} {run.client_us:13.2f}"
                )


def ratios(runs: Runs) -> dict[str, float]:
    """Return the ratios of RESULT that these runs allow."""
    result: dict[str, float] = {}
    for key, server, workload in (
        ("nbd_w32_iops_ratio", "ours", "w32"),
        ("nbd_w1_iops_ratio", "ours", "w1"),
        ("nbd_r32_iops_ratio", "ours", "r32"),
        ("edge_w32_iops_ratio", "edge", "w32"),
    ):
        mine = runs.get(("shm", False, workload, server))
        peer = runs.get(("shm", False, workload, "qemu-nbd"))
        if mine and peer:
            result[key] = round(median(mine).iops / median(peer).iops, 3)
    mine, peer = (runs.get(("shm", True, "w32", kind)) for kind in ("ours", "qemu-nbd"))
    if mine and peer:
        result["nbd_w32_cpu_ratio"] = round(median(mine).server_us / median(peer).server_us, 3)
    return result


def run_program(name: str, arguments: list[str]) -> tuple[str, dict[str, float]]:
    """Run one of our benchmark programs; return what it printed and its RESULT."""
    result = subprocess.run(
        [release_binary(name), *arguments],
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS_MAX,
        check=False,
    )
    text, _, last = result.stdout.rstrip().rpartition("\n")
    if result.returncode != 0 or not last.startswith("RESULT "):
        raise BenchError(
            f"{name} ended with status {result.returncode}, its last line is {last!r}, expected "
            f"RESULT:\n{result.stdout}{result.stderr}"
        )
    return text, json.loads(last.removeprefix("RESULT "))


def run_once(section: str, options: argparse.Namespace) -> tuple[str, dict[str, float]]:
    """Run the program of ``section`` with what it needs around it."""
    name, _ = PROGRAMS[section]
    if section != "shm":
        return run_program(name, ["--dir", options.shm] if section == "engine" else [])
    with Ours(Path(options.shm), options.size, pinned=False) as server:
        # So that every read finds data.
        prefill(server)
        where = ["--engine", str(server.engine_socket), "--volume", server.volume]
        return run_program(name, [*where, "--qd", "32"])


def run_section(section: str, rounds: int, options: argparse.Namespace) -> dict[str, float]:
    """Run the program of ``section`` ``rounds`` times; return the medians of its figures."""
    name, keys = PROGRAMS[section]
    found: dict[str, list[float]] = defaultdict(list)
    text = ""
    for _ in range(rounds):
        text, values = run_once(section, options)
        missing = [key for key in keys if key not in values]
        if missing:
            raise BenchError(f"{name} does not report {', '.join(missing)}: {values}")
        for key in keys:
            found[key].append(float(values[key]))
    print(f"{name}, the last of {rounds} runs:\n{text}")
    return {key: statistics.median(values) for key, values in found.items()}


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="short runs, our own programs once: for a first look"
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="comma-separated")
    parser.add_argument("--stores", default="shm,disk", help="of shm,disk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="per run; default 4, with --quick 1")
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of the volume")
    parser.add_argument("--shm", default="/dev/shm", help="directory for the memory runs")
    parser.add_argument("--disk", default=str(REPOSITORY / "build" / "bench"))
    parser.add_argument("--json", type=Path, help="write every run to this file")
    options = parser.parse_args()
    options.seconds = options.seconds or (1.0 if options.quick else 4.0)
    for name, known in (
        ("only", SECTIONS), ("workloads", tuple(WORKLOADS)), ("stores", ("shm", "disk")),
    ):  # fmt: skip
        chosen = [part for part in getattr(options, name).split(",") if part]
        unknown = sorted(set(chosen) - set(known))
        if unknown:
            parser.error(f"--{name}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
        setattr(options, name, chosen)
    return options


def measure_all(options: argparse.Namespace) -> dict[str, float]:
    """Measure what was asked for, print the tables, return RESULT."""
    kinds = [
        kind
        for kind, section in (("ours", "nbd"), ("edge", "edge"), ("nbdkit", "nbdkit"))
        if section in options.only
    ]
    runs: Runs = {}
    idle: dict[str, float] = {}
    print(f"load average before the first run: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    if kinds:
        kinds.insert(0, "qemu-nbd")
        for setting in SETTINGS:
            if setting.store in options.stores:
                here = [kind for kind in kinds if kind != "nbdkit" or setting.store == "shm"]
                fresh, quiet = run_setting(setting, here, options.rounds, options)
                runs.update(fresh)
                idle = quiet or idle
        print_table(runs, kinds)
        for kind, cost in idle.items():
            print(f"idle {kind}: {cost:.1f} ms of CPU per second")
    result = ratios(runs)
    for section in PROGRAMS:
        if section in options.only:
            result |= run_section(section, 1 if options.quick else options.rounds, options)
    if options.json:
        rows = [
            {"store": s, "pinned": p, "workload": w, "server": k, **asdict(run)}
            for (s, p, w, k), several in runs.items()
            for run in several
        ]
        options.json.write_text(json.dumps({"runs": rows, "result": result}, indent=1) + "\n")
    return result


def main() -> int:
    """Run the benchmark and return the exit status."""
    options = parse_arguments()
    try:
        result = measure_all(options)
    except (BenchError, ProcessError, OSError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"RESULT {json.dumps(result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
