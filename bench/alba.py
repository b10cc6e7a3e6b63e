"""`make bench-alba`: what the erasure-coded backend costs, over real OSD servers on loopback.

`bench_code` holds the code against ISA-L alone; `bench_alba` measures uploads, reads of 4 KiB,
with and without the disk that has them, and a repair; here a volume is written front to back by
fio, through the engine in this process, and then used while lost disks are mended.
`doc/benchmarks.md` says more.

Ends with the line ``RESULT {json}``. What fails is an error; a key is there only if it was
measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.engine import PROGRAM_SECONDS_MAX
from bench.repair import under_repair
from bench.servers import PINNED_CPU, REPOSITORY, BenchError, cpu_seconds, release_binary
from ovs_daemon import _native
from tests.support.osds import CLUSTER, Osds
from tests.support.process import ProcessError, find_program

VOLUME = "aaaaaaaa-0000-4000-8000-000000000001"
MIB = 1 << 20
CODE_KEYS = ("encode_vs_isal",)


def run_program(*command: str | Path) -> dict[str, float]:
    """Run one of our programs on one CPU, show what it prints, and return its RESULT."""
    pinned = ["taskset", "-c", str(PINNED_CPU), *map(str, command)]
    child = subprocess.Popen(
        pinned,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A group of its own, so that what it started ends with it whatever happens.
        start_new_session=True,
    )
    try:
        output, errors = child.communicate(timeout=PROGRAM_SECONDS_MAX)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    text, _, last = output.rstrip().rpartition("\n")
    if child.returncode != 0 or not last.startswith("RESULT "):
        raise BenchError(
            f"`{' '.join(pinned)}` ended with status {child.returncode}, its last line is "
            f"{last!r}, expected RESULT:\n{output}{errors}"
        )
    print(text, flush=True)
    result: dict[str, float] = json.loads(last.removeprefix("RESULT "))
    return result


class Writing:
    """A volume on OSD servers, whose engine runs in this process."""

    def __init__(self, base: Path, osds: Osds, size: int) -> None:
        self._osds = osds
        config = {
            "buffer_dir": str(base / "buffer"),
            "alba": {"osds": osds.specs(), "preset": "default", "reserve": 0},
            "run_dir": str(base / "run"),
            "buffer_size": 256 * MIB,
            "reserve": 0,
            "cluster": CLUSTER,
            "cluster_key_file": str(osds.key),
        }
        self.engine = _native.Engine(json.dumps(config))
        volume = {"uuid": VOLUME, "size": size, "epoch": 0}
        self.engine.create_volume(json.dumps(volume))
        self.engine.open_volume(json.dumps({**volume, "epoch": 1, "ancestors": [VOLUME]}))
        self.socket = self.engine.export_nbd(VOLUME, VOLUME)

    def cpu_s(self) -> dict[str, float]:
        """CPU so far of engine and servers."""
        servers = sum(cpu_seconds(server.pid) for server in self._osds.servers.values())
        return {"engine": cpu_seconds(os.getpid()), "servers": servers}

    def close(self) -> None:
        """Bring the rest to the OSDs."""
        self.engine.shutdown(True)


def write_once(store: Path, size: int) -> tuple[float, dict[str, float]]:
    """MB/s of one pass over a new volume, until all of it is on the OSDs; CPU us per MiB."""
    base = Path(tempfile.mkdtemp(prefix="ovsb-", dir=store))
    sockets = Path(tempfile.mkdtemp(prefix="ovsb-"))
    try:
        with Osds(base / "osds") as osds:
            (sockets / "alba").symlink_to(base.resolve())
            writing = Writing(sockets / "alba", osds, size)
            before, begin = writing.cpu_s(), time.monotonic()
            fio(writing.socket, size, sockets)
            writing.close()
            rate = size / 1e6 / (time.monotonic() - begin)
            used = {name: total - before[name] for name, total in writing.cpu_s().items()}
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(sockets, ignore_errors=True)
    return rate, {name: seconds * 1e6 / (size / MIB) for name, seconds in used.items()}


def fio(socket: str, size: int, folder: Path) -> None:
    """Write the volume front to back, and flush."""
    output = folder / "fio.json"
    command = [
        find_program("fio"), f"--output={output}", "--output-format=json", f"--aux-path={folder}",
        "--name=bench", "--ioengine=nbd", f"--uri=nbd+unix:///{VOLUME}?socket={socket}",
        f"--size={size}", "--rw=write", "--bs=1m", "--iodepth=8", "--end_fsync=1",
        "--refill_buffers=1",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PROGRAM_SECONDS_MAX, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(command)}` failed: {done.stdout}{done.stderr}")
    text = output.read_text()
    (job,) = json.loads(text[text.index("{") :])["jobs"]
    if job["error"] or job["write"]["io_bytes"] != size:
        raise BenchError(f"fio wrote {job['write']['io_bytes']} of {size} bytes: {job['error']}")


def front_end(store: Path, size: int) -> dict[str, float]:
    """What guests notice of repair and scrub."""
    base = Path(tempfile.mkdtemp(prefix="ovsb-", dir=store))
    sockets = Path(tempfile.mkdtemp(prefix="ovsb-"))
    try:
        # One node more than a Domain's share of fragments: there they are mended.
        with Osds(base / "osds", nodes=4) as osds:
            (sockets / "alba").symlink_to(base.resolve())
            writing = Writing(sockets / "alba", osds, size)
            fio(writing.socket, size, sockets)
            uri = f"nbd+unix:///{VOLUME}?socket={writing.socket}"
            result = under_repair(writing.engine, osds, VOLUME, uri, size, sockets)
            writing.close()
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(sockets, ignore_errors=True)
    return result


def sequential(store: Path, size: int, rounds: int) -> dict[str, float]:
    """Medians of some passes."""
    rates, costs = [], []
    for number in range(rounds):
        rate, cost = write_once(store, size)
        print(
            f"round {number + 1}: {size // MIB} MiB through a volume at {rate:.0f} MB/s; engine "
            f"{cost['engine']:.0f}, servers {cost['servers']:.0f} us of CPU for each MiB",
            flush=True,
        )
        rates.append(rate)
        costs.append(cost)
    return {
        "sequential_write_mb_per_s": round(statistics.median(rates), 1),
        **{
            f"sequential_write_{name}_us_per_mib": round(
                statistics.median(cost[name] for cost in costs)
            )
            for name in ("engine", "servers")
        },
    }


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--disk", type=Path, default=REPOSITORY / "build" / "bench")
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of the volume")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.disk.mkdir(parents=True, exist_ok=True)
    print(f"load average before the first run: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    try:
        code = run_program(release_binary("bench_code"))
        result = {key: code[key] for key in CODE_KEYS}
        with tempfile.TemporaryDirectory(prefix="ovsb-", dir=options.disk) as folder:
            servers = release_binary("vstorage-osd")
            result |= run_program(release_binary("bench_alba"), servers, folder)
        result |= sequential(options.disk, options.size, options.rounds)
        result |= front_end(options.disk, options.size)
    except (BenchError, ProcessError, OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"RESULT {json.dumps(result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
