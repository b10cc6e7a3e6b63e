"""What goes wrong with one thing keeps the steward, and the desk, from nothing else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from ovs_daemon.control import attachments, nodes, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.dtl import DtlEvent
from ovs_daemon.control.edge_link import EdgeLink
from ovs_daemon.control.moves import take_over
from ovs_daemon.control.opening import Taken
from ovs_daemon.control.osds import OsdLink
from ovs_daemon.control.records import Dtl, Mode, State, Volume
from ovs_daemon.control.steward import Steward
from ovs_daemon.control.store import put
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.model import DtlMode, DtlState
from ovs_daemon.registry.memory import MemoryRegistry
from tests.support.refusal import refused
from tests.support.town import Town
from tests.support.waiting import wait_until

GIB = 1 << 30
PATIENCE_S = 60.0


def impatient(town: Town, name: str, at_once: int = 8) -> Steward:
    """A node's steward that waits for nothing that it has begun."""
    node = town[name]
    node.steward = Steward(
        node.host, lambda: True, clock=lambda: town.time_s, at_once=at_once, patience_s=0.0
    )
    return node.steward


@pytest.fixture
def town() -> Town:
    return Town({"a1": ("a", "b"), "a2": ("a", "b"), "b1": ("b", "a"), "b2": ("b", "a")})


def make(town: Town, owner: str = "a1", name: str = "web1") -> Volume:
    """A volume of that node, paired and in sync."""
    made = volumes.create_volume(town[owner].host, name, GIB, None)
    town[owner].steward.tend()
    return town.in_sync(town.volume(made.uuid))


def test_a_stopped_volume_that_stays_keeps_no_other_waiting(town: Town) -> None:
    stuck, other = make(town, "a1", "stuck"), make(town, "a2", "other")
    steward, engine = town["a1"].steward, town["a1"].engine
    engine.stopped.add(stuck.uuid)
    steward.fenced(stuck.uuid)
    engine.fail.add("close_volume")
    town["a2"].kill()
    town.pass_time()
    steward.tend()
    assert town.volume(other.uuid).node == "a1"
    engine.fail.clear()
    steward.tend()
    assert town.volume(stuck.uuid).epoch > stuck.epoch, "it is open again"


def test_an_engine_that_takes_no_osds_keeps_no_volume_waiting(town: Town) -> None:
    volume = make(town, "a2")
    host = town["a1"].host
    steward = Steward(
        host, lambda: True, clock=lambda: town.time_s, osds=OsdLink(host, None, shared=True)
    )
    town["a1"].engine.fail.add("set_osds")
    town["a2"].kill()
    town.pass_time()
    steward.tend()
    assert town.volume(volume.uuid).node == "a1"
    assert steward._due(), "it is told again"
    town["a1"].engine.fail.clear()
    steward.tend()
    assert not steward._due()


def test_a_bug_with_one_volume_keeps_no_other_waiting(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, other = make(town, "a2", "odd"), make(town, "a2", "other")
    host = town["a1"].host
    acquire = host.acquire

    def stumble(volume: Volume, taken: Taken | None = None) -> Volume:
        if volume.uuid == odd.uuid:
            raise KeyError("a field that is not there")
        return acquire(volume, taken)

    monkeypatch.setattr(host, "acquire", stumble)
    town["a2"].kill()
    town.pass_time()
    town["a1"].steward.tend()
    assert town.volume(other.uuid).node == "a1"
    monkeypatch.setattr(host, "acquire", acquire)
    town.time_s += 1000
    for name in ("a1", "b1", "b2"):
        town[name].liveness.beat()
    town["a1"].steward.tend()
    assert town.volume(odd.uuid).node == "a1"


class TestThreads:
    """They go on after a bug."""

    def test_the_steward(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # It waits by a clock that goes on.
        town = Town({"a1": ("a", None)}, MemoryRegistry())
        again = threading.Event()
        passes = iter([KeyError("a bug")])

        def tend() -> None:
            for bug in passes:
                raise bug
            again.set()

        steward = town["a1"].steward
        monkeypatch.setattr(steward, "tend", tend)
        steward.start()
        assert again.wait(PATIENCE_S), "its thread has ended"
        steward.stop()

    def test_the_desk(self, town: Town) -> None:
        volume = make(town)
        desk, engine = town["a1"].desk, town["a1"].engine
        engine.events.put({"id": 98, "kind": "dtl_state"})
        event = {"id": 99, "kind": "dtl_state", "uuid": volume.uuid, "epoch": volume.epoch}
        engine.events.put({**event, "node": "b1", "from": "in_sync", "to": "degraded"})
        answered, answer = threading.Event(), engine.answer_event

        def hear(ident: int, accepted: bool, /) -> None:
            answer(ident, accepted)
            answered.set()

        engine.answer_event = hear  # type: ignore[method-assign]
        desk.start()
        assert answered.wait(PATIENCE_S), "its thread has ended"
        desk.stop()
        assert engine.answers[99]

    def test_a_question_of_a_former_pair_changes_nothing(self, town: Town) -> None:
        volume = make(town)
        a1 = town["a1"]
        a1.engine.stale.add(99)
        event = {"id": 99, "kind": "dtl_state", "uuid": volume.uuid, "epoch": volume.epoch}
        event |= {"node": volume.dtl.node, "from": "in_sync", "to": "degraded"}
        before = a1.host.store.volume(volume.uuid)
        assert before is not None
        assert before.dtl.state is not DtlState.DEGRADED
        a1.desk.handle(event)
        assert a1.host.store.volume(volume.uuid) == before
        a1.desk.handle({**event, "id": 100})
        after = a1.host.store.volume(volume.uuid)
        assert after is not None
        assert after.dtl.state is DtlState.DEGRADED

    def test_a_question_that_meets_a_bug_is_answered_all_the_same(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = make(town)
        a1, bugs = town["a1"], iter([KeyError("a bug")])
        find = a1.host.store.volume

        def stumble(uuid: str) -> Volume | None:
            for bug in bugs:
                raise bug
            return find(uuid)

        monkeypatch.setattr(a1.host.store, "volume", stumble)
        event = {"id": 99, "kind": "dtl_state", "uuid": volume.uuid, "epoch": volume.epoch}
        a1.desk.handle({**event, "node": "b1", "from": "in_sync", "to": "degraded"})
        assert a1.engine.answers[99]

    def test_the_edge_link(self, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
        host = town["a1"].host

        def stumble() -> None:
            raise KeyError("a bug")

        monkeypatch.setattr(host.edge, "ping", stumble)
        link = EdgeLink(host, lambda: 1.0)
        link.check()
        assert not link.connected

    def test_liveness(self, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
        liveness = town["a1"].liveness

        def stumble(*_: object) -> bool:
            raise KeyError("a bug")

        monkeypatch.setattr(town.registry, "keep_alive", stumble)
        liveness.beat()
        monkeypatch.undo()
        liveness.beat()
        assert liveness.held


def test_the_engine_is_answered_before_anybody_is_told(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes wait for the answer."""
    volume = make(town)
    engine = town["a1"].engine
    told: list[tuple[DtlState, bool | None]] = []

    def recorded(event: DtlEvent) -> None:
        told.append((event.after, engine.answers.get(7)))

    monkeypatch.setattr(town["a1"].desk, "_recorded", recorded)
    assert town["a1"].says(volume, DtlState.IN_SYNC, DtlState.DEGRADED, 7)
    assert told == [(DtlState.DEGRADED, True)]


def test_a_log_that_is_kept_again_is_not_forgotten(town: Town) -> None:
    """a1 has b1 replaced, gives the volume away before that is done, and gets it back with b1."""
    volume = make(town)
    town["b1"].kill()
    assert town["a1"].says(volume, DtlState.IN_SYNC, DtlState.DEGRADED)
    town.pass_time()
    town["a1"].steward.tend()
    assert town.volume(volume.uuid).dtl.node == "b2"
    town["b1"].start()
    alone = Dtl(DtlMode.SYNC, None, DtlState.STANDALONE)
    town["a1"].host.store.commit(put(replace(town.volume(volume.uuid), dtl=alone)))
    town["b2"].kill()
    town.pass_time()
    town["a1"].steward.tend()
    assert town.volume(volume.uuid).dtl.node == "b1"
    town.in_sync(town.volume(volume.uuid))
    town["a1"].steward.tend()
    assert ("b1:1", volume.uuid) in town.keepers.tails


def test_a_deletion_that_another_node_has_to_finish_is_not_called_done(town: Town) -> None:
    volume = make(town)
    town["a1"].host.store.commit(
        put(replace(town.volume(volume.uuid), state=State.DELETING, name="web1"))
    )
    refused(lambda: volumes.delete_volume(town["b1"].host, "web1", False), "not_here", "'a1'")
    assert volumes.delete_volume(town["a1"].host, "web1", False)
    assert volume.uuid not in town.disk.volumes


def test_other_guests_do_not_wait_while_a_volume_is_opened(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Edge can be told of new owners while somebody attaches what takes long to open."""
    volume = make(town)
    host = town["a1"].host
    host.close(volume.uuid)
    open_volume = town["a1"].engine.open_volume
    free: list[bool] = []

    def look(spec: str, /) -> str:
        def try_lock() -> None:
            free.append(host.edge_lock.acquire(blocking=False))
            if free[-1]:
                host.edge_lock.release()

        other = threading.Thread(target=try_lock)
        other.start()
        other.join()
        return open_volume(spec)

    monkeypatch.setattr(town["a1"].engine, "open_volume", look)
    attachments.attach(host, "web1", Wish(Mode.EDGE))
    assert free == [True]


def test_a_failure_to_open_is_told_to_who_attaches(town: Town) -> None:
    volume = make(town)
    town["a1"].host.close(volume.uuid)
    town.disk.volumes[volume.uuid].corrupt = True
    with pytest.raises(VStorageError) as caught:
        attachments.attach(town["a1"].host, "web1", Wish(Mode.EDGE))
    assert caught.value.code == "corrupt"
    assert town.volume(volume.uuid).attachments == ()


def test_an_engine_that_does_not_take_a_pair_is_told_again(town: Town) -> None:
    """The record names the new keeper already, so that nothing else would be done about it."""
    volume = make(town)
    a1, before = town["a1"], volume.dtl.node
    assert before is not None
    town[before].kill()
    town.pass_time()
    a1.engine.fail.add("set_dtl")
    a1.steward.tend()
    keeper = town.volume(volume.uuid).dtl.node
    assert keeper not in (None, before)
    assert told_keeper(town, volume) == before
    assert volume.uuid in a1.host.failures()
    assert a1.steward._due()
    a1.engine.fail.clear()
    a1.steward.tend()
    assert told_keeper(town, volume) == keeper
    assert a1.host.failures() == {}
    assert not a1.steward._due()


def told_keeper(town: Town, volume: Volume) -> str | None:
    """Who keeps the log, as the engine of a1 knows it."""
    told = town["a1"].engine.dtl[volume.uuid]
    return None if told is None else str(told["node"])


class Slow:
    """An engine whose call takes as long with one volume as the test wants."""

    def __init__(self, town: Town, monkeypatch: pytest.MonkeyPatch, name: str, uuid: str) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.calls = 0
        engine = town["a2"].engine
        call = getattr(engine, name)

        def slowly(text: str, /) -> object:
            if uuid in text:
                self.calls += 1
                self.begun.set()
                assert self.may_end.wait(PATIENCE_S), "nobody let it end"
            return call(text)

        monkeypatch.setattr(engine, name, slowly)


class TestManyVolumes:
    """What a dead node leaves is opened beside each other, and each by itself."""

    def test_they_are_opened_beside_each_other(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each opening ends when all others have begun."""
        made = [make(town, name=f"web{number}") for number in range(4)]
        together = threading.Barrier(len(made))
        engine = town["a2"].engine
        open_volume = engine.open_volume

        def meet(spec: str, /) -> str:
            together.wait(PATIENCE_S)
            return open_volume(spec)

        monkeypatch.setattr(engine, "open_volume", meet)
        town["a1"].kill()
        town.pass_time()
        town["a2"].steward.tend()
        assert set(engine.open) == {volume.uuid for volume in made}

    @pytest.mark.parametrize("call", ["open_volume", "fetch_tail"])
    def test_a_slow_one_holds_up_nobody_else_and_is_not_begun_twice(
        self, town: Town, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        slow, quick = make(town, name="slow"), make(town, name="quick")
        town["a1"].kill()
        town.pass_time()
        engine, steward = town["a2"].engine, impatient(town, "a2")
        waited = Slow(town, monkeypatch, call, slow.uuid)
        steward.tend()
        assert waited.begun.wait(PATIENCE_S)
        wait_until(lambda: quick.uuid in engine.open, "opening of the quick one")
        for _ in range(2):
            steward.tend()
        # What follows an opening is done for the quick one.
        assert town.volume(quick.uuid).node == "a2"
        assert slow.uuid not in engine.open
        waited.may_end.set()
        wait_until(lambda: slow.uuid in engine.open, "opening of the slow one")
        wait_until(steward._due, "reason for another pass")
        assert waited.calls == 1
        steward._crew.stop()

    def test_a_drain_that_waits_for_the_backend_holds_up_no_takeover(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = volumes.create_volume(town["a2"].host, "own", GIB, None)
        left = make(town, name="left")
        nodes.set_draining(town["a2"].host, "a2", True)
        town["a1"].kill()
        town.pass_time()
        steward = impatient(town, "a2", at_once=1)
        waited = Slow(town, monkeypatch, "settle_volume", own.uuid)
        steward.tend()
        assert waited.begun.wait(PATIENCE_S)
        # While it is drained, others would go on with that one.
        nodes.set_draining(town["a2"].host, "a2", False)
        steward.tend()
        wait_until(lambda: left.uuid in town["a2"].engine.open, "takeover of the other")
        assert steward._drainer._under_way, "it waits still"
        waited.may_end.set()
        steward._crew.stop()
        steward._drainer.stop()

    def test_what_stands_behind_a_slow_one_keeps_its_pause(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow, broken = make(town, "a2", "slow"), make(town, "a2", "broken")
        steward = impatient(town, "a2", at_once=1)
        waited = Slow(town, monkeypatch, "open_volume", slow.uuid)

        def stop(volume: Volume) -> None:
            town["a2"].engine.stopped.add(volume.uuid)
            steward.fenced(volume.uuid)

        def failed(times: int) -> None:
            wait_until(
                lambda: times in [one.times for one in list(steward._attempts._failed.values())],
                f"failure {times} to open the broken one",
                lambda: dict(steward._attempts._failed),
                meanwhile=steward.tend,
            )

        town.disk.volumes[broken.uuid].corrupt = True
        stop(broken)
        for times in (1, 2, 3):
            failed(times)
            town.pass_time()
        failed(4)
        stop(slow)
        wait_until(waited.begun.is_set, "opening of the slow one", meanwhile=steward.tend)
        # Its turn may have been before, when it was not to be tried yet.
        steward.tend()
        assert steward._crew.is_at(broken.uuid)
        for _ in range(3):
            town.pass_time()
        steward.tend()
        waited.may_end.set()
        failed(5)
        steward._crew.stop()


def test_a_volume_that_is_stopped_again_is_let_go_of_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who waited for its lock has it open, and stopped, at once."""
    volume = make(town)
    host, steward = town["a1"].host, town["a1"].steward
    holding = host.locks.holding

    @contextlib.contextmanager
    def reopen_after(key: str) -> Iterator[None]:
        with holding(key):
            yield
        if key == volume.uuid:
            monkeypatch.undo()
            host.open(town.volume(volume.uuid))
            town["a1"].engine.stopped.add(volume.uuid)
            steward.fenced(volume.uuid)

    town["a1"].engine.stopped.add(volume.uuid)
    steward.fenced(volume.uuid)
    monkeypatch.setattr(host.locks, "holding", reopen_after)
    steward._let_go()
    assert host.is_open(volume.uuid)
    steward.tend()
    assert host.is_open(volume.uuid)
    assert town["a1"].engine.stopped == set()


def test_what_a_person_had_taken_over_meanwhile_is_not_taken_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of the steward's pass is older, and waits for the volume's lock."""
    volume = make(town)
    town["a1"].kill()
    town.pass_time()
    a2 = town["a2"]
    holding = a2.host.locks.holding
    taken: list[Volume] = []

    def wait_for_lock(key: str) -> AbstractContextManager[None]:
        if key == volume.uuid:
            monkeypatch.undo()
            taken.append(take_over(a2.host, "web1", accept_loss=False))
        return holding(key)

    monkeypatch.setattr(a2.host.locks, "holding", wait_for_lock)
    a2.steward.tend()
    assert [(one.node, one.epoch) for one in taken] == [("a2", town.volume(volume.uuid).epoch)]
    assert list(a2.engine.open) == [volume.uuid]
    assert a2.host.failures() == {}


def test_a_takeover_waits_for_no_osd_server_that_hangs(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = make(town)
    town.in_sync(town.volume(volume.uuid))
    town["a1"].kill()
    town.pass_time()
    goes_on = threading.Event()

    def hang(_: str, /) -> str:
        assert goes_on.wait(PATIENCE_S), "nobody lets it go on"
        return "[]"

    stewards = []
    for name in ("a2", "b1", "b2"):
        node = town[name]
        monkeypatch.setattr(node.engine, "osd_roll", hang)
        osds = OsdLink(node.host, "192.0.2.1:1", shared=True)
        stewards.append(Steward(node.host, lambda: True, osds=osds, patience_s=0.0))
        stewards[-1].tend()
    wait_until(lambda: town.volume(volume.uuid).node != "a1", "takeover of the volume")
    goes_on.set()
    for steward in stewards:
        steward._crew.stop()
        steward._asker.stop()


def test_who_is_told_to_forget_a_log_keeps_no_new_one_meanwhile(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = make(town, "a2")
    former = town.volume(volume.uuid).dtl.node
    assert former is not None
    other = next(name for name in ("b1", "b2") if name != former)
    steward = impatient(town, "a2")
    town[former].kill()
    assert town["a2"].says(volume, DtlState.IN_SYNC, DtlState.DEGRADED)
    town.pass_time()
    steward.tend()
    assert town.volume(volume.uuid).dtl.node == other
    town.in_sync(town.volume(volume.uuid))
    town[former].start()
    slow = Slow(town, monkeypatch, "drop_tail", volume.uuid)
    steward.tend()
    assert slow.begun.wait(PATIENCE_S)
    # Now the other one is gone, and only the former is left.
    town[other].kill()
    assert town["a2"].says(volume, DtlState.IN_SYNC, DtlState.DEGRADED)
    town.pass_time()
    steward.tend()
    assert town.volume(volume.uuid).dtl.node == other
    slow.may_end.set()

    def paired() -> bool:
        steward.tend()
        return town.volume(volume.uuid).dtl.node == former

    wait_until(paired, "the former keeper to keep the log again")
    steward._sweeper.stop()
