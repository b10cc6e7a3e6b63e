"""What-if, drain plans, risks and cluster findings, through the verbs of a host of twins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ovs_daemon.control import volumes
from ovs_daemon.control.cluster import ClusterVerbs
from ovs_daemon.control.records import Dtl, Volume
from ovs_daemon.control.status import describe_volume, status
from ovs_daemon.control.store import put
from ovs_daemon.control.topology import Alive, Domain, Node
from ovs_daemon.control.volumes import Source
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.model import DtlMode, DtlState
from ovs_daemon.registry import Create, Delete
from tests.support.house import House

GIB = 1 << 30


class Cluster(House):
    """The house as node1 of Domain default, with node2 in it, and node3 in its Recovery Domain."""

    def __init__(self) -> None:
        super().__init__()
        store = self.host.store
        store.commit(put(Domain("far", "", None, "now")))
        for name, domain in (("node2", "default"), ("node3", "far")):
            recovery = "far" if domain == "default" else None
            store.commit(put(Node(name, domain, recovery)))
            self.revive(name)
        me = store.node("node1")
        assert me is not None
        store.commit(put(replace(me, recovery_domain="far")))
        self.verbs = ClusterVerbs(self.host)

    def revive(self, name: str) -> None:
        sign = Alive(name, name, "now")
        self.registry.commit([Create("alive", name, sign.body())])

    def kill(self, name: str) -> None:
        record = self.registry.get("alive", name)
        assert record is not None
        self.registry.commit([Delete("alive", name, record.version)])

    def volume(self, name: str, dtl: Dtl, *mds: str, source: Source | None = None) -> Volume:
        size = GIB if source is None else None
        made = volumes.create_volume(self.host, name, size, source)
        found = self.host.store.volume(made.uuid)
        assert found is not None
        self.host.store.commit(put(replace(found, dtl=dtl, mds=mds)))
        return found

    def require(self, name: str) -> Volume:
        return self.host.require("find it", name)

    def findings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = status(self.host, edge_connected=True)["findings"]
        return found


IN_SYNC = Dtl(DtlMode.SYNC, "node3", DtlState.IN_SYNC)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_what_if_a_node_is_lost(cluster: Cluster) -> None:
    cluster.volume("web1", IN_SYNC, "node2")
    cluster.volume("web2", Dtl(DtlMode.SYNC, "node3", DtlState.DEGRADED))
    cluster.volume("web3", Dtl(DtlMode.NONE))
    answer = cluster.verbs.what_if("node1")
    assert answer["lost"] == {"what": "node", "name": "node1"}
    assert answer["continuing"] == [{"volume": "web1", "from": "node1", "to": "node2"}]
    assert [(one["volume"], one["code"]) for one in answer["stopped"]] == [
        ("web2", "not_in_sync"),
        ("web3", "no_copy"),
    ]
    assert answer["harmless"] is False
    # Nothing was changed.
    assert {one.node for one in cluster.host.store.volumes()} == {"node1"}


def test_what_if_a_domain_is_lost(cluster: Cluster) -> None:
    cluster.volume("web1", IN_SYNC, "node2", "node3")
    answer = cluster.verbs.what_if("default")
    assert answer["nodes"] == ["node1", "node2"]
    assert answer["continuing"] == [{"volume": "web1", "from": "node1", "to": "node3"}]
    assert answer["unprotected"] == ["web1"]
    answer = cluster.verbs.what_if("far")
    assert (answer["stopped"], answer["continuing"]) == ([], [])
    assert (answer["outside"], answer["harmless"]) == (["web1"], True)


def test_names_of_nodes_and_domains(cluster: Cluster) -> None:
    cluster.host.store.commit(put(Domain("node2", "", None, "now")))
    with pytest.raises(VStorageError, match="write node:node2 or domain:node2"):
        cluster.verbs.what_if("node2")
    assert cluster.verbs.what_if("node:node2")["nodes"] == ["node2"]
    assert cluster.verbs.what_if("domain:node2")["nodes"] == []
    with pytest.raises(VStorageError) as caught:
        cluster.verbs.what_if("nothing")
    assert caught.value.code == "unknown_node"


def test_a_drain_plan(cluster: Cluster) -> None:
    base = cluster.volume("base", IN_SYNC, "node2")
    cluster.volume("clone", IN_SYNC, "node2", source=Source("base", None))
    answer = cluster.verbs.plan_drain("node1")
    assert [(one["volume"], one["to"]) for one in answer["moves"]] == [
        ("base", "node2"),
        ("clone", "node2"),
    ]
    assert (answer["feasible"], answer["stuck"]) == (True, [])
    answer = cluster.verbs.plan_drain("node3")
    assert answer["moves"] == []
    assert [(one["volume"], one["to"]) for one in answer["logs"]] == [
        ("base", "node2"),
        ("clone", "node2"),
    ]
    cluster.kill("node2")
    cluster.kill("node3")
    answer = cluster.verbs.plan_drain("node1")
    assert (answer["feasible"], answer["stuck"]) == (False, ["base", "clone"])
    with pytest.raises(VStorageError) as caught:
        cluster.verbs.plan_drain("node9")
    assert caught.value.code == "unknown_node"
    assert cluster.host.store.volume(base.uuid) is not None


def test_risks_are_told_worst_first(cluster: Cluster) -> None:
    cluster.volume("web1", IN_SYNC, "node2")
    assert status(cluster.host, True)["risks"] == [
        {
            "what": "domain",
            "name": "default",
            "stopped": [],
            "unprotected": ["web1"],
            "why": "1 volume would go on without a log on another node",
        }
    ]
    cluster.volume("web2", Dtl(DtlMode.SYNC))
    worst = status(cluster.host, True)["risks"][0]
    assert worst["why"].startswith("1 volume would stop: no other node keeps its log")


def test_findings_of_a_cluster(cluster: Cluster) -> None:
    cluster.volume("web1", IN_SYNC, "node2")
    assert cluster.findings() == []
    cluster.volume("web2", Dtl(DtlMode.SYNC))
    cluster.volume("web3", Dtl(DtlMode.SYNC, "node3", DtlState.DEGRADED))
    cluster.volume("web4", Dtl(DtlMode.SYNC, "node3", DtlState.CATCHING_UP))
    assert [(one["code"], one["severity"]) for one in cluster.findings()] == [
        ("dtl_degraded", "warning"),
        ("dtl_standalone", "warning"),
        ("dtl_catching_up", "info"),
    ]
    volume = cluster.host.store.find_volume("web1")
    assert volume is not None
    cluster.host.store.commit(put(replace(volume, node="node2")))
    cluster.host.store.commit(put(replace(cluster.require("web2"), node="node2")))
    cluster.kill("node2")
    found = cluster.findings()
    assert [(one["code"], one["object"]) for one in found[:2]] == [
        ("volume_down", "volume web2"),
        ("node_dead", "node node2"),
    ]
    assert "no other node keeps its log" in found[0]["why"]


def test_records_from_before_there_were_dtls(cluster: Cluster) -> None:
    volume = cluster.volume("web1", IN_SYNC, "node2")
    body = volume.body()
    for name in ("dtl", "mds", "forced"):
        del body[name]
    old = Volume.from_body(body, 1)
    assert (old.dtl, old.mds, old.forced) == (
        Dtl(DtlMode.NONE, None, DtlState.STANDALONE),
        (),
        None,
    )


def test_a_volume_says_where_its_log_is(cluster: Cluster) -> None:
    cluster.volume("web1", IN_SYNC, "node2")
    described = describe_volume(cluster.host, cluster.require("web1"))
    assert described["dtl"] == {"mode": "sync", "node": "node3", "state": "in_sync"}
    assert described["mds"] == ["node2"]
