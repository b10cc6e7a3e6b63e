"""The one way to start a cluster for tests: a daemon and an Edge process in a private directory.

A Node is what a host runs: ``vstorage-daemon`` (with the engine in it) and ``vstorage-edge``, two
separate processes, so that each can be killed and restarted under the other. Everything it stores
lies below ``root``; ``root`` must be short, because unix socket paths end at 107 bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.process import Process, ProcessError, accepts, find_program
from tests.support.sockets import ask

CLI_SECONDS_MAX = 120.0
DEFAULT_ENGINE_OPTIONS: Mapping[str, str] = {
    # Small pieces, so that a test of seconds closes, uploads and evicts many of them.
    "sco_size": str(4 << 20),
    "buffer_size": str(64 << 20),
    "checkpoint_scos": "4",
    "reserve": str(64 << 20),
    "shards": "2",
}


class CliError(Exception):
    """``vstorage`` ended with a non-zero status; ``output`` is what it printed."""

    def __init__(self, arguments: tuple[str, ...], status: int, output: str) -> None:
        super().__init__(f"vstorage {' '.join(arguments)}: status {status}: {output}")
        self.status = status
        self.output = output


class Node:
    """A daemon and an Edge process that share ``root``.

    ``engine`` overrides options of the [engine] section, ``options`` gives those of others;
    ``base`` is the directory in which the node's directory is made (default: the system's
    temporary one); ``inside`` is put before the programs' names and decides where they run.
    Objects are kept whole in a folder, which is quick, unless ``options`` have [alba] or
    ``coded`` asks for what a node does by default: the erasure-coded backend on one host.
    """

    def __init__(
        self,
        engine: Mapping[str, str] | None = None,
        base: Path | None = None,
        options: Mapping[str, Mapping[str, str]] | None = None,
        inside: Sequence[str] = (),
        coded: bool = False,
    ) -> None:
        self._inside = tuple(inside)
        self.root = Path(tempfile.mkdtemp(prefix="ovs-", dir=base))
        self.run_dir = self.root / "run"
        self.config = self.root / "vstorage.conf"
        for folder in ("run", "state", "buffer", "backend"):
            (self.root / folder).mkdir()
        given = {section: dict(values) for section, values in (options or {}).items()}
        whole = {} if coded or "alba" in given else {"backend_dir": str(self.root / "backend")}
        engine_options = {
            "buffer_dir": str(self.root / "buffer"),
            **whole,
            **DEFAULT_ENGINE_OPTIONS,
            **(engine or {}),
        }
        folders = {"state_dir": str(self.root / "state"), "run_dir": str(self.run_dir)}
        sections = {
            **given,
            "DEFAULT": {**folders, **given.get("DEFAULT", {})},
            "engine": engine_options,
        }
        lines: list[str] = []
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n")
        self.daemon: Process | None = None
        self.edge: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.kill9_daemon()
        self.kill9_edge()
        for mount in self.mounts():
            # A killed Edge leaves its files behind, and they answer nobody.
            subprocess.run(["umount", "--lazy", mount], check=True)
        if kind is None or "OVS_KEEP" not in os.environ:
            shutil.rmtree(self.root, ignore_errors=True)

    def start(self) -> None:
        """Start both processes and wait until both answer."""
        self.start_daemon()
        self.start_edge()

    def start_daemon(self, *, wait: bool = True) -> None:
        """Start the daemon; with ``wait``, return when its control socket answers.

        Raises ProcessError with the log's tail if it ends or does not come up.
        """
        if self.daemon is not None and self.daemon.running():
            raise ProcessError(f"the daemon of {self.root} runs already, pid {self.daemon.pid}")
        program = find_program("vstorage-daemon")
        command = [*self._inside, program, "--config-file", str(self.config)]
        self.daemon = Process("vstorage-daemon", command, self.root / "daemon.log")
        if wait:
            self.wait_for_daemon()

    def wait_for_daemon(self) -> None:
        """Wait until the daemon's control socket accepts connections."""
        if self.daemon is None:
            raise ProcessError(f"the daemon of {self.root} was never started")
        control = self.run_dir / "control.sock"
        self.daemon.wait_until(lambda: accepts(control), f"a listener on {control}")

    def start_edge(self) -> None:
        """Start the Edge process and wait until it answers a ping."""
        if self.edge is not None and self.edge.running():
            raise ProcessError(f"the Edge of {self.root} runs already, pid {self.edge.pid}")
        program = find_program("vstorage-edge")
        command = [*self._inside, program, "--run-dir", str(self.run_dir)]
        self.edge = Process("vstorage-edge", command, self.root / "edge.log")
        self.edge.wait_until(self._edge_answers, "an answer to ping on edge.sock")

    def _edge_answers(self) -> bool:
        try:
            answer = ask(self.run_dir / "edge.sock", {"op": "ping"}, CLI_SECONDS_MAX)
        except OSError:
            return False
        return bool(answer.get("ok"))

    def kill9_daemon(self) -> None:
        """Kill the daemon, and the engine in it, with SIGKILL."""
        if self.daemon is not None:
            self.daemon.kill9()

    def kill9_edge(self) -> None:
        """Kill the Edge process with SIGKILL."""
        if self.edge is not None:
            self.edge.kill9()

    def restart_daemon(self) -> None:
        """Kill the daemon with SIGKILL and start it again."""
        self.kill9_daemon()
        self.start_daemon()

    def stop(self) -> None:
        """End the Edge process, then drain and end the daemon, both with SIGTERM.

        Raises ProcessError if one does not end, or not cleanly.
        """
        # The Edge holds nothing that must be put away: to be ended by the signal is clean for it.
        clean = {"vstorage-edge": (0, -signal.SIGTERM), "vstorage-daemon": (0,)}
        for process in (self.edge, self.daemon):
            if process is not None and process.running():
                status = process.terminate()
                if status not in clean[process.name]:
                    raise ProcessError(
                        f"{process.name} ended with status {status} on SIGTERM; its log ends with\n"
                        f"{process.tail()}"
                    )

    def mounts(self) -> list[str]:
        """What is mounted below ``root``."""
        lines = Path("/proc/self/mounts").read_text().splitlines()
        places = [line.split()[1] for line in lines]
        return [place for place in places if place.startswith(f"{self.root}/")]

    def cli(self, *arguments: str) -> Any:
        """Run ``vstorage --json ARGUMENTS`` and return the decoded output (None if empty).

        Raises CliError if it fails.
        """
        command = [find_program("vstorage"), "--run-dir", str(self.run_dir), "--json"]
        result = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            timeout=CLI_SECONDS_MAX,
            check=False,
        )
        if result.returncode != 0:
            raise CliError(arguments, result.returncode, result.stdout + result.stderr)
        return json.loads(result.stdout) if result.stdout.strip() else None

    def create(self, name: str, size_bytes: int) -> None:
        """Create the volume ``name`` of ``size_bytes``."""
        self.cli("volume", "create", name, str(size_bytes))

    def attach(self, name: str, *, direct: bool = False) -> tuple[Path, str]:
        """Attach the volume; return its NBD socket and export name.

        ``direct`` serves it from the engine's own process instead of through the Edge.
        """
        answer = self.cli("volume", "attach", name, *(["--direct"] if direct else []))
        return parse_nbd_uri(answer["uri"])

    def log(self) -> str:
        """All that its daemons have logged."""
        return (self.root / "daemon.log").read_text(errors="replace")

    def tails(self) -> str:
        """Return the ends of both logs, for messages about failures."""
        parts = [
            f"--- {process.name} ({process.log})\n{process.tail()}"
            for process in (self.daemon, self.edge)
            if process is not None
        ]
        return "\n".join(parts)


def parse_nbd_uri(uri: str) -> tuple[Path, str]:
    """Return (socket, export name) of an ``nbd+unix://`` URI."""
    parts = urlsplit(uri)
    query = parse_qs(parts.query)
    if parts.scheme != "nbd+unix" or "socket" not in query:
        raise ProcessError(f"{uri!r} is no nbd+unix URI with a socket")
    return Path(query["socket"][0]), parts.path.removeprefix("/")
