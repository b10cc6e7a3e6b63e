"""The verbs over oslo.messaging's in-process bus: answers, refusals, bugs, and stopping."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest
from oslo_config import cfg

from ovs_cinder.api import DomainApi
from ovs_daemon.control.share import Share
from ovs_daemon.control.store import put
from ovs_daemon.control.verbs import Verbs
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.policy.model import Role
from ovs_daemon.registry import Absent, Conflict
from ovs_daemon.rpc import contract
from ovs_daemon.rpc.endpoint import VERBS, Endpoint
from ovs_daemon.rpc.server import RpcServer, make_server, make_transport
from tests.support.fake_engine import FakeEngine
from tests.support.house import House
from tests.support.in_turns import InTurns
from tests.support.town import Town

GIB = 1 << 30
ROOT = Path(__file__).resolve().parents[2]


def transport() -> oslo_messaging.RPCTransport:
    conf = cfg.ConfigOpts()
    conf([])
    return make_transport(conf, "fake:///")


@pytest.fixture
def house() -> House:
    return House("rpc")


@pytest.fixture
def endpoint(house: House) -> Endpoint:
    return Endpoint(Verbs(house.host, lambda: True))


@pytest.fixture
def server(house: House) -> Iterator[RpcServer]:
    made = RpcServer(transport(), Verbs(house.host, lambda: True), "rpc", "node1", 4)
    made.start()
    assert made.wait_listening(60)
    yield made
    made.stop()


def refusal(envelope: dict[str, Any]) -> VStorageError:
    with pytest.raises(VStorageError) as caught:
        contract.unwrap(envelope)
    return caught.value


def test_there_and_back(server: RpcServer, house: House) -> None:
    api = DomainApi(transport(), "rpc", 30.0)
    assert api.create_volume("web1", GIB)["size"] == GIB
    assert [one["name"] for one in api.list_volumes()] == ["web1"]
    with pytest.raises(VStorageError) as caught:
        api.create_volume("web1", GIB)
    # Whole, with its four fields.
    assert caught.value.to_dict() == {
        "code": Code.DUPLICATE_NAME,
        "what": "create volume 'web1'",
        "why": "there is already a volume 'web1'",
        "fix": "choose another name, or delete that volume first",
    }
    assert api.delete_volume("web1") is True
    assert api.delete_volume("web1") is False
    assert api.find_volume("web1") is None


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ returns a message for which there is no queue; the in-process bus does not."""
    bus = transport()

    def returned(*args: Any, **more: Any) -> None:
        assert more["transport_options"].at_least_once
        raise oslo_messaging.MessageUndeliverable(None, "vstorage", "vstorage.nowhere", None)

    monkeypatch.setattr(bus._driver, "send", returned)
    with pytest.raises(VStorageError, match=r"'nowhere'.*nobody listens") as caught:
        DomainApi(bus, "nowhere", 30.0).get_domain()
    assert caught.value.code == Code.DAEMON_UNAVAILABLE


def test_one_node_can_be_called_alone(server: RpcServer) -> None:
    target = oslo_messaging.Target(
        exchange=contract.EXCHANGE, topic=contract.topic("rpc"), server="node1", version="1.0"
    )
    client = oslo_messaging.get_rpc_client(transport(), target)
    assert contract.unwrap(client.call({}, "get_domain"))["node"] == "node1"


def test_only_verbs_can_be_called(server: RpcServer) -> None:
    target = oslo_messaging.Target(exchange=contract.EXCHANGE, topic=contract.topic("rpc"))
    client = oslo_messaging.get_rpc_client(transport(), target)
    for name in ("close", "_remote", "__init__"):
        with pytest.raises(oslo_messaging.NoSuchMethod):
            client.call({}, name)
    assert "create_volume" in VERBS


def test_a_newer_client_is_refused(server: RpcServer) -> None:
    target = oslo_messaging.Target(
        exchange=contract.EXCHANGE, topic=contract.topic("rpc"), version="2.0"
    )
    client = oslo_messaging.get_rpc_client(transport(), target)
    with pytest.raises(oslo_messaging.UnsupportedVersion):
        client.call({}, "get_domain")


def test_a_daemon_of_an_older_release_is_not_taken_for_a_dead_one(
    server: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "VERSION", "1.9")
    with pytest.raises(VStorageError, match=r"another release.*version 1\.9") as caught:
        DomainApi(transport(), "rpc", 30.0).list_volumes()
    assert caught.value.code == Code.INTERNAL
    assert "one release" in caught.value.fix


@pytest.mark.parametrize("refusal", ["UnsupportedVersion", "NoSuchMethod"])
def test_a_daemon_of_an_older_release_behind_rabbitmq(
    monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    """Its driver builds no exception of the dispatcher's module, but names it."""
    bus = transport()

    def refused(*args: Any, **more: Any) -> None:
        raise oslo_messaging.RemoteError(refusal, "Endpoint does not support it", ["Traceback"])

    monkeypatch.setattr(bus._driver, "send", refused)
    with pytest.raises(VStorageError, match=r"another release \(Endpoint does not") as caught:
        DomainApi(bus, "rpc", 30.0).list_volumes()
    assert caught.value.code == Code.INTERNAL


def test_unknown_arguments_and_bugs(endpoint: Endpoint, house: House, monkeypatch: Any) -> None:
    verbs: Any = endpoint
    failure = refusal(verbs.create_volume({}, name="web1", colour="red"))
    assert (failure.code, "colour" in failure.why) == (Code.INTERNAL, True)
    monkeypatch.setattr(house.host.engine, "status", lambda: 1 // 0)
    assert "ZeroDivisionError" in refusal(verbs.get_domain({})).why


def test_two_clusters_on_one_topic_are_noticed_at_the_start(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ gives a topic's calls to its listeners in turns."""
    api = DomainApi(transport(), "rpc", 30.0)
    monkeypatch.setattr(api, "_client", InTurns(house))
    nodes = len(api.get_domain()["nodes"])
    api.refuse_two_clusters(nodes)
    assert api.cluster == house.host.store.cluster_id()
    monkeypatch.setattr(api, "_client", InTurns(house, House("rpc")))
    with pytest.raises(VStorageError, match="two clusters have a Domain") as caught:
        api.refuse_two_clusters(nodes)
    assert caught.value.code == Code.WRONG_CLUSTER


def test_a_node_that_hangs_hides_no_other_cluster_and_costs_one_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = DomainApi(transport(), "rpc", 30.0)
    client = InTurns(house, None, None)
    monkeypatch.setattr(api, "_client", client)
    api.refuse_two_clusters(3)
    assert 0 < client.waited_s <= 30
    monkeypatch.setattr(api, "_client", InTurns(house, None, House("rpc")))
    with pytest.raises(VStorageError) as caught:
        api.refuse_two_clusters(2)
    assert caught.value.code == Code.WRONG_CLUSTER


def test_a_lost_race_is_busy(house: House) -> None:
    class Losing(Verbs):
        def get_domain(self) -> dict[str, Any]:
            raise Conflict(Absent("volume", "x"), None)

    endpoint: Any = Endpoint(Losing(house.host, lambda: True))
    assert refusal(endpoint.get_domain({})).code == Code.BUSY


def test_closing_waits_for_the_calls_at_work(house: House) -> None:
    entered, release, closed = threading.Event(), threading.Event(), threading.Event()

    class Slow(Verbs):
        def get_domain(self) -> dict[str, Any]:
            entered.set()
            assert release.wait(60)
            return {"slow": True}

    endpoint: Any = Endpoint(Slow(house.host, lambda: True))
    answers: list[dict[str, Any]] = []
    working = threading.Thread(target=lambda: answers.append(endpoint.get_domain({})))
    working.start()
    assert entered.wait(60)

    def close() -> None:
        endpoint.close()
        closed.set()

    closing = threading.Thread(target=close)
    closing.start()
    while "answer" in (envelope := endpoint.status({})):
        pass
    assert refusal(envelope).code == Code.BUSY
    assert not closed.is_set()
    release.set()
    closing.join(60)
    working.join(60)
    assert answers == [{"answer": {"slow": True}}]


def configured(*lines: str) -> cfg.ConfigOpts:
    from ovs_daemon import options

    conf = options.load([])
    for line in lines:
        name, _, value = line.partition("=")
        conf.set_override(name, value, group="rpc")
    return conf


def test_no_bus_no_server(house: House) -> None:
    verbs = Verbs(house.host, lambda: True)
    assert make_server(configured(), verbs, "rpc") is None
    with pytest.raises(VStorageError, match="transport_url"):
        make_server(configured("transport_url=pigeon://host"), verbs, "rpc")


NO_BROKER = """
from ovs_daemon import options
from ovs_daemon.control.verbs import Verbs
from ovs_daemon.rpc.server import make_server
from tests.support.house import House
from tests.support.town import Town

conf = options.load([])
conf.set_override("transport_url", "rabbit://guest:guest@127.0.0.1:1/", group="rpc")
server = make_server(conf, Verbs(House().host, lambda: True), "rpc")
server.start()
assert not server.wait_listening(0.1)
server.stop()
print("ended")
"""


def test_a_server_that_never_found_its_broker_stops() -> None:
    """Nobody listens on that port; the daemon must be ready and end all the same.

    In a process of its own: the thread that knocks ends with the process only.
    """
    done = subprocess.run(
        [sys.executable, "-c", NO_BROKER],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_the_owner_is_found(house: House, server: RpcServer) -> None:
    """Whichever node of the Domain takes a call, the volume's own node performs it."""
    host = house.make_host(house.registry, FakeEngine())
    host.settings = replace(host.settings, node="node2")
    theirs = Verbs(host, lambda: True)
    theirs.create_volume("web1", GIB)
    other = RpcServer(transport(), theirs, "rpc", "node2", 4)
    other.start()
    assert other.wait_listening(60)
    api = DomainApi(transport(), "rpc", 30.0)
    try:
        for turn in range(1, 6):
            assert api.resize_volume("web1", (1 + turn) * GIB)["size"] == (1 + turn) * GIB
            assert api.create_snapshot("web1", f"s{turn}")["volume"] == "web1"
            assert api.set_limits("web1", {"read_iops": turn})["limits"] == {"read_iops": turn}
            clone = api.create_volume(f"clone{turn}", None, "web1", f"s{turn}")
            assert clone["node"] == "node2"
        assert api.diff_snapshots("web1", "s1", "s2") == []
        # node2 has not registered: what it owns is not the Domain's to count.
        told = Verbs(house.host, lambda: True).get_domain()
        assert (told["nodes"], told["volumes"]) == (["node1"], 0)
    finally:
        other.stop()


@pytest.fixture
def outage() -> Iterator[tuple[DomainApi, Town, list[RpcServer]]]:
    """Two Domains, each the other's Recovery Domain; whoever asks the first has seen it alive."""
    town = Town({"one": ("out1", "out2"), "two": ("out2", "out1")})
    verbs = [Verbs(node.host, lambda: True) for node in town.nodes.values()]
    servers = [
        RpcServer(transport(), one, f"out{number}", name, 4)
        for number, (one, name) in enumerate(zip(verbs, town.nodes, strict=True), 1)
    ]
    for one in servers:
        one.start()
        assert one.wait_listening(60)
    api = DomainApi(transport(), "out1", 5.0)
    assert api.get_domain()["others"] == ["out2"]
    yield api, town, servers
    for one in servers:
        one.stop()


def test_a_volume_that_went_to_another_domain_is_found(
    outage: tuple[DomainApi, Town, list[RpcServer]],
) -> None:
    api, town, servers = outage
    made = town.volume(api.create_volume("web1", GIB)["uuid"])
    town.tend()
    town.in_sync(made)
    town["one"].kill()
    servers[0].stop()
    town.pass_time()
    town.tend()
    # Nobody of its Domain answers any more.
    found = api.show_volume("web1")
    assert (found["node"], found["domain"]) == ("two", "out2")
    assert api.create_snapshot("web1", "s1")["volume"] == "web1"
    assert api.resize_volume("web1", 2 * GIB)["size"] == 2 * GIB
    assert [one["name"] for one in api.list_snapshots("web1")] == ["s1"]
    with pytest.raises(VStorageError) as caught:
        api.create_volume("web2", GIB)
    assert caught.value.code == Code.DAEMON_UNAVAILABLE
    # The Domain is back, and has it not.
    town["one"].start()
    servers[0] = RpcServer(transport(), Verbs(town["one"].host, lambda: True), "out1", "one", 4)
    servers[0].start()
    assert servers[0].wait_listening(60)
    api.get_domain()
    assert api.show_volume_with_counters("web1")["domain"] == "out2"
    assert api.create_snapshots([("web1", "s2")])[0]["name"] == "s2"
    assert api.delete_snapshot("web1", "s1")
    assert api.delete_snapshot("web1", "s2")
    assert api.delete_volume("web1")
    assert api.find_volume("web1") is None


def test_a_volume_whose_domain_is_gone_and_that_nobody_took_over(
    outage: tuple[DomainApi, Town, list[RpcServer]],
) -> None:
    api, _, servers = outage
    api.create_volume("web1", GIB)
    servers[0].stop()
    with pytest.raises(VStorageError, match=r"Domain 'out1'.*no node of it answers"):
        api.resize_volume("web1", 2 * GIB)


def test_a_node_that_only_attaches_does_not_listen(house: House) -> None:
    from ovs_daemon import daemon, options

    conf = options.load([])
    conf.set_override("transport_url", "fake:///", group="rpc")
    conf.set_override("host", "node1")
    verbs = Verbs(house.host, lambda: True)
    share = Share(house.host, lambda: True)
    assert daemon._rpc_server(conf, house.host, verbs, share) is not None
    node = house.host.store.node("node1")
    assert node is not None
    house.host.store.commit(put(replace(node, roles=(Role.EDGE,))))
    assert daemon._rpc_server(conf, house.host, verbs, share) is None
