"""An Edge on another host: a process with its own run directory, reaching engines over TCP."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from ovs_daemon.control.tokens import issue
from tests.support.node import CLI_SECONDS_MAX, Node
from tests.support.process import Process, find_program
from tests.support.sockets import ask

HOST = "far-host"


def listening_node(port: int, **more: Any) -> Node:
    """A node whose engine serves Edges of other hosts; not started."""
    return Node(options={"edge": {"listen": f"127.0.0.1:{port}"}, **more})


def token_of(node: Node, uuid: str, may_write: bool = True) -> str:
    """An attach token signed with the node's key."""
    key = (node.root / "state" / "cluster.key").read_bytes().strip()
    return issue(key, uuid, HOST, may_write, time.time())


class FarEdge:
    """One Edge process, without a daemon beside it."""

    def __init__(self) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="ovs-far-"))
        self.process: Process | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill9()
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [find_program("vstorage-edge"), "--run-dir", str(self.run_dir)]
        self.process = Process("vstorage-edge", command, self.run_dir / "edge.log")
        self.process.wait_until(self._answers, "an answer to ping")

    def _answers(self) -> bool:
        try:
            return bool(self.ask({"op": "ping"})["ok"])
        except OSError:
            return False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request on its control socket, and its answer."""
        return ask(self.run_dir / "edge.sock", request, CLI_SECONDS_MAX)

    def attach(self, name: str, uuid: str, token: str | None, *ports: int) -> dict[str, Any]:
        """Attach a volume that engines on these ports may have; the Edge's answer."""
        return self.ask(
            {"op": "attach", "volume": uuid, "name": name, **_where(token, ports), "mode": 0o600}
        )

    def retarget(self, uuid: str, token: str, *ports: int) -> None:
        """The volume may be served on these ports from now on."""
        answer = self.ask({"op": "retarget", "volume": uuid, **_where(token, ports)})
        assert answer["ok"], answer

    def socket_of(self, uuid: str) -> Path:
        """Where guests connect."""
        return self.run_dir / "nbd" / f"{uuid}.sock"


def _where(token: str | None, ports: tuple[int, ...]) -> dict[str, Any]:
    targets = [{"tcp": f"127.0.0.1:{port}"} for port in ports]
    return {"targets": targets, "token": token, "host": HOST, "epoch": 0}
