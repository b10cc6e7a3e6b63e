"""fio as the client, and what one run of it tells."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.servers import PINNED_CPU, BenchError, Server
from tests.support.process import find_program

WORKLOADS: dict[str, tuple[str, ...]] = {
    "w1": ("--rw=randwrite", "--bs=4k", "--iodepth=1"),
    "w32": ("--rw=randwrite", "--bs=4k", "--iodepth=32"),
    "r1": ("--rw=randread", "--bs=4k", "--iodepth=1"),
    "r32": ("--rw=randread", "--bs=4k", "--iodepth=32"),
    "f1": ("--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"),
    "sw": ("--rw=write", "--bs=1m", "--iodepth=8"),
    "sr": ("--rw=read", "--bs=1m", "--iodepth=8"),
}
FIO_SECONDS_EXTRA = 120.0
IDLE_WINDOWS = 5


@dataclass(frozen=True)
class Run:
    """One fio run: operations per second, mean latency, CPU per operation (microseconds)."""

    iops: float
    mean_us: float
    server_us: float
    client_us: float


def fio(server: Server, options: tuple[str, ...], seconds_max: float) -> dict[str, object]:
    """Run fio on the server's volume and return its JSON; raise BenchError if it fails."""
    prefix = ["taskset", "-c", str(PINNED_CPU)] if server.pinned else []
    with tempfile.TemporaryDirectory(prefix="ovsb-") as folder:
        output = Path(folder) / "fio.json"
        command = [
            *prefix, find_program("fio"), f"--output={output}", "--output-format=json",
            f"--aux-path={folder}", "--name=bench", "--ioengine=nbd", f"--uri={server.uri}",
            f"--size={server.size}", *options,
        ]  # fmt: skip
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds_max, check=False
        )
        if result.returncode != 0:
            raise BenchError(
                f"`{' '.join(command)}` failed with status {result.returncode}: "
                f"{result.stdout}{result.stderr}"
            )
        text = output.read_text()
        # Engines print into the same file, before the document.
        (job,) = json.loads(text[text.index("{") :])["jobs"]
    if job["error"]:
        raise BenchError(f"fio on {server.kind} reports error {job['error']}")
    return dict(job)


def prefill(server: Server) -> None:
    """Write the whole volume once, so that reads find data and the peer's file is allocated."""
    fio(server, ("--rw=write", "--bs=1m", "--iodepth=8", "--end_fsync=1"), FIO_SECONDS_EXTRA)


def measure(server: Server, workload: str, seconds: float) -> Run:
    """Run ``workload`` for ``seconds``."""
    options = (*WORKLOADS[workload], "--time_based", f"--runtime={seconds:g}", "--norandommap")
    before = server.cpu_seconds()
    job = fio(server, (*options, "--randrepeat=1"), seconds + FIO_SECONDS_EXTRA)
    used = server.cpu_seconds() - before
    side = job["write" if "write" in WORKLOADS[workload][0] else "read"]
    assert isinstance(side, dict)
    operations = int(side["total_ios"])
    if operations == 0:
        raise BenchError(f"fio did no operation of {workload} on {server.kind}")
    runtime_us = float(side["runtime"]) * 1000
    client_share = (float(str(job["usr_cpu"])) + float(str(job["sys_cpu"]))) / 100
    return Run(
        iops=float(side["iops"]),
        mean_us=float(side["lat_ns"]["mean"]) / 1000,
        server_us=used * 1e6 / operations,
        client_us=client_share * runtime_us / operations,
    )


def idle_cpu_ms_per_s(server: Server) -> float:
    """Return the CPU time an idle server uses, in milliseconds per second.

    The quietest of some seconds: work in the background may go on for a while after the load.
    """
    quietest = float("inf")
    for _ in range(IDLE_WINDOWS):
        before, start = server.cpu_seconds(), time.monotonic()
        # The one place where time itself is what is measured.
        time.sleep(1.0)
        used = (server.cpu_seconds() - before) * 1000 / (time.monotonic() - start)
        quietest = min(quietest, used)
    return quietest
