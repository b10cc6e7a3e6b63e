"""Daemons of several Domains on one machine: one registry, one backend, one key; some with an Edge.

What must not be lost is written by the client of `tests/crash`, which keeps a journal.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.crash.client import Client
from tests.crash.journal import SECTOR_BYTES, Journal
from tests.support.network import Network
from tests.support.node import Node, parse_nbd_uri
from tests.support.sockets import free_port

KEY = "cluster.key"


class Rooms:
    """:param stack: ends every process
    :param folder: for what all nodes share
    :param registry: its url; else a file in that folder
    :param network: where each node has an address of its own; else all are on loopback
    :param given: what their configurations say besides, by section
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: Path,
        registry: str | None = None,
        network: Network | None = None,
        given: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._stack = stack
        self._folder = folder
        self._registry = registry or f"sqlite://{folder}/registry.sqlite"
        self._network = network
        self._given = given or {}
        self.nodes: dict[str, Node] = {}
        if registry is not None:
            # With a registry of its own the first node would make it.
            (folder / KEY).touch(0o600)
            (folder / KEY).write_text(secrets.token_hex(32))

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def start(
        self,
        name: str,
        domain: str | None,
        recovery: str | None = None,
        *,
        owns: bool = True,
        edge: bool = False,
        wait: bool = True,
        logs: Path | None = None,
    ) -> Node:
        """Start a node.

        :param domain: None for one that shall make the first Domains
        :param owns: it may own volumes and keep logs
        :param edge: an Edge process runs beside it
        :param wait: return when it answers; otherwise its `wait_for_daemon` does
        :param logs: where it keeps the logs of others
        """
        default = {
            "host": name,
            "cluster_key_file": str(self._folder / KEY),
            "roles": "edge,router" if owns else "edge",
        }
        if domain is not None:
            default["domain"] = domain
        if recovery is not None:
            default["recovery_domain"] = recovery
        # The ports of a node that starts again are the same.
        host = "127.0.0.1" if self._network is None else self._network.address(name)
        engine = {"backend_dir": str(self._folder / "backend"), **self._given.get("engine", {})}
        options: dict[str, dict[str, str]] = {
            **{section: dict(said) for section, said in self._given.items()},
            "DEFAULT": default,
            "registry": {"url": self._registry},
            "dtl": {"listen": f"{host}:{free_port()}"},
            "edge": {"listen": f"{host}:{free_port()}"},
        }
        if logs is not None:
            options["dtl"]["dir"] = str(logs)
        node = Node(
            engine=engine,
            options=options,
            inside=() if self._network is None else self._network.inside(name),
        )
        self._stack.enter_context(node)
        self.nodes[name] = node
        if edge:
            node.start_edge()
        node.start_daemon(wait=wait)
        return node

    def volume(self, name: str, by: str) -> dict[str, Any]:
        """A volume as that node sees it."""
        found: dict[str, Any] = self[by].cli("volume", "show", name)
        return found

    def until(self, by: str, what: str, holds: Callable[[], bool]) -> None:
        """Wait for something, as long as that node's daemon runs."""
        daemon = self[by].daemon
        assert daemon is not None
        daemon.wait_until(holds, what)

    def until_in_sync(self, name: str, by: str) -> str:
        """Wait until a volume's log is complete; the node that keeps it."""
        self.until(
            by,
            f"a complete log of {name}",
            lambda: self.volume(name, by)["dtl"]["state"] == "in_sync",
        )
        return str(self.volume(name, by)["dtl"]["node"])

    def until_owned_by(self, name: str, owners: set[str], by: str) -> str:
        """Wait until one of these owns a volume; which."""
        self.until(
            by, f"{name} on {sorted(owners)}", lambda: self.volume(name, by)["node"] in owners
        )
        return str(self.volume(name, by)["node"])


class Guest:
    """Writes, reads and flushes without a pause, in a thread; any error of the server ends it.

    :param first: is done before that
    """

    def __init__(
        self,
        node: Node,
        name: str,
        size: int,
        seed: int = 1,
        first: Callable[[Client], None] | None = None,
    ) -> None:
        node.cli("volume", "attach", name)
        self.client = Client(Journal(size // SECTOR_BYTES), seed)
        self.client.connect(*parse_nbd_uri(node.cli("volume", "show", name)["uri"]))
        if first is not None:
            first(self.client)
        self._stopping = threading.Event()
        self._moved = threading.Condition()
        self._failure: BaseException | None = None
        #: the longest time without an answer so far, in seconds
        self.pause_s = 0.0
        self._thread = threading.Thread(target=self._run, name="guest", daemon=True)
        self._thread.start()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self.client.disconnect()

    @property
    def answers(self) -> int:
        """How many requests were answered so far."""
        return self.client.answers

    def wait_for_more(self, count: int, seconds_max: float = 60.0) -> None:
        """Return when so many more requests were answered; raise what ended the guest."""
        with self._moved:
            wanted = self.answers + count
            reached = self._moved.wait_for(
                lambda: self._failure is not None or self.answers >= wanted, seconds_max
            )
        if self._failure is not None:
            raise self._failure
        assert reached, f"no {count} answers within {seconds_max:g} s"

    def verify(self) -> int:
        """Stop, and hold every sector against what was acknowledged; how many answers there were.

        :raises AssertionError: an acknowledged write is lost, or a request got an error
        """
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self.client.verify()
        return self.answers

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                self.client.run(1)
                self.pause_s = max(self.pause_s, time.monotonic() - began)
                with self._moved:
                    self._moved.notify_all()
        # Whatever it is, whoever waits for this guest hears of it.
        except BaseException as failure:
            with self._moved:
                self._failure = failure
                self._moved.notify_all()


@contextlib.contextmanager
def rooms(
    folder: Path, registry: str | None = None, network: Network | None = None
) -> Iterator[Rooms]:
    """Nodes that end with the block."""
    with contextlib.ExitStack() as stack:
        yield Rooms(stack, folder, registry, network)
