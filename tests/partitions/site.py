"""Five hosts in three Domains, and etcd on a sixth.

========  =================  =======================================
room1     a1, a2             own volumes, recover in room2
room2     b1, b2             own volumes, recover in room1
room3     h1                 serves guests, and owns nothing
========  =================  =======================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from ovs_daemon.client import Client
from ovs_daemon.errors import Code, VStorageError
from tests.support.etcd import Etcd
from tests.support.network import Network
from tests.support.node import Node
from tests.support.rooms import Guest, Rooms, rooms
from tests.support.sockets import ask

SIZE = 64 << 20
#: requests after which a guest counts as going on
ANSWERS = 400
#: how long a guest may wait at most; nothing is measured by it
PATIENCE_S = 55.0

ETCD = "etcd"
ROOM1, ROOM2 = ("a1", "a2"), ("b1", "b2")
OWNERS = (*ROOM1, *ROOM2)


class Site:
    """The cluster, its network, and its registry.

    :param keeper: the node that keeps the log of ``web1`` at first
    """

    def __init__(self, cloud: Rooms, network: Network, etcd: Etcd, keeper: str) -> None:
        self.cloud = cloud
        self.network = network
        self.etcd = etcd
        self.keeper = keeper
        self._clients: dict[tuple[str, int], Client] = {}

    def __getitem__(self, name: str) -> Node:
        return self.cloud[name]

    @property
    def spare(self) -> str:
        """The node of room2 that does not keep the log at first."""
        return next(name for name in ROOM2 if name != self.keeper)

    def ask(self, name: str) -> Client:
        """The daemon of a node; a program started for each question would cost more than it."""
        daemon = self[name].daemon
        assert daemon is not None
        if (name, daemon.pid) not in self._clients:
            client = Client(self[name].run_dir / "control.sock", PATIENCE_S)
            self._clients[name, daemon.pid] = client
        return self._clients[name, daemon.pid]

    def close(self) -> None:
        """Drop all connections to daemons."""
        for client in self._clients.values():
            client.close()

    def volume(self, by: str = "h1") -> dict[str, Any]:
        """``web1``, as that node sees it."""
        return self.ask(by).show_volume("web1")

    def until(self, by: str, what: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until that node sees ``web1`` so; what it sees then."""
        seen = {"last": self.volume(by)}

        def look() -> bool:
            seen["last"] = self.volume(by)
            return holds(seen["last"])

        self.cloud.until(by, what, look)
        return seen["last"]

    def until_owned_by(self, *owners: str, by: str = "h1") -> str:
        """Wait until one of these owns ``web1``; which."""
        what = f"web1 on {' or '.join(owners)}"
        return str(self.until(by, what, lambda volume: volume["node"] in owners)["node"])

    def until_in_sync(self, *keepers: str, by: str = "h1") -> str:
        """Wait until the log of ``web1`` is complete on one of these nodes; which."""
        what = f"a complete log on {' or '.join(keepers)}"
        found = self.until(by, what, lambda volume: _complete_on(volume, keepers))
        return str(found["dtl"]["node"])

    def until_incomplete(self, by: str = "h1") -> None:
        """Wait until the registry knows that the log of ``web1`` is not complete."""
        what = "a log that is incomplete"
        self.until(by, what, lambda volume: volume["dtl"]["state"] != "in_sync")

    def until_alive(self, name: str, alive: bool = True, by: str = "h1") -> None:
        """Wait until that node counts as alive, or as dead."""
        self.cloud.until(
            by,
            f"{name} {'alive' if alive else 'dead'}",
            lambda: bool(self.ask(by).show_node(name)["alive"]) is alive,
        )

    def until_let_go(self, name: str, why: str) -> None:
        """Wait until a node has ``web1`` open no more, and has said why in its log."""
        daemon = self[name].daemon
        assert daemon is not None
        daemon.wait_until(lambda: why in daemon.log.read_text(), f"the reason {why!r} in its log")
        self.cloud.until(name, "an end of web1 there", lambda: not self.is_open(name))

    def is_open(self, name: str) -> bool:
        """Whether that node's engine has ``web1``."""
        return any(one["name"] == "web1" for one in self.ask(name).status()["volumes"])

    def served(self, host: str = "h1") -> dict[str, Any]:
        """What the Edge of a host says about the one volume that it serves."""
        answer = ask(self[host].run_dir / "edge.sock", {"op": "list"}, PATIENCE_S)
        (volume,) = answer["volumes"]
        return dict(volume)

    def until_edge(self, state: str, host: str = "h1") -> dict[str, Any]:
        """Wait until the Edge of a host is in that state with its volume; what it says then."""
        self.cloud.until(
            host, f"an Edge that is {state}", lambda: self.served(host)["state"] == state
        )
        return self.served(host)

    def findings(self, by: str = "h1") -> dict[str, str]:
        """Code and object of all that `vstorage status` says is wrong."""
        return {one["code"]: one["object"] for one in self.ask(by).status()["findings"]}


def go_on(guest: Guest) -> None:
    """See a guest go on."""
    guest.wait_for_more(ANSWERS, PATIENCE_S)


def _complete_on(volume: dict[str, Any], keepers: Collection[str]) -> bool:
    return volume["dtl"]["state"] == "in_sync" and volume["dtl"]["node"] in keepers


def reaches_registry(site: Site, name: str) -> bool:
    """Whether that node's daemon gets answers from etcd."""
    try:
        site.ask(name).list_volumes()
    except VStorageError as failure:
        if failure.code != Code.REGISTRY:
            raise
        return False
    return True


@contextlib.contextmanager
def site_of(folder: Path) -> Iterator[Site]:
    """The cluster for as long as the block runs, with the volume ``web1`` on a1."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network((ETCD, *OWNERS, "h1"), folder))
        etcd = stack.enter_context(Etcd(network.address(ETCD), network.inside(ETCD)))
        registry = etcd.url("cloud", timeout_s=10.0)
        cloud = stack.enter_context(rooms(folder, registry, network))
        made = Site(cloud, network, etcd, "")
        stack.callback(made.close)
        cloud.start("a1", None)
        first = made.ask("a1")
        for room in ("room1", "room2", "room3"):
            first.create_domain(room)
        first.set_node("a1", domain="room1")
        for name in ROOM2:
            cloud.start(name, "room2", "room1", wait=False, logs=folder / f"logs-{name}")
        # It gets its Recovery Domain as soon as a node is there.
        cloud.start("a2", "room1", "room2", wait=False)
        cloud.start("h1", "room3", owns=False, edge=True, wait=False)
        for name in (*ROOM2, "a2", "h1"):
            cloud[name].wait_for_daemon()
        first.set_node("a1", recovery_domain="room2")
        first.create_volume("web1", SIZE)
        made.keeper = made.until_in_sync(*ROOM2, by="a1")
        yield made
