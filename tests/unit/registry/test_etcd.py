"""The etcd driver when etcd or the network misbehaves: real processes, killed and started again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ovs_daemon.control.opening import RELATIVES_AT_ONCE
from ovs_daemon.errors import VStorageError
from ovs_daemon.registry import (
    Absent,
    Conflict,
    Create,
    Delete,
    OutcomeUnknown,
    Registry,
    Unchanged,
    Update,
    open_registry,
)
from ovs_daemon.registry.etcd_link import Address
from tests.support.etcd import Carrier, Etcd
from tests.support.sockets import free_port

LONG_S = 60.0


@pytest.fixture
def own_etcd() -> Iterator[Etcd]:
    """One that a test may kill."""
    with Etcd() as etcd:
        yield etcd


def numbers(registry: Registry, ident: str = "a") -> int:
    record = registry.get("counter", ident)
    assert record is not None
    return int(record.body["n"])


def is_change(path: str, body: bytes) -> bool:
    """Whether a request is a transaction of the driver that swaps a slot and writes a record."""
    return path.endswith("/kv/txn") and len(json.loads(body)["success"]) > 1


class Fates:
    """The next changes meet these fates, everything else passes."""

    def __init__(self, *fates: str) -> None:
        self.fates = list(fates)
        self.met: list[str] = []

    def __call__(self, path: str, body: bytes) -> str:
        if not self.fates or not is_change(path, body):
            return "pass"
        self.met.append(self.fates.pop(0))
        return self.met[-1]


@pytest.mark.parametrize("verb", ["create", "update", "delete"])
@pytest.mark.parametrize(
    "fates",
    [
        ("lose_answer",),
        ("lose_request",),
        ("lose_request", "lose_answer"),
        ("delay", "lose_request", "pass"),
    ],
)
def test_a_lost_answer_is_looked_up(
    etcd: Etcd, tmp_path: Path, verb: str, fates: tuple[str, ...]
) -> None:
    """Each change happens exactly once, whatever the network does, and is reported so."""
    direct = open_registry(etcd.url(str(tmp_path)))
    seen = direct.commit([Create("counter", "a", {"n": 1})])
    decide = Fates(*fates)
    with Carrier(etcd, decide) as carrier:
        registry = open_registry(etcd.url(str(tmp_path), port=carrier.port))
        if verb == "create":
            version = registry.commit([Create("counter", "b", {"n": 1})])
            record = direct.get("counter", "b")
            assert record is not None
            assert record.version == version
        elif verb == "update":
            version = registry.commit([Update("counter", "a", seen, {"n": 2})])
            assert numbers(direct) == 2
            assert registry.commit([Update("counter", "a", version, {"n": 3})]) > version
        else:
            registry.commit([Delete("counter", "a", seen)])
            assert direct.get("counter", "a") is None
        assert decide.met == list(fates)
        # What was held back on the way comes too late to do anything.
        before = direct.list("counter")
        carrier.deliver()
        assert direct.list("counter") == before
        registry.close()
    direct.close()


def test_a_delayed_change_does_not_come_back_later(etcd: Etcd, tmp_path: Path) -> None:
    """Create is held back, tried again and done; the record is deleted; now the first arrives."""
    direct = open_registry(etcd.url(str(tmp_path)))
    with Carrier(etcd, Fates("delay")) as carrier:
        registry = open_registry(etcd.url(str(tmp_path), port=carrier.port))
        made = registry.commit([Create("counter", "a", {"n": 1})])
        direct.commit([Delete("counter", "a", made)])
        assert [json.loads(answer).get("succeeded") for answer in carrier.deliver()] == [None]
        assert direct.get("counter", "a") is None
        registry.close()
    direct.close()


def test_a_lost_refusal_is_a_conflict(etcd: Etcd, tmp_path: Path) -> None:
    direct = open_registry(etcd.url(str(tmp_path)))
    direct.commit([Create("counter", "a", {"n": 1})])
    with Carrier(etcd, Fates("lose_answer")) as carrier:
        registry = open_registry(etcd.url(str(tmp_path), port=carrier.port))
        with pytest.raises(Conflict):
            registry.commit([Create("counter", "a", {"n": 2})])
        registry.close()
    assert numbers(direct) == 1
    direct.close()


def test_an_outcome_that_cannot_be_looked_up_is_said_to_be_unknown(
    etcd: Etcd, tmp_path: Path
) -> None:
    cut = threading.Event()

    def decide(path: str, body: bytes) -> str:
        if is_change(path, body):
            cut.set()
            return "lose_answer"
        return "lose_request" if cut.is_set() else "pass"

    direct = open_registry(etcd.url(str(tmp_path)))
    with Carrier(etcd, decide) as carrier:
        registry = open_registry(etcd.url(str(tmp_path), port=carrier.port, timeout_s=0.5))
        with pytest.raises(OutcomeUnknown) as caught:
            registry.commit([Create("counter", "a", {"n": 1})])
        assert caught.value.code == "registry"
        # It did happen, as reading again tells.
        assert numbers(direct) == 1
        registry.close()
    direct.close()


def test_nobody_there_is_said_within_the_time_given() -> None:
    with pytest.raises(VStorageError, match=r"no member answered within 0\.2 s") as caught:
        open_registry(f"etcd://127.0.0.1:{free_port()}/x?timeout=0.2")
    assert not isinstance(caught.value, OutcomeUnknown)


def test_a_member_that_is_away_is_passed_over(etcd: Etcd, tmp_path: Path) -> None:
    members = f"127.0.0.1:{free_port()},127.0.0.1:{etcd.port}"
    registry = open_registry(f"etcd://{members}/{tmp_path}?timeout=30")
    registry.commit([Create("counter", "a", {"n": 1})])
    assert numbers(registry) == 1
    registry.close()


def test_while_etcd_is_away_everything_is_refused_clearly(own_etcd: Etcd) -> None:
    registry = open_registry(own_etcd.url("x", timeout_s=0.2))
    seen = registry.commit([Create("counter", "a", {"n": 1})])
    lease = registry.grant(LONG_S)
    own_etcd.kill9()
    attempts: list[Callable[[], object]] = [
        lambda: registry.get("counter", "a"),
        lambda: registry.list("counter"),
        lambda: registry.commit([Update("counter", "a", seen, {"n": 2})]),
        lambda: registry.grant(LONG_S),
        lambda: registry.keep_alive(lease),
        registry.revision,
        lambda: registry.watch(seen, 0.2),
    ]
    for attempt in attempts:
        with pytest.raises(VStorageError) as caught:
            attempt()
        assert caught.value.code == "registry"
        assert "start etcd" in caught.value.fix
    own_etcd.start()
    assert numbers(registry) == 1
    assert registry.commit([Update("counter", "a", seen, {"n": 2})]) > seen
    assert registry.keep_alive(lease)
    assert registry.watch(seen, LONG_S).keys == {("counter", "a")}
    registry.close()


def test_operations_wait_for_etcd_to_come_back(own_etcd: Etcd) -> None:
    registry = open_registry(own_etcd.url("x", timeout_s=LONG_S))
    start = registry.commit([Create("counter", "a", {"n": 1})])
    own_etcd.kill9()
    done: dict[str, object] = {}

    def work(name: str, attempt: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=lambda: done.update({name: attempt()}))
        thread.start()
        return thread

    threads = [
        work("watch", lambda: registry.watch(start, LONG_S).keys),
        work("commit", lambda: registry.commit([Create("counter", "b", {"n": 5})]) > start),
    ]
    own_etcd.start()
    for thread in threads:
        thread.join()
    assert done == {"watch": {("counter", "b")}, "commit": True}
    registry.close()


def test_no_increment_is_lost_or_made_twice_while_etcd_is_killed(own_etcd: Etcd) -> None:
    registry = open_registry(own_etcd.url("x", timeout_s=LONG_S))
    registry.commit([Create("counter", "a", {"n": 0})])
    made = [0, 0, 0]
    stop = threading.Event()
    progress = threading.Semaphore(0)

    def increment(place: int) -> None:
        while not stop.is_set():
            record = registry.get("counter", "a")
            assert record is not None
            try:
                body = {"n": record.body["n"] + 1}
                registry.commit([Update("counter", "a", record.version, body)])
            except Conflict:
                continue
            made[place] += 1
            progress.release()

    workers = [threading.Thread(target=increment, args=(place,)) for place in range(len(made))]
    for worker in workers:
        worker.start()
    for _ in range(3):
        for _ in range(20):
            assert progress.acquire(timeout=LONG_S)
        own_etcd.kill9()
        own_etcd.start()
    stop.set()
    for worker in workers:
        worker.join()
    assert numbers(registry) == sum(made)
    registry.close()


def test_slots_that_are_gone_are_made_again(etcd: Etcd, tmp_path: Path) -> None:
    registry = open_registry(etcd.url(str(tmp_path)))
    seen = registry.commit([Create("counter", "a", {"n": 1})])
    lease = registry._slot_lease  # type: ignore[attr-defined]
    registry._end_lease(lease[0], registry._link.deadline())  # type: ignore[attr-defined]
    seen = registry.commit([Update("counter", "a", seen, {"n": 2})])
    assert numbers(registry) == 2
    with pytest.raises(Conflict):
        registry.commit([Update("counter", "a", seen - 1, {"n": 3})])
    registry.close()


def test_two_registries_in_one_etcd_do_not_mix(etcd: Etcd, tmp_path: Path) -> None:
    one, two = (open_registry(etcd.url(f"{tmp_path}/{name}")) for name in ("a", "ab"))
    start = two.revision()
    one.commit([Create("counter", "a", {"n": 1})])
    assert two.list("counter") == []
    two.commit([Create("counter", "x", {})])
    assert two.watch(start, LONG_S).keys == {("counter", "x")}
    one.close()
    two.close()


def test_large_transactions(etcd: Etcd, tmp_path: Path) -> None:
    registry = open_registry(etcd.url(str(tmp_path)))
    registry.commit([Create("counter", str(number), {}) for number in range(1000)])
    assert len(registry.list("counter")) == 1000
    with pytest.raises(VStorageError, match="max-txn-ops"):
        registry.commit([Create("many", str(number), {}) for number in range(5000)])
    assert registry.list("many") == []
    registry.close()


@pytest.mark.parametrize(
    "url",
    [
        "etcd:///prefix",
        "etcd://host:port/x",
        "etcd://host:1/x?timeout=soon",
        "etcd://host:1/x?timeout=0",
        "etcd://host:1/x?colour=blue",
        "etcd://host:1,/x",
        "etcd://host:1/x?tls=maybe",
    ],
)
def test_a_wrong_url_is_explained(url: str) -> None:
    with pytest.raises(VStorageError) as caught:
        Address.parse(url)
    assert url in caught.value.what
    assert "etcd://HOST:PORT" in caught.value.fix


def test_urls() -> None:
    address = Address.parse("etcd://a:1,[::1]:2,c/cloud/vs/?timeout=3&ca_cert=/ca&cert=/c&key=/k")
    assert address.members == (("a", 1), ("::1", 2), ("c", 2379))
    assert (address.prefix, address.timeout_s, address.tls) == ("/cloud/vs", 3.0, True)
    assert (address.ca_cert, address.cert, address.key) == ("/ca", "/c", "/k")
    assert Address.parse("etcd://a").prefix == "/vstorage"


def test_what_is_taken_over_at_once_is_no_more_than_etcd_takes() -> None:
    """With its own limit, 128, and not the one that we recommend."""
    with Etcd(operations_max=128) as etcd:
        registry = open_registry(etcd.url("default"))
        taken = [
            Create("volume", str(number), {"n": number}) for number in range(RELATIVES_AT_ONCE)
        ]
        registry.commit([Absent("alive", "a1"), *taken])
        reasons = [Unchanged("volume", "0", 0), Unchanged("alive", "a1", 0)]
        with pytest.raises(Conflict):
            registry.commit([*(replace(one, ident=f"x{one.ident}") for one in taken), *reasons])
        registry.close()


def test_whether_etcd_takes_a_transaction_is_known_before() -> None:
    with Etcd(operations_max=128) as etcd:
        registry = open_registry(etcd.url("default"))
        for size in (126, 127, 128, 129):
            operations = [Create(f"of{size}", str(number), {}) for number in range(size)]
            if registry.has_room(size):
                registry.commit(operations)
                assert len(registry.list(f"of{size}")) == size
            else:
                assert size > 127
                with pytest.raises(VStorageError, match="max-txn-ops"):
                    registry.commit(operations)
        assert not registry.has_room(5000)
        registry.close()
