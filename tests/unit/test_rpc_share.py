"""Which node takes a Domain's calls, and that slow ones leave threads for the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ovs_cinder.api import DomainApi
from ovs_daemon.control import nodes
from ovs_daemon.control.share import Share
from ovs_daemon.control.store import NODE, SNAPSHOT, VOLUME
from ovs_daemon.control.verbs import Verbs
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.rpc import contract, endpoint
from ovs_daemon.rpc.endpoint import Endpoint
from ovs_daemon.rpc.server import RpcServer
from tests.support.house import House
from tests.support.refusal import refused
from tests.support.town import Inhabitant, Town
from tests.support.waiting import wait_until
from tests.unit.test_rpc import transport

GIB = 1 << 30
# Never reached but by what is wrong.
LONG_S = 300.0


@pytest.fixture
def town() -> Town:
    return Town(dict.fromkeys(("one", "two"), ("share1", None)))


@contextlib.contextmanager
def registry_away(town: Town, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def unanswered(*_: object) -> None:
        raise VStorageError(Code.REGISTRY, "read", "no member answered", "")

    with monkeypatch.context() as patch:
        for name in ("get", "list"):
            patch.setattr(town.registry, name, unanswered)
        yield


def share_of(node: Inhabitant) -> Share:
    return Share(node.host, lambda: node.liveness.held)


class TestWhoTakesCalls:
    """Of two nodes of a Domain."""

    def test_everybody_who_can(self, town: Town) -> None:
        assert [share_of(node).refusal() for node in town.nodes.values()] == [None, None]

    def test_not_who_is_being_drained(self, town: Town) -> None:
        share = share_of(town["one"])
        nodes.set_draining(town["two"].host, "one", True)
        assert share.refusal() == "it is being drained"
        assert share_of(town["two"]).refusal() is None
        nodes.set_draining(town["two"].host, "one", False)
        assert share.refusal() is None

    def test_not_who_does_not_reach_the_registry(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        share = share_of(town["one"])
        assert share.refusal() is None
        with registry_away(town, monkeypatch):
            assert "does not answer" in str(share.refusal())
        assert share.refusal() is None

    def test_not_who_others_may_take_for_dead(self, town: Town) -> None:
        share = share_of(town["one"])
        assert share.refusal() is None
        town["one"].kill()
        town.pass_time()
        assert "lease" in str(share.refusal())
        town["one"].liveness.beat()
        assert share.refusal() is None

    def test_to_ask_costs_no_more_with_many_volumes(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each node of the bus asks once a second."""
        asked: list[str] = []
        list_records = town.registry.list

        def listing(kind: str) -> Any:
            asked.append(kind)
            return list_records(kind)

        monkeypatch.setattr(town.registry, "list", listing)
        assert share_of(town["one"]).refusal() is None
        assert NODE in asked
        assert not {VOLUME, SNAPSHOT} & set(asked)

    def test_who_is_alone_takes_them_whatever_is_wrong(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It says what is wrong; nobody would say anything else."""
        share = share_of(town["one"])
        town["two"].kill()
        town.pass_time()
        assert share.refusal() is None
        with registry_away(town, monkeypatch):
            assert share.refusal() is None


@pytest.fixture
def servers(town: Town) -> Iterator[dict[str, RpcServer]]:
    made = {
        name: RpcServer(
            transport(),
            Verbs(node.host, lambda: True),
            "share1",
            name,
            4,
            share_of(node).refusal,
        )
        for name, node in town.nodes.items()
    }
    for one in made.values():
        one.start()
        assert one.wait_listening(LONG_S)
    yield made
    for one in made.values():
        one.stop()


def test_a_node_that_is_drained_is_asked_for_what_it_owns_only(
    town: Town, servers: dict[str, RpcServer]
) -> None:
    made = Verbs(town["one"].host, lambda: True).create_volume("web1", GIB)
    assert made["node"] == "one"
    nodes.set_draining(town["two"].host, "one", True)
    wait_until(lambda: not servers["one"].takes_share, "no share of the Domain's calls")
    api = DomainApi(transport(), "share1", LONG_S)
    for number in range(20):
        assert api.create_volume(f"new{number}", GIB)["node"] == "two"
    # It is found by its own name all the same.
    assert api.resize_volume("web1", 2 * GIB)["node"] == "one"
    nodes.set_draining(town["two"].host, "one", False)
    wait_until(lambda: servers["one"].takes_share, "its share again")
    assert servers["two"].takes_share
    api.list_volumes()


class Stuck(Verbs):
    """Deletes wait for the backend until they are let go."""

    def __init__(self, house: House) -> None:
        super().__init__(house.host, lambda: True)
        self.release = threading.Event()
        self.begun = threading.Semaphore(0)
        self.guard = threading.Lock()
        self.at_work = self.at_work_max = 0

    def delete_volume(self, volume: str, cascade: bool = False) -> dict[str, Any]:
        with self.guard:
            self.at_work += 1
            self.at_work_max = max(self.at_work_max, self.at_work)
        self.begun.release()
        assert self.release.wait(LONG_S)
        with self.guard:
            self.at_work -= 1
        return {"deleted": True}


@pytest.fixture
def house() -> House:
    return House("share2")


@pytest.fixture
def stuck(house: House) -> Iterator[Stuck]:
    made = Stuck(house)
    yield made
    made.release.set()


def in_threads(count: int, call: Any) -> list[threading.Thread]:
    threads = [threading.Thread(target=call) for _ in range(count)]
    for one in threads:
        one.start()
    return threads


def test_creates_do_not_wait_for_deletes_that_do(stuck: Stuck) -> None:
    server = RpcServer(transport(), stuck, "share2", "node1", 2)
    server.start()
    assert server.wait_listening(LONG_S)
    api = DomainApi(transport(), "share2", LONG_S)
    deleted: list[bool] = []
    deletes = in_threads(8, lambda: deleted.append(api.delete_volume("web1")))
    try:
        for _ in range(2):
            assert stuck.begun.acquire(timeout=LONG_S)
        for number in range(8):
            assert api.create_volume(f"new{number}", GIB)["size"] == GIB
    finally:
        stuck.release.set()
        for one in deletes:
            one.join(LONG_S)
        server.stop()
    assert deleted == [True] * 8
    assert stuck.at_work_max == 2, "no more than are worked on at a time"


def test_more_slow_calls_than_may_wait_are_refused_at_once(
    stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "SLOW_WAITING", 3)
    verbs: Any = Endpoint(stuck, 2)
    answers: list[dict[str, Any]] = []
    waiting = in_threads(5, lambda: answers.append(verbs.delete_volume({}, volume="web1")))
    slow = verbs._slow
    wait_until(lambda: slow._present == 5, "five slow calls that are there")
    refused(
        lambda: contract.unwrap(verbs.delete_volume({}, volume="web1")), Code.BUSY, "5 such calls"
    )
    assert contract.unwrap(verbs.get_domain({}))["node"] == "node1"
    stuck.release.set()
    for one in waiting:
        one.join(LONG_S)
    assert answers == [{"answer": {"deleted": True}}] * 5


def test_calls_that_only_wait_do_not_delay_the_end(
    stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    verbs: Any = Endpoint(stuck, 1)
    answers: list[dict[str, Any]] = []
    calls = in_threads(4, lambda: answers.append(verbs.delete_volume({}, volume="web1")))
    assert stuck.begun.acquire(timeout=LONG_S)
    wait_until(lambda: verbs._slow._present == 4, "three calls that wait for the first")
    (ending,) = in_threads(1, verbs.close)
    wait_until(lambda: len(answers) == 3, "answers to those that wait")
    assert all("stopping" in str(one) for one in answers)
    assert ending.is_alive(), "the one at work is waited for"
    stuck.release.set()
    for one in (ending, *calls):
        one.join(LONG_S)
    assert answers[3] == {"answer": {"deleted": True}}


def test_slow_calls_are_verbs() -> None:
    assert set(endpoint.VERBS) >= contract.SLOW
