"""OSD servers for tests: real `vstorage-osd` processes, one for each disk of some Domains."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.support.process import Process, find_program
from tests.support.sockets import free_port

_LISTENS = re.compile(r"listens on (\S+)$", re.MULTILINE)
CLUSTER = "cccccccc-0000-4000-8000-000000000001"


class OsdServer:
    """One disk and its server.

    :param root: where the folder and the log are made
    :param role: ``capacity`` or ``cache``
    """

    def __init__(
        self,
        root: Path,
        key: Path,
        cluster: str,
        domain: str,
        node: str,
        role: str = "capacity",
    ) -> None:
        self.domain, self.node = domain, node
        self.folder = root / f"{domain}-{node}"
        self.log = root / f"{domain}-{node}.log"
        self.reserve = 0
        self.cache_size: int | None = None
        self._key = key
        self._process: Process | None = None
        self.address = f"127.0.0.1:{free_port()}"
        place = ["--cluster", cluster, "--domain", domain, "--node", node, "--role", role]
        claimed = subprocess.run(
            [find_program("vstorage-osd"), "claim", *place, str(self.folder)],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.uuid = claimed.stdout.split(" ", 1)[0]

    def start(self) -> None:
        """Serve, at the address of before, and return when it does."""
        heard = len(self.text())
        key, reserve = str(self._key), str(self.reserve)
        words = ["--listen", self.address, "--key-file", key, "--reserve", reserve]
        if self.cache_size is not None:
            words += ["--cache-size", str(self.cache_size)]
        command: list[str | Path] = [find_program("vstorage-osd"), "serve", *words, self.folder]
        self._process = Process("vstorage-osd", command, self.log)
        self._process.wait_until(lambda: bool(_LISTENS.search(self.text()[heard:])), "an address")
        found = _LISTENS.search(self.text()[heard:])
        assert found is not None
        self.address = found[1]

    @property
    def pid(self) -> int:
        """Of the process that serves it."""
        assert self._process is not None
        return self._process.pid

    def text(self) -> str:
        """All of its log."""
        return self.log.read_text() if self.log.exists() else ""

    def kill9(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill9()

    def fragments(self) -> list[Path]:
        """The files of all fragments of SCOs that it has."""
        return sorted(self.folder.rglob("sco/*.obj/*"))

    def pause(self) -> None:
        """Have it answer nobody, with all connections open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """The end of :meth:`pause`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def terminate(self) -> int:
        """End it with SIGTERM; its exit status."""
        assert self._process is not None
        return self._process.terminate()

    def spec(self) -> dict[str, Any]:
        """How an engine is told of it."""
        place = {"domain": self.domain, "node": self.node}
        return {"osd": self.uuid, "address": self.address, **place}


class Osds:
    """Running servers by Domain and node; all are killed at the end.

    :param cluster: UUID of the cluster for which their disks are claimed
    """

    def __init__(
        self, root: Path, cluster: str = CLUSTER, domains: int = 3, nodes: int = 3
    ) -> None:
        self.root = root
        self.cluster = cluster
        self.root.mkdir(parents=True, exist_ok=True)
        self.key = root / "cluster.key"
        if not self.key.exists():
            self.key.write_text("0123456789abcdef" * 4 + "\n")
        self.servers = {
            (domain, node): OsdServer(root, self.key, cluster, f"dc{domain}", f"n{node}")
            for domain in range(domains)
            for node in range(nodes)
        }

    def __enter__(self) -> Self:
        try:
            for server in self.servers.values():
                server.start()
        except BaseException:
            # Nobody calls __exit__ then.
            self.kill9()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill9()

    def kill9(self) -> None:
        """Kill those that run with SIGKILL."""
        for server in self.servers.values():
            server.kill9()

    def __getitem__(self, place: tuple[int, int]) -> OsdServer:
        return self.servers[place]

    def domain(self, number: int) -> list[OsdServer]:
        """The servers of a Domain."""
        return [server for (domain, _), server in self.servers.items() if domain == number]

    def by_fragments(self, number: int) -> list[OsdServer]:
        """The servers of a Domain, the one with the most fragments of SCOs first: with more disks
        than an object has fragments there, any of them may have none of it."""

        def fragments(server: OsdServer) -> int:
            return len(server.fragments())

        return sorted(self.domain(number), key=fragments, reverse=True)

    def replace(self, server: OsdServer) -> OsdServer:
        """A new disk where one is gone for good; its server runs."""
        place = next(place for place, one in self.servers.items() if one is server)
        new = OsdServer(self.root, self.key, self.cluster, server.domain, server.node)
        new.start()
        self.servers[place] = new
        return new

    def specs(self) -> list[dict[str, Any]]:
        """How an engine is told of all."""
        return [server.spec() for server in self.servers.values()]
