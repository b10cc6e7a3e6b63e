"""Domains and nodes: registration, the seed's rules, and every refusal with its reason."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from ovs_daemon.control import domains, nodes, volumes
from ovs_daemon.control.host import Host, Membership
from ovs_daemon.control.liveness import Liveness
from ovs_daemon.control.nodes import Change
from ovs_daemon.control.recovery import recover
from ovs_daemon.control.registration import register
from ovs_daemon.control.store import NODE, Store
from ovs_daemon.control.topology import Alive, Node
from ovs_daemon.control.view import View
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.model import Role
from ovs_daemon.registry import Create, Lease, Operation, Registry
from ovs_daemon.registry.memory import MemoryRegistry
from tests.support.fake_engine import FakeDisk, FakeEngine
from tests.support.house import House
from tests.support.refusal import refused

GIB = 1 << 30


class ClusterRegistry(MemoryRegistry):
    """Memory that counts as a cluster's registry: nothing is made there by the way."""

    embedded = False


def node_of(
    name: str, registry: Registry, domain: str | None = None, recovery: str | None = None
) -> Host:
    """A host of twins on a shared registry, not yet registered."""
    house = House()
    host = house.make_host(registry, FakeEngine(FakeDisk()))
    member = Membership(domain is not None, recovery, instance=name)
    host.settings = replace(host.settings, node=name, domain=domain or "default", membership=member)
    return host


def test_nodes_that_keep_logs_share_one_backend(registry: Registry) -> None:
    def starting(name: str, backend: str, *addresses: tuple[str, str]) -> Host:
        host = node_of(name, registry)
        member = replace(host.settings.membership, backend=backend, addresses=addresses)
        host.settings = replace(host.settings, membership=member)
        return host

    register(starting("one", "left", ("dtl", "one:1")))
    register(starting("two", "left", ("dtl", "two:1")))
    register(starting("alone", "right"))
    refused(
        lambda: register(starting("three", "right", ("dtl", "three:1"))),
        "bad_request",
        "it stores objects on the backend right, node 'one' on the backend left",
        "vstorage node delete one",
    )
    assert Store(registry).node("three") is None


@pytest.fixture
def registry() -> Registry:
    return ClusterRegistry()


@pytest.fixture
def admin(registry: Registry) -> Host:
    """A node without a Domain: from there the first Domains are made."""
    host = node_of("admin", registry)
    register(host)
    for name in ("room1", "room2"):
        domains.create_domain(host, name, f"the {name}", f"az-{name}")
    return host


def test_one_host_needs_no_preparation() -> None:
    house = House()
    described = domains.describe_domain(View.of(house.host.store), house.host.store.domains()[0])
    assert (described["name"], described["nodes"]) == ("default", ["node1"])
    assert described["nodes_alive"] == ["node1"]
    house.start()
    assert [one.name for one in house.host.store.domains()] == ["default"]
    assert [one.domain for one in house.host.store.nodes()] == ["default"]


def test_an_empty_embedded_registry_gets_the_domain_that_is_asked_for() -> None:
    host = node_of("n1", MemoryRegistry(), "room7")
    host.settings = replace(host.settings, availability_zone="az7")
    register(host)
    domain = domains.domain_of(host)
    assert domain is not None
    assert (domain.name, domain.availability_zone) == ("room7", "az7")
    # A second one is a misspelt first one.
    refused(lambda: register(node_of("n2", host.store.registry, "romo7")), "unknown_domain")


def test_in_a_cluster_an_unknown_domain_is_refused(registry: Registry) -> None:
    host = node_of("n1", registry, "room1")
    refused(lambda: recover(host), "unknown_domain", "room1", "vstorage domain create room1")
    assert host.store.nodes() == []


def test_in_a_cluster_the_first_node_may_be_in_no_domain(registry: Registry, admin: Host) -> None:
    assert [one.domain for one in admin.store.nodes()] == [None]
    refused(
        lambda: volumes.create_volume(admin, "web1", GIB, None),
        "bad_request",
        "node 'admin' is in no Domain",
    )
    nodes.set_node(admin, "admin", Change("room1"))
    volumes.create_volume(admin, "web1", GIB, None)


def test_registration_keeps_what_was_changed_since(registry: Registry, admin: Host) -> None:
    host = node_of("n1", registry, "room1")
    first = register(host)
    nodes.set_node(admin, "n1", Change("room2"))
    again = register(host)
    assert (again.domain, again.registered_at) == ("room2", first.registered_at)
    assert again.started_at > first.started_at


def test_a_record_of_an_earlier_release_is_understood(registry: Registry, admin: Host) -> None:
    registry.commit([Create(NODE, "old", {"started_at": "2026-01-01"})])
    found = admin.store.node("old")
    assert found == Node("old", started_at="2026-01-01", version=found.version if found else 0)
    host = node_of("old", registry, "room1")
    assert register(host).domain == "room1"


def test_two_domains_may_recover_each_other_from_the_first_start(
    registry: Registry, admin: Host
) -> None:
    first = register(node_of("n1", registry, "room1", "room2"))
    assert (first.recovery_domain, first.wanted_recovery_domain) == (None, "room2")
    register(node_of("n2", registry, "room2", "room1"))
    found = {
        one.name: (one.recovery_domain, one.wanted_recovery_domain) for one in admin.store.nodes()
    }
    assert found["n1"] == ("room2", None)
    assert found["n2"] == ("room1", None)


@pytest.mark.parametrize(
    ("recovery", "code", "word"),
    [("nowhere", "unknown_domain", "nowhere"), ("room1", "bad_request", "its own Domain")],
)
def test_a_wrong_recovery_domain_stops_the_start(
    registry: Registry, admin: Host, recovery: str, code: str, word: str
) -> None:
    refused(lambda: register(node_of("n1", registry, "room1", recovery)), code, word)


def test_domain_verbs(admin: Host) -> None:
    refused(lambda: domains.create_domain(admin, "room1"), "duplicate_name", "room1")
    refused(lambda: domains.create_domain(admin, "a/b"), "bad_request", "a/b")
    refused(lambda: domains.set_domain(admin, "room9", "x"), "unknown_domain", "room9")
    refused(lambda: domains.delete_domain(admin, "room9"), "unknown_domain", "room9")
    changed = domains.set_domain(admin, "room1", "in the cellar", "")
    assert (changed.description, changed.availability_zone) == ("in the cellar", None)
    assert domains.set_domain(admin, "room1", None, "az9").description == "in the cellar"
    domains.delete_domain(admin, "room1")
    assert [one.name for one in admin.store.domains()] == ["room2"]


def test_a_domain_in_use_stays(registry: Registry, admin: Host) -> None:
    for name, domain in (("n1", "room1"), ("n2", "room2")):
        register(node_of(name, registry, domain))
    refused(lambda: domains.delete_domain(admin, "room1"), "in_use", "the Domain of n1")
    nodes.set_node(admin, "n1", Change(recovery_domain="room2"))
    nodes.set_node(admin, "n2", Change(recovery_domain="room1"))
    refused(
        lambda: nodes.set_node(admin, "n2", Change(domain="room1")),
        "in_use",
        "last node of 'room2'",
        "Recovery Domain of n1",
    )
    nodes.set_node(admin, "n1", Change(recovery_domain=""))
    nodes.set_node(admin, "n2", Change(domain="room1", recovery_domain=""))
    domains.delete_domain(admin, "room2")


def test_a_wanted_recovery_domain_stays(registry: Registry, admin: Host) -> None:
    register(node_of("n1", registry, "room1", "room2"))
    refused(lambda: domains.delete_domain(admin, "room2"), "in_use", "Recovery Domain of n1")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (Change(domain="room9"), "unknown_domain", ["room9"]),
        (Change(recovery_domain="room9"), "unknown_domain", ["room9"]),
        (Change(recovery_domain="room1"), "bad_request", ["its own Domain"]),
        (Change(recovery_domain="room2"), "bad_request", ["no node has it as its Domain"]),
        (Change("room2", "room1"), "bad_request", ["no node has it as its Domain"]),
    ],
)
def test_refused_assignments(
    registry: Registry, admin: Host, change: Change, code: str, words: list[str]
) -> None:
    register(node_of("n1", registry, "room1"))
    refused(lambda: nodes.set_node(admin, "n1", change), code, *words)


def test_a_node_in_no_domain_has_no_recovery_domain(registry: Registry, admin: Host) -> None:
    register(node_of("n1", registry, "room1"))
    refused(
        lambda: nodes.set_node(admin, "admin", Change(recovery_domain="room1")),
        "bad_request",
        "in no Domain",
    )


def test_an_unknown_node(admin: Host) -> None:
    refused(lambda: nodes.set_node(admin, "n9", Change("room1")), "unknown_node", "n9")
    refused(lambda: nodes.delete_node(admin, "n9"), "unknown_node", "n9")


def test_roles(registry: Registry, admin: Host) -> None:
    register(node_of("n1", registry, "room1"))
    changed = nodes.set_node(admin, "n1", Change(roles=(Role.EDGE,)))
    assert changed.roles == (Role.EDGE,)
    refused(lambda: nodes.parse_roles("x", ["edge", "cook"]), "bad_request", "cook")
    refused(lambda: nodes.parse_roles("x", []), "bad_request", "does nothing")
    assert nodes.parse_roles("x", ["osd", "edge"]) == (Role.EDGE, Role.OSD)


def test_an_owner_of_volumes_stays(registry: Registry, admin: Host) -> None:
    host = node_of("n1", registry, "room1")
    recover(host)
    volumes.create_volume(host, "web1", GIB, None)
    refused(lambda: nodes.delete_node(admin, "n1"), "in_use", "web1")
    refused(lambda: nodes.set_node(admin, "n1", Change(roles=(Role.OSD,))), "in_use", "web1")


def test_a_living_node_stays(registry: Registry, admin: Host) -> None:
    host = node_of("n1", registry, "room1")
    register(host)
    liveness = Liveness(host.store, Alive("n1", "n1", "now"), 60)
    liveness.begin()
    refused(lambda: nodes.delete_node(admin, "n1"), "in_use", "it is alive")
    liveness.start()
    liveness.stop()
    nodes.delete_node(admin, "n1")
    assert admin.store.node("n1") is None


def test_the_last_node_of_a_recovery_domain_stays(registry: Registry, admin: Host) -> None:
    register(node_of("n2", registry, "room2"))
    register(node_of("n1", registry, "room1", "room2"))
    refused(lambda: nodes.delete_node(admin, "n2"), "in_use", "last node of 'room2'")


def test_who_begins_to_use_a_domain_stops_its_deletion(registry: Registry, admin: Host) -> None:
    """Between looking and deleting, a node arrives."""
    register(node_of("n1", registry, "room1"))
    store = admin.store
    look = store.nodes

    def look_slowly() -> list[Node]:
        seen = look()
        store.nodes = look  # type: ignore[method-assign]
        nodes.set_node(admin, "n1", Change("room2"))
        return seen

    store.nodes = look_slowly  # type: ignore[method-assign]
    refused(lambda: domains.delete_domain(admin, "room2"), "in_use", "the Domain of n1")


def test_a_volume_of_another_node_is_not_opened_here(registry: Registry, admin: Host) -> None:
    first, second = (node_of(f"n{number}", registry, "room1") for number in (1, 2))
    recover(first)
    made = volumes.create_volume(first, "web1", GIB, None)
    recover(second)
    assert not second.is_open(made.uuid)
    found = second.store.volume(made.uuid)
    assert found is not None
    assert found.epoch == made.epoch
    refused(lambda: volumes.resize_volume(second, "web1", 2 * GIB), "not_here", "node 'n1' owns it")


def test_a_half_made_volume_of_another_node_is_left_alone(registry: Registry, admin: Host) -> None:
    first, second = (node_of(f"n{number}", registry, "room1") for number in (1, 2))
    recover(first)
    made = volumes.create_volume(first, "web1", GIB, None)
    from ovs_daemon.control.records import State
    from ovs_daemon.control.store import put

    first.store.commit(put(replace(made, state=State.CREATING)))
    recover(second)
    found = first.store.volume(made.uuid)
    assert found is not None
    assert found.state is State.CREATING


class SilentRegistry(MemoryRegistry):
    """One that does not answer signs of life while it is silent."""

    silent = False

    def __init__(self, test: TestLiveness) -> None:
        super().__init__(clock=lambda: test.time_s)
        self.test = test
        #: how long its answer is under way, seconds
        self.answers_after_s = 0.0
        self.granted: list[Lease] = []

    def grant(self, ttl_s: float) -> Lease:
        self.granted.append(super().grant(ttl_s))
        return self.granted[-1]

    def keep_alive(self, lease: Lease) -> bool:
        if self.silent:
            raise VStorageError("registry", "write the registry", "it is away", "wait")
        answer = super().keep_alive(lease)
        self.test.time_s += self.answers_after_s
        return answer


class TestLiveness:
    """Signs of life on a clock that the test moves."""

    def setup_method(self) -> None:
        self.time_s = 0.0
        self.registry = SilentRegistry(self)
        self.store = Store(self.registry)
        self.told: list[tuple[float, int]] = []

    def life(self, instance: str = "i1") -> Liveness:
        me = Alive("n1", instance, "today")
        return Liveness(self.store, me, 3.0, self.hear, clock=lambda: self.time_s)

    def hear(self, until_s: float, term: int) -> None:
        self.told.append((until_s, term))

    def test_a_beat_in_time_keeps_it(self) -> None:
        life = self.life()
        assert not life.held
        life.begin()
        for _ in range(5):
            self.time_s += 2.9
            assert life.held
            life.beat()
        assert set(self.store.alive()) == {"n1"}

    def test_a_node_knows_when_others_may_take_it_for_dead(self) -> None:
        life = self.life()
        life.begin()
        self.time_s = 3.0
        assert not life.held
        assert self.store.alive() == {}
        life.beat()
        assert life.held
        assert set(self.store.alive()) == {"n1"}

    def test_a_silent_registry_does_not_prolong_it(self) -> None:
        life = self.life()
        life.begin()
        self.registry.silent = True
        self.time_s = 2.0
        life.beat()
        assert life.held
        self.time_s = 3.0
        life.beat()
        assert not life.held
        self.registry.silent = False
        life.beat()
        assert life.held

    def test_the_moment_that_is_told_is_what_was_granted(self) -> None:
        """Neither a slow registry nor an engine that hears late makes the lease longer."""
        life = self.life()
        life.begin()
        assert self.told == [(3.0, 0)]
        self.time_s, self.registry.answers_after_s = 1.0, 1.5
        life.beat()
        assert self.time_s == 2.5
        assert self.told[1:] == [(4.0, 0)]

    def test_what_the_registry_has_ended_is_over_before_anything_begins_anew(self) -> None:
        life = self.life()
        life.begin()
        self.time_s = 1.0
        lease = next(iter(self.registry.granted))
        self.registry.revoke(lease)
        terms: list[int] = []
        commit = self.store.commit

        def watched(*operations: Operation) -> int:
            # Nobody counts this node among the living: what is read now may be another's next.
            terms.append(life.term)
            return commit(*operations)

        self.store.commit = watched  # type: ignore[method-assign]
        life.beat()
        assert terms == [0]
        assert life.term == 1
        assert self.told[1:] == [(1.0, 0), (4.0, 1)]

    def test_the_next_life_takes_over_its_own_sign(self) -> None:
        self.life().begin()
        self.time_s = 1.0
        second = self.life()
        second.begin()
        self.time_s = 3.5
        assert second.held
        assert set(self.store.alive()) == {"n1"}

    def test_two_hosts_of_one_name(self) -> None:
        self.life().begin()
        other = self.life("i2")
        refused(other.begin, "in_use", "another host is alive under this name")
        self.time_s = 3.0
        other.begin()
        assert other.held


def test_the_thread_gives_signs() -> None:
    signs = threading.Semaphore(0)

    class Counting(MemoryRegistry):
        def keep_alive(self, lease: Lease) -> bool:
            signs.release()
            return super().keep_alive(lease)

    store = Store(Counting())
    life = Liveness(store, Alive("n1", "i1", "today"), 0.3)
    life.begin()
    life.start()
    for _ in range(3):
        assert signs.acquire(timeout=60)
    life.stop()
    assert store.alive() == {}
