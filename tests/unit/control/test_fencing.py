"""Volumes that are taken away from hosts which hear nothing of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovs_daemon.control import attachments, fencing, moves, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Mode, Volume
from ovs_daemon.control.remote import Follower, where
from ovs_daemon.control.status import status
from ovs_daemon.control.steward import Steward
from ovs_daemon.control.store import put
from ovs_daemon.edge import EdgeUnavailable, Serving
from ovs_daemon.errors import Code, VStorageError
from tests.support.fake_edge import FakeEdge, generation_of
from tests.support.town import MIB, Inhabitant, Town
from tests.support.waiting import wait_until

PREEMPT = Wish(Mode.EDGE, preempt=True)


@pytest.fixture
def town() -> Town:
    """Three hosts; the first one owns web1, and the second one's Edge serves it."""
    made = Town(dict.fromkeys(("one", "two", "three"), ("rack1", None)))
    volumes.create_volume(made["one"].host, "web1", 64 * MIB, None)
    attachments.attach(made["two"].host, "web1", Wish(Mode.EDGE))
    return made


def record(town: Town) -> Volume:
    found = town["one"].host.store.find_volume("web1")
    assert found is not None
    return found


def let_in(owner: Inhabitant, volume: Volume) -> int:
    """The generation that an engine lets in."""
    return owner.engine.open[volume.uuid].generation


def token_at(node: Inhabitant, volume: Volume) -> str:
    """What the Edge there attaches with."""
    edge = node.host.edge
    assert isinstance(edge, FakeEdge)
    return str(edge.served[volume.uuid]["token"])


def test_an_attachment_of_nobody_else_costs_nothing(town: Town) -> None:
    assert (record(town).generation, record(town).enforced) == (0, 0)
    attachments.detach(town["two"].host, "web1")
    attachments.attach(town["one"].host, "web1", Wish(Mode.EDGE))
    attachments.detach(town["one"].host, "web1")
    volume = record(town)
    assert volume.generation == 0
    assert not {"generation", "enforced"} & volume.body().keys(), "as earlier releases know it"


def test_who_loses_it_is_shut_out_before_the_other_one_has_it(town: Town) -> None:
    town["two"].kill()
    seen: list[tuple[int, int]] = []
    edge = town["three"].host.edge
    serve = edge.attach

    def note(serving: Serving) -> None:
        seen.append((let_in(town["one"], record(town)), record(town).enforced))
        serve(serving)

    edge.attach = note  # type: ignore[method-assign]
    attachments.attach(town["three"].host, "web1", PREEMPT)
    assert seen == [(1, 1)], "before its own Edge is told to serve"
    assert generation_of(token_at(town["three"], record(town))) == 1
    assert generation_of(token_at(town["two"], record(town))) == 0


def test_the_owner_shuts_out_by_itself_who_it_takes_it_from(town: Town) -> None:
    attachments.attach(town["one"].host, "web1", PREEMPT)
    volume = record(town)
    assert (volume.generation, volume.enforced, let_in(town["one"], volume)) == (1, 1, 1)
    token = token_at(town["one"], volume)
    assert generation_of(token) == 1, "its own Edge is told as well"


def test_a_detach_from_afar_shuts_out_too(town: Town) -> None:
    attachments.detach(town["one"].host, "web1", everybody=True)
    assert let_in(town["one"], record(town)) == 1
    attachments.attach(town["two"].host, "web1", Wish(Mode.EDGE))
    assert generation_of(token_at(town["two"], record(town))) == 1
    attachments.detach(town["three"].host, "web1", everybody=True)
    assert (record(town).enforced, let_in(town["one"], record(town))) == (2, 2)


def test_others_of_a_shared_volume_get_new_tokens(town: Town) -> None:
    attachments.attach(town["three"].host, "web1", Wish(Mode.EDGE, holder="nova", shared=True))
    follower = Follower(town["three"].host)
    follower.look()
    attachments.detach(town["one"].host, "web1", holder="local")
    follower.look()
    edge = town["three"].host.edge
    assert isinstance(edge, FakeEdge)
    assert generation_of(edge.retargeted[-1]["token"]) == 1


def test_a_daemon_that_comes_back_makes_no_token_for_what_it_lost(town: Town) -> None:
    stale = record(town)
    attachments.attach(town["three"].host, "web1", PREEMPT)
    # It had read the record before; what it makes of that is worth nothing.
    old = where(town["two"].host, stale, read_only=False).token
    assert old is not None
    assert generation_of(old) == 0
    Follower(town["two"].host).look()
    edge = town["two"].host.edge
    assert isinstance(edge, FakeEdge)
    assert edge.served == {}
    attachments.reconcile_edge(town["two"].host)
    assert edge.served == {}


def test_the_next_owner_reads_the_generation(town: Town) -> None:
    attachments.attach(town["three"].host, "web1", PREEMPT)
    moves.move_volume(town["one"].host, "web1", "two")
    town.tend()
    assert let_in(town["two"], record(town)) == 1
    before = record(town)
    current = town.in_sync(before) if before.dtl.node else before
    assert current.node == "two"
    town["two"].kill()
    town.pass_time()
    town.tend()
    after = record(town)
    assert after.node in ("one", "three")
    assert (after.generation, let_in(town[after.node], after)) == (1, 1)


def killed(host_call: Callable[[], object]) -> Callable[..., object]:
    def die(*_: object, **__: object) -> object:
        host_call()
        raise KeyboardInterrupt

    return die


def test_killed_between_the_record_and_the_engine(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was told that it is done; the owner does it when it sees the record."""
    monkeypatch.setattr(attachments, "shut_out", killed(lambda: None))
    with pytest.raises(KeyboardInterrupt):
        attachments.attach(town["three"].host, "web1", PREEMPT)
    volume = record(town)
    assert [one.node for one in volume.attachments] == ["three"]
    assert (volume.generation, volume.enforced, let_in(town["one"], volume)) == (1, 0, 0)
    town["one"].steward.tend()
    assert (record(town).enforced, let_in(town["one"], record(town))) == (1, 1)


def test_an_owner_that_is_killed_before_it_heard(town: Town) -> None:
    town["one"].engine.fail.add("shut_out")
    waited: list[int] = []

    def wait(_revision: int, _seconds: float) -> None:
        waited.append(1)
        town["one"].steward.tend()
        if len(waited) == 3:
            town["one"].kill()
            town.pass_time()

    town["three"].host.await_change = wait
    # Its lease is over: it serves nobody, whoever opens it next reads the record.
    attachments.attach(town["three"].host, "web1", PREEMPT)
    assert (record(town).generation, record(town).enforced) == (1, 0)
    town["one"].start()
    town["one"].steward.tend()
    assert (record(town).enforced, let_in(town["one"], record(town))) == (1, 1)


def test_an_owner_that_says_nothing_is_no_success(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "_PATIENCE_S", -1.0)
    town["three"].host.await_change = lambda _revision, _seconds: None
    with pytest.raises(VStorageError, match="they may still write") as caught:
        attachments.attach(town["three"].host, "web1", PREEMPT)
    assert caught.value.code == Code.BUSY
    assert "'one'" in caught.value.why
    volume = record(town)
    assert (volume.attachments, volume.generation, volume.enforced) == ((), 1, 0)
    edge = town["three"].host.edge
    assert isinstance(edge, FakeEdge)
    assert edge.served == {}
    # Whoever attaches it next waits for that as well.
    with pytest.raises(VStorageError, match="they may still write"):
        attachments.attach(town["three"].host, "web1", Wish(Mode.EDGE))
    town["one"].steward.tend()
    attachments.attach(town["three"].host, "web1", Wish(Mode.EDGE))


def test_an_owner_that_may_serve_without_a_lease_is_not_believed_dead(town: Town) -> None:
    store = town["three"].host.store
    node = store.node("one")
    assert node is not None
    store.commit(put(replace(node, addresses={"edge_tcp": node.addresses["edge_tcp"]})))
    town["one"].kill()
    town.pass_time()
    with pytest.raises(VStorageError, match="is not alive, as far as the registry knows"):
        attachments.attach(town["three"].host, "web1", PREEMPT)


def test_what_the_owner_serves_itself_ends_as_well(town: Town) -> None:
    attachments.detach(town["two"].host, "web1")
    attachments.attach(town["one"].host, "web1", Wish(Mode.DIRECT))
    uuid = record(town).uuid
    assert town["one"].engine.open[uuid].export == "web1"
    attachments.attach(town["three"].host, "web1", PREEMPT)
    assert town["one"].engine.open[uuid].export is None
    assert record(town).enforced == 1


def findings(node: Inhabitant, code: str) -> list[dict[str, Any]]:
    """What `vstorage status` says there."""
    return [one for one in status(node.host, True)["findings"] if one["code"] == code]


def test_status_says_who_may_still_write(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took it away was killed, or has given up; the owner says nothing."""
    monkeypatch.setattr(attachments, "shut_out", killed(lambda: None))
    with pytest.raises(KeyboardInterrupt):
        attachments.attach(town["three"].host, "web1", PREEMPT)
    for node in town.nodes.values():
        (found,) = findings(node, "shut_out_unconfirmed")
        assert (found["severity"], found["object"]) == ("warning", "volume web1")
        assert "node one" in found["why"]
    town["one"].steward.tend()
    assert findings(town["three"], "shut_out_unconfirmed") == []


def test_status_tells_a_dead_owner_that_may_serve_from_one_that_cannot(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "shut_out", killed(lambda: None))
    with pytest.raises(KeyboardInterrupt):
        attachments.attach(town["three"].host, "web1", PREEMPT)
    town["one"].kill()
    town.pass_time()
    assert findings(town["three"], "shut_out_unconfirmed") == [], "its lease is over"
    store = town["three"].host.store
    node = store.node("one")
    assert node is not None
    store.commit(put(replace(node, addresses={"edge_tcp": node.addresses["edge_tcp"]})))
    (found,) = findings(town["three"], "shut_out_unconfirmed")
    assert (found["severity"], "needs no lease" in found["why"]) == ("critical", True)


def test_status_says_that_guests_of_a_dead_daemon_may_be_left_out(town: Town) -> None:
    """Others were shut out, and only its own daemon could give that Edge a new leave."""
    attachments.attach(town["three"].host, "web1", Wish(Mode.EDGE, holder="nova", shared=True))
    town["three"].kill()
    town.pass_time()
    (before,) = findings(town["one"], "attachment_silent")
    assert "its guest waits" not in before["why"]
    attachments.detach(town["one"].host, "web1", holder="local")
    (after,) = findings(town["one"], "attachment_silent")
    assert "its guest waits until the daemon is back" in after["why"]


def test_volumes_that_are_moved_keep_no_other_waiting(town: Town) -> None:
    """Whoever moves a family holds the locks of all of it for as long as the backend takes."""
    one = town["one"]
    moved = [
        volumes.create_volume(one.host, f"moved{number}", 64 * MIB, None) for number in range(40)
    ]
    last = volumes.create_volume(one.host, "zzz", 64 * MIB, None)
    steward = Steward(one.host, lambda: True, patience_s=0.0)
    held, may_end = threading.Event(), threading.Event()

    def move() -> None:
        with contextlib.ExitStack() as locks:
            for volume in moved:
                locks.enter_context(one.host.locks.holding(volume.uuid))
            held.set()
            assert may_end.wait(600), "nobody lets it end"

    def enforced(volume: Volume) -> bool:
        return let_in(one, volume) == town.volume(volume.uuid).enforced == 1

    mover = threading.Thread(target=move)
    mover.start()
    try:
        assert held.wait(60)
        for volume in (*moved, last):
            one.host.store.commit(put(replace(town.volume(volume.uuid), generation=1)))
        wait_until(lambda: enforced(last), "shut-out of the other", meanwhile=steward.tend)
        assert not any(enforced(volume) for volume in moved)
    finally:
        may_end.set()
        mover.join()
    wait_until(lambda: all(map(enforced, moved)), "shut-out of those", meanwhile=steward.tend)
    steward._guards.stop()


def test_volumes_whose_backend_stands_still_keep_no_other_waiting(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their writes are waited for again and again, for seconds each time."""
    one = town["one"]
    stuck = {
        volumes.create_volume(one.host, f"stuck{number}", 64 * MIB, None).uuid
        for number in range(40)
    }
    steward = Steward(one.host, lambda: True, patience_s=0.0)
    tried: set[str] = set()
    guard, may_end, shut_out = threading.Lock(), threading.Event(), one.host.engine.shut_out

    def stand_still(uuid: str, generation: int) -> None:
        with guard:
            again = uuid not in stuck or uuid in tried
            tried.add(uuid)
        if not again:
            raise VStorageError(Code.BUSY, "shut out", "requests are not done", "")
        if uuid in stuck:
            assert may_end.wait(600), "nobody lets it end"
        shut_out(uuid, generation)

    def raise_generation(uuid: str) -> None:
        one.host.store.commit(put(replace(town.volume(uuid), generation=1)))

    def enforced(uuid: str) -> bool:
        return town.volume(uuid).enforced == 1

    monkeypatch.setattr(one.host.engine, "shut_out", stand_still)
    try:
        for uuid in stuck:
            raise_generation(uuid)
        wait_until(lambda: stuck <= tried, "a try for each", meanwhile=steward.tend)
        last = record(town).uuid
        raise_generation(last)
        wait_until(lambda: enforced(last), "shut-out of the other", meanwhile=steward.tend)
        assert not any(map(enforced, stuck))
    finally:
        may_end.set()
    wait_until(lambda: all(map(enforced, stuck)), "shut-out of those", meanwhile=steward.tend)
    steward._guards.stop()
    steward._guards_again.stop()


def edge_of(node: Inhabitant) -> FakeEdge:
    edge = node.host.edge
    assert isinstance(edge, FakeEdge)
    return edge


def gives_up(edge: FakeEdge) -> None:
    edge.detached = {"confirmed": False}


def of_an_earlier_release(edge: FakeEdge) -> None:
    edge.detached = {}


def restarted(edge: FakeEdge) -> None:
    edge.restart()


def crashed(edge: FakeEdge) -> None:
    edge.up = False


@pytest.mark.parametrize("became", [gives_up, of_an_earlier_release, restarted, crashed])
def test_whoever_lets_go_and_is_not_certain_to_have_ended_is_shut_out(
    town: Town, monkeypatch: pytest.MonkeyPatch, became: Callable[[FakeEdge], None]
) -> None:
    monkeypatch.setattr(fencing, "_PATIENCE_S", -1.0)
    for host in ("two", "three"):
        town[host].host.await_change = lambda _revision, _seconds: None
    became(edge_of(town["two"]))
    # The host has let go, and waits for nobody.
    released = attachments.detach(town["two"].host, "web1")
    assert (released.attachments, released.generation, released.enforced) == ((), 1, 0)
    # Whoever wants to have it next does.
    with pytest.raises(VStorageError, match="they may still write"):
        attachments.attach(town["three"].host, "web1", Wish(Mode.EDGE))
    assert (record(town).attachments, record(town).generation) == ((), 1)
    town["one"].steward.tend()
    assert let_in(town["one"], record(town)) == 1
    attachments.attach(town["three"].host, "web1", Wish(Mode.EDGE))
    assert generation_of(token_at(town["three"], record(town))) == 1


def test_the_owner_itself_is_not_certain_and_shuts_out_its_own_edge(town: Town) -> None:
    attachments.detach(town["two"].host, "web1")
    attachments.attach(town["one"].host, "web1", Wish(Mode.EDGE))
    gives_up(edge_of(town["one"]))
    assert attachments.detach(town["one"].host, "web1").generation == 1
    # What its engine has of it is waited for.
    attachments.attach(town["one"].host, "web1", Wish(Mode.EDGE))
    assert (record(town).enforced, let_in(town["one"], record(town))) == (1, 1)
    assert generation_of(token_at(town["one"], record(town))) == 1


def test_a_guest_of_the_engines_own_process_is_waited_for(town: Town) -> None:
    attachments.detach(town["two"].host, "web1")
    attachments.attach(town["one"].host, "web1", Wish(Mode.DIRECT))
    assert attachments.detach(town["one"].host, "web1").generation == 0
    attachments.attach(town["one"].host, "web1", Wish(Mode.DIRECT))
    town["one"].engine.fail.add("shut_out")
    released = attachments.detach(town["one"].host, "web1")
    assert (released.attachments, released.generation) == ((), 1)
    with pytest.raises(VStorageError, match="shut_out"):
        attachments.attach(town["one"].host, "web1", Wish(Mode.EDGE))
    town["one"].engine.fail.clear()
    attachments.attach(town["one"].host, "web1", Wish(Mode.EDGE))
    assert record(town).enforced == 1


def lets_go(host: Host) -> None:
    attachments.detach(host, "web1", "image")


def takes_it_away(host: Host) -> None:
    attachments.attach(host, "web1", PREEMPT)


@pytest.mark.parametrize("end", [lets_go, takes_it_away])
def test_a_guest_of_the_engines_own_process_keeps_no_other_volume_waiting(
    town: Town, monkeypatch: pytest.MonkeyPatch, end: Callable[[Host], None]
) -> None:
    """Its writes wait for a backend that stands still; the Edge has no part in that."""
    one = town["one"].host
    attachments.detach(town["two"].host, "web1")
    attachments.attach(one, "web1", Wish(Mode.DIRECT, holder="image"))
    uuid = volumes.create_volume(one, "web2", 64 * MIB, None).uuid
    waits, may_end = threading.Event(), threading.Event()

    def stand_still(*_: object) -> None:
        waits.set()
        assert may_end.wait(600), "nobody lets it end"

    monkeypatch.setattr(one.engine, "shut_out", stand_still)
    threads = [
        threading.Thread(target=end, args=(one,)),
        threading.Thread(target=attachments.attach, args=(one, "web2", Wish(Mode.EDGE))),
    ]
    try:
        threads[0].start()
        assert waits.wait(60), "nobody waits for its writes"
        threads[1].start()
        wait_until(lambda: uuid in edge_of(town["one"]).served, "the other volume's attach")
        assert [one.holder for one in record(town).attachments] == ["image"], "it still counts"
    finally:
        may_end.set()
        for thread in threads:
            thread.join()
    assert "image" not in [one.holder for one in record(town).attachments]


@pytest.mark.parametrize("holder", ["local", None])
def test_a_detach_that_is_repeated_waits_for_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch, holder: str | None
) -> None:
    """Nova lets go of a volume, and Cinder again, while the backend keeps its writes."""
    monkeypatch.setattr(fencing, "_PATIENCE_S", -1.0)
    town["three"].host.await_change = lambda _revision, _seconds: None
    town["one"].engine.fail.add("shut_out")
    gives_up(edge_of(town["two"]))
    attachments.detach(town["two"].host, "web1")
    for host in ("one", "two", "three"):
        released = attachments.detach(town[host].host, "web1", holder, everybody=holder is None)
        assert (released.attachments, released.generation, released.enforced) == ((), 1, 0)
    with pytest.raises(VStorageError, match="they may still write"):
        attachments.attach(town["three"].host, "web1", Wish(Mode.EDGE))


def test_one_of_two_holders_on_a_host_leaves_the_other_ones_session(town: Town) -> None:
    attachments.attach(town["two"].host, "web1", Wish(Mode.EDGE, holder="nova", shared=True))
    gives_up(edge_of(town["two"]))
    attachments.detach(town["two"].host, "web1")
    assert record(town).generation == 0
    attachments.detach(town["two"].host, "web1", holder="nova")
    assert record(town).generation == 1


def test_a_preempt_from_the_same_host_is_not_certain_either(town: Town) -> None:
    gives_up(edge_of(town["two"]))
    attachments.attach(town["one"].host, "web1", Wish(Mode.EDGE, holder="nova", shared=True))
    town["two"].host.await_change = lambda _revision, _seconds: town["one"].steward.tend()
    attachments.attach(town["two"].host, "web1", Wish(Mode.EDGE, holder="other", preempt=True))
    assert (record(town).generation, record(town).enforced) == (1, 1)


def test_an_attach_that_its_edge_refuses_shuts_out_nobody(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = edge_of(town["three"])
    shared = Wish(Mode.EDGE, holder="nova", shared=True)

    def refuse(_serving: Serving) -> None:
        raise VStorageError(Code.EDGE_UNAVAILABLE, "attach", "no engine answers", "")

    monkeypatch.setattr(edge, "attach", refuse)
    with pytest.raises(VStorageError, match="no engine answers"):
        attachments.attach(town["three"].host, "web1", shared)
    assert [one.node for one in record(town).attachments] == ["two"]
    assert record(town).generation == 0, "the other one goes on with the token that it has"

    def hang(serving: Serving) -> None:
        edge.served[serving.uuid] = {}
        raise EdgeUnavailable("attach", Path("edge.sock"), "it hangs", gone=False)

    monkeypatch.setattr(edge, "attach", hang)
    gives_up(edge)
    with pytest.raises(EdgeUnavailable):
        attachments.attach(town["three"].host, "web1", shared)
    assert [one.node for one in record(town).attachments] == ["two"]
    assert record(town).generation == 1, "a guest may have used it"


def test_killed_between_the_edge_and_the_record(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Edge has let go and is not certain; the record has not heard of it."""
    gives_up(edge_of(town["two"]))
    with monkeypatch.context() as patch:
        patch.setattr(attachments, "_store", killed(lambda: None))
        with pytest.raises(KeyboardInterrupt):
            attachments.detach(town["two"].host, "web1")
    assert [one.node for one in record(town).attachments] == ["two"]
    edge_of(town["two"]).detached = {"confirmed": True}
    # What the Edge does not serve any more it is not certain of.
    attachments.detach(town["two"].host, "web1")
    assert (record(town).attachments, record(town).generation) == ((), 1)
