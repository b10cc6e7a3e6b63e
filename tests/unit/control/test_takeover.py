"""Hosts of twins that die, come back, take over and hand over; who serves is always one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovs_daemon.control import attachments, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.dtl import DtlEvent, set_dtl_mode
from ovs_daemon.control.health import cluster_findings
from ovs_daemon.control.records import Attachment, Dtl, Mode, State, Volume
from ovs_daemon.control.remote import Follower
from ovs_daemon.control.store import put
from ovs_daemon.control.topology import Node
from ovs_daemon.control.view import View
from ovs_daemon.control.volumes import Source
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.model import DtlMode, DtlState
from ovs_daemon.registry.memory import MemoryRegistry
from tests.support.fake_edge import FakeEdge
from tests.support.refusal import refused
from tests.support.town import Town

GIB = 1 << 30
IN_SYNC, DEGRADED = DtlState.IN_SYNC, DtlState.DEGRADED


@pytest.fixture
def town() -> Town:
    return Town({"a1": ("a", "b"), "a2": ("a", "b"), "b1": ("b", "a"), "b2": ("b", "a")})


def make(town: Town, owner: str = "a1", name: str = "web1") -> Volume:
    """A volume of that node, paired and in sync."""
    made = volumes.create_volume(town[owner].host, name, GIB, None)
    town[owner].steward.tend()
    return town.in_sync(town.volume(made.uuid))


def test_edges_follow_a_takeover(town: Town) -> None:
    volume = make(town)
    attachments.attach(town["b2"].host, "web1", Wish(Mode.EDGE))
    current = town.volume(volume.uuid)
    direct = Attachment(Mode.DIRECT, False, "/run/d", "nova@a1", node="a1")
    both = (*current.attachments, direct)
    town["a1"].host.store.commit(put(replace(current, attachments=both)))
    town["a1"].kill()
    town.pass_time()
    town.tend()
    taken = town.volume(volume.uuid)
    assert taken.node == "a2"
    assert [(one.holder, one.node) for one in taken.attachments] == [("local", "b2")]
    edge = town["b2"].host.edge
    assert isinstance(edge, FakeEdge)
    Follower(town["b2"].host).look()
    addresses = dict(town["a2"].settings.membership.addresses)
    assert edge.retargeted[-1]["targets"][0] == {"tcp": addresses["edge_tcp"]}
    assert edge.retargeted[-1]["epoch"] == taken.epoch


def open_at(town: Town, volume: Volume) -> list[str]:
    """Where the engine has it open."""
    return [
        name for name, node in town.nodes.items() if node.up and volume.uuid in node.engine.open
    ]


def test_a_new_volume_is_paired_with_its_recovery_domain(town: Town) -> None:
    made = volumes.create_volume(town["a1"].host, "web1", GIB, None)
    assert made.dtl == Dtl(DtlMode.SYNC, None, DtlState.STANDALONE)
    town["a1"].steward.tend()
    volume = town.volume(made.uuid)
    assert volume.dtl == Dtl(DtlMode.SYNC, "b1", DEGRADED)
    assert town["a1"].engine.dtl[made.uuid] == {
        "mode": "sync",
        "node": "b1",
        "address": "b1:1",
        "state": "degraded",
    }
    assert town.in_sync(volume).dtl.state is IN_SYNC
    # The next one goes to the other node.
    assert make(town, name="web2").dtl.node == "b2"


def test_a_dead_owner_is_followed_by_one_node(town: Town) -> None:
    volume = make(town)
    town["a1"].kill()
    town.pass_time()
    town.tend()
    taken = town.volume(volume.uuid)
    assert (taken.node, taken.served) == ("a2", "a2")
    assert taken.epoch > volume.epoch
    assert open_at(town, volume) == ["a2"]
    assert town.keepers.tails["b1:1", volume.uuid].epoch == taken.epoch, "it is fenced"
    assert taken.dtl == volume.dtl, "the log stays, and is complete still"
    # The old owner comes back and leaves it alone.
    town["a1"].start()
    town.tend()
    assert open_at(town, volume) == ["a2"]
    refused(lambda: volumes.resize_volume(town["a1"].host, "web1", 2 * GIB), "not_here", "'a2'")
    refused(lambda: volumes.delete_volume(town["a1"].host, "web1", False), "not_here", "'a2'")


def test_what_happens_is_told(town: Town) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    town["a2"].steward._tell = lambda what, about: told.append((what, about))
    volume = make(town)
    town["a1"].kill()
    town.pass_time()
    town.tend()
    about = {"volume": volume.uuid, "name": "web1", "from": "a1", "to": "a2"}
    assert told == [("volume.taken_over", about)]
    town["a2"].says(town.volume(volume.uuid), IN_SYNC, DEGRADED, 99)
    assert told[1] == (
        "dtl.degraded",
        {"volume": volume.uuid, "node": "b1", "before": "in_sync"},
    )
    town["a2"].steward.fenced(volume.uuid)
    assert told[2] == ("volume.stopped", {"volume": volume.uuid})


def test_a_whole_domain_dies(town: Town) -> None:
    volume = make(town)
    for name in ("a1", "a2"):
        town[name].kill()
    town.pass_time()
    town.tend()
    assert open_at(town, volume) == ["b2"], "not the node that keeps the log"
    assert town.volume(volume.uuid).dtl.node == "b1"


@pytest.mark.parametrize("state", [DEGRADED, DtlState.CATCHING_UP])
def test_what_is_not_in_sync_waits_for_its_owner(town: Town, state: DtlState) -> None:
    volume = make(town)
    assert town["a1"].says(volume, IN_SYNC, state)
    town["a1"].kill()
    town.pass_time()
    town.tend()
    assert open_at(town, volume) == []
    assert town.volume(volume.uuid).node == "a1"
    town["a1"].start()
    assert open_at(town, volume) == ["a1"]


def test_an_owner_that_came_back_in_time_is_not_robbed(town: Town) -> None:
    volume = make(town)
    # a2 has looked at a moment when a1 was silent; before it swaps, a1 is back.
    town["a1"].kill()
    town.time_s += 10
    town["a1"].start()
    refused(lambda: town["a2"].host.opener.take_over([town.volume(volume.uuid)]), "not_here")
    assert town.volume(volume.uuid).node == "a1"
    assert town["a2"].host.failures() == {}


def test_a_restarted_owner_asks_the_keeper_first(town: Town) -> None:
    volume = make(town)
    town["a1"].kill()
    town["a1"].start()
    again = town.volume(volume.uuid)
    assert open_at(town, volume) == ["a1"]
    assert again.dtl == volume.dtl
    assert town.keepers.tails["b1:1", volume.uuid].epoch == again.epoch


def test_a_restarted_owner_goes_on_without_the_keeper(town: Town) -> None:
    volume = make(town)
    town["b1"].kill()
    town["a1"].kill()
    town["a1"].start()
    assert open_at(town, volume) == ["a1"]
    assert town.volume(volume.uuid).dtl == Dtl(DtlMode.SYNC, "b1", DEGRADED)
    town.pass_time()
    town.tend()
    assert town.volume(volume.uuid).dtl == Dtl(DtlMode.SYNC, "b2", DEGRADED)


def test_a_successor_without_the_log_waits_for_it(town: Town) -> None:
    volume = make(town)
    town["a1"].kill()
    town.pass_time()
    # The keeper is alive, but a2 cannot reach it.
    town.keepers.up.discard("b1:1")
    town.tend()
    taken = town.volume(volume.uuid)
    assert (taken.node, taken.served) == ("a2", "a1")
    assert open_at(town, volume) == []
    assert "is not there" in str(town["a2"].host.failures()[volume.uuid])
    town.keepers.up.add("b1:1")
    town.time_s += 60
    town["a2"].liveness.beat()
    town["a2"].steward.tend()
    assert open_at(town, volume) == ["a2"]
    assert town["a2"].host.failures() == {}


def test_a_log_that_may_lack_something_gives_the_volume_back(town: Town) -> None:
    volume = make(town)
    town.keepers.tails["b1:1", volume.uuid].suspect = True
    town["a1"].kill()
    town.pass_time()
    town["a2"].steward.tend()
    back = town.volume(volume.uuid)
    assert (back.node, back.dtl.state) == ("a1", DEGRADED)
    assert open_at(town, volume) == []
    town["a1"].start()
    assert open_at(town, volume) == ["a1"]


def test_a_successor_that_dies_before_it_has_the_log_loses_nothing(town: Town) -> None:
    volume = make(town)
    town["a1"].kill()
    town.pass_time()
    town["a2"].engine.fail.add("fetch_tail")
    town["a2"].steward.tend()
    town["a2"].kill()
    town["a2"].start()
    assert open_at(town, volume) == ["a2"]
    assert town.volume(volume.uuid).served == "a2"


def test_a_keeper_that_takes_over_keeps_no_log_of_its_own(town: Town) -> None:
    volume = make(town)
    for name in ("a1", "a2", "b2"):
        town[name].kill()
    town.pass_time()
    town["b1"].steward.tend()
    assert open_at(town, volume) == ["b1"]
    assert town.volume(volume.uuid).dtl == Dtl(DtlMode.SYNC, None, DtlState.STANDALONE)
    town["a2"].start()
    town.tend()
    assert town.volume(volume.uuid).dtl == Dtl(DtlMode.SYNC, "a2", DEGRADED)


def test_a_dead_keeper_is_replaced_and_the_former_forgets(town: Town) -> None:
    volume = make(town)
    town["b1"].kill()
    assert town["a1"].says(volume, IN_SYNC, DEGRADED)
    town.pass_time()
    town.tend()
    moved = town.volume(volume.uuid)
    assert moved.dtl == Dtl(DtlMode.SYNC, "b2", DEGRADED)
    town.in_sync(moved)
    town.tend()
    assert ("b1:1", volume.uuid) in town.keepers.tails, "it is away"
    town["b1"].start()
    town.tend()
    assert ("b1:1", volume.uuid) not in town.keepers.tails


def test_the_only_keeper_is_waited_for(town: Town) -> None:
    pair = Town({"a1": ("a", None), "a2": ("a", None)})
    volume = make(pair)
    pair["a2"].kill()
    assert pair["a1"].says(volume, IN_SYNC, DEGRADED)
    pair.pass_time()
    pair.tend()
    assert pair.volume(volume.uuid).dtl == Dtl(DtlMode.SYNC, "a2", DEGRADED)


def stranger(town: Town, name: str) -> None:
    """From its next life on, that node has a backend of its own, and keeps no logs."""
    node = town[name]
    member = node.settings.membership
    addresses = tuple(one for one in member.addresses if one[0] != "dtl")
    alone = replace(member, backend=f"{name}-alone", addresses=addresses)
    node.settings = replace(node.settings, membership=alone)


def test_only_who_finds_its_objects_takes_a_volume_over(town: Town) -> None:
    volume = make(town)
    for name in ("a2", "b2"):
        stranger(town, name)
        town[name].start()
    town["a1"].kill()
    town.pass_time()
    town.tend()
    assert open_at(town, volume) == ["b1"]
    assert town.volume(volume.uuid).backend == "shared"
    # The record counts, whatever the nodes say: it would open, and be empty.
    town["b1"].kill()
    stranger(town, "b1")
    town["b1"].start()
    assert open_at(town, volume) == []
    assert "its data is on the backend shared" in str(town["b1"].host.failures()[volume.uuid])


def test_nobody_goes_on_alone_while_the_record_says_in_sync(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = make(town)
    town["a1"].kill()
    town.pass_time()
    successor = town["a2"]
    fetch_tail = successor.engine.fetch_tail

    def fetch_and_forget(request: str) -> str:
        answer = fetch_tail(request)
        # Its address is gone between the fetch and the opening.
        successor.host.store.commit(put(replace(keeper(), addresses={})))
        return answer

    def keeper() -> Node:
        found = successor.host.store.node("b1")
        assert found is not None
        return found

    addresses = keeper().addresses
    monkeypatch.setattr(successor.engine, "fetch_tail", fetch_and_forget)
    successor.steward.tend()
    assert town.volume(volume.uuid).dtl.state is IN_SYNC
    assert open_at(town, volume) == []
    successor.host.store.commit(put(replace(keeper(), addresses=addresses)))
    monkeypatch.undo()
    town.pass_time()
    successor.steward.tend()
    assert open_at(town, volume) == ["a2"]


def test_relatives_follow_together(town: Town) -> None:
    base = make(town, name="base")
    clone = volumes.create_volume(town["a1"].host, "clone", None, Source("base", None))
    town["a1"].steward.tend()
    town.in_sync(town.volume(clone.uuid))
    town["a1"].kill()
    town.pass_time()
    town.tend()
    assert open_at(town, base) == open_at(town, clone) == ["a2"]


class TestQuestionsOfTheEngine:
    """What the desk answers."""

    def test_only_the_owner_of_the_epoch_may_degrade(self, town: Town) -> None:
        volume = make(town)
        event = {"id": 9, "kind": "dtl_state", "uuid": volume.uuid, "node": "b1"}
        change = {"epoch": volume.epoch - 1, "from": "in_sync", "to": "degraded"}
        town["a1"].desk.handle(event | change)
        assert town["a1"].engine.answers[9] is False
        town["a2"].desk.handle(event | change | {"epoch": volume.epoch})
        assert town["a2"].engine.answers[9] is False
        assert town.volume(volume.uuid).dtl.state is IN_SYNC

    def test_a_change_that_is_recorded_already_is_accepted(self, town: Town) -> None:
        volume = make(town)
        assert town["a1"].says(volume, IN_SYNC, DEGRADED, 7)
        version = town.volume(volume.uuid).version
        assert town["a1"].says(volume, IN_SYNC, DEGRADED, 8)
        assert town.volume(volume.uuid).version == version

    def test_a_keeper_of_before_is_not_believed(self, town: Town) -> None:
        volume = make(town)
        town.set_dtl(volume, Dtl(DtlMode.SYNC, "b2", DEGRADED))
        assert town["a1"].says(volume, DEGRADED, IN_SYNC, 7) is False

    def test_while_the_registry_is_away_the_answer_waits(self) -> None:
        class Away(MemoryRegistry):
            """Fails the next reads."""

            failures = 0

            def get(self, kind: str, ident: str):  # type: ignore[no-untyped-def]
                if self.failures:
                    self.failures -= 1
                    raise VStorageError("registry", "read the registry", "it is away", "wait")
                return super().get(kind, ident)

        registry = Away(clock=lambda: 0.0)
        town = Town({"a1": ("a", None), "a2": ("a", None)}, registry)
        volume = make(town)
        dtl = town["a1"].engine.dtl[volume.uuid]
        assert dtl is not None
        registry.failures = 2
        town["a1"].desk.handle(
            {
                "id": 5,
                "kind": "dtl_state",
                "uuid": volume.uuid,
                "epoch": volume.epoch,
                "node": dtl["node"],
                "from": "in_sync",
                "to": "degraded",
            }
        )
        assert town["a1"].engine.answers[5] is True
        assert town.volume(volume.uuid).dtl.state is DEGRADED

    def test_a_deleted_volume_has_no_state(self, town: Town) -> None:
        event = {"id": 3, "kind": "dtl_state", "uuid": "none", "epoch": 1, "node": "b1"}
        town["a1"].desk.handle(event | {"from": "in_sync", "to": "degraded"})
        assert town["a1"].engine.answers[3] is False

    def test_what_was_stopped_is_opened_again_where_it_belongs(self, town: Town) -> None:
        volume = make(town)
        event = {"id": 4, "kind": "fenced", "uuid": volume.uuid, "epoch": volume.epoch}
        town["a1"].desk.handle(event | {"why": "lease"})
        assert "lease was over" in str(town["a1"].host.failures()[volume.uuid])
        town["a1"].steward.tend()
        assert open_at(town, volume) == ["a1"]
        assert town.volume(volume.uuid).epoch > volume.epoch
        assert town["a1"].host.failures() == {}

    @pytest.mark.parametrize("attached", [False, True])
    def test_what_others_go_on_with_is_no_trouble_here(self, town: Town, attached: bool) -> None:
        """a1 stands still for longer than its lease, and finds that a2 has its volume."""
        volume = make(town)
        sleeper = town["a1"]
        if attached:
            attachments.attach(sleeper.host, "web1", Wish(Mode.EDGE))
        sleeper.up = False
        town.pass_time()
        town.tend()
        assert town.volume(volume.uuid).node == "a2"
        sleeper.up = True
        town.pass_time()
        event = {"id": 4, "kind": "fenced", "uuid": volume.uuid, "epoch": volume.epoch}
        sleeper.desk.handle(event | {"why": "lease"})
        assert volume.uuid in sleeper.host.failures()
        sleeper.steward.tend()
        assert sleeper.host.failures() == {}
        assert open_at(town, volume) == ["a2"]

    def test_a_successor_without_the_log_gives_the_volume_back(self, town: Town) -> None:
        """Owner and keeper die at once; the owner is the first to be missed, and the first back."""
        volume = make(town)
        for name in ("a1", "b1"):
            town[name].kill()
        town["b1"].up = True
        town.pass_time()
        town["b1"].up = False
        town["a2"].steward.tend()
        assert town.volume(volume.uuid).node == "a2"
        assert open_at(town, volume) == []
        assert "which keeps its log, is not there" in str(town["a2"].host.failures()[volume.uuid])
        town.pass_time()
        findings = cluster_findings(town["b2"].host, View.of(town["b2"].host.store))
        (down,) = (one for one in findings if one["code"] == "volume_down")
        assert down["object"] == "volume web1"
        assert down["fix"] == "start b1 or a1 again"
        town["a1"].start()
        town["a2"].steward.tend()
        back = town.volume(volume.uuid)
        assert (back.node, back.dtl.state) == ("a1", IN_SYNC)
        town.tend()
        assert open_at(town, volume) == ["a1"]
        assert town.volume(volume.uuid).dtl.state is DEGRADED
        assert town["a2"].host.failures() == {}

    def test_changes_are_told(self, town: Town) -> None:
        told: list[DtlEvent] = []
        volume = make(town)
        town["a1"].desk._recorded = told.append
        town["a1"].says(volume, IN_SYNC, DEGRADED, 6)
        assert told == [DtlEvent(volume.uuid, "b1", IN_SYNC, DEGRADED)]

    def test_the_thread_answers(self, town: Town) -> None:
        volume = make(town)
        engine = town["a1"].engine
        event = {"id": 11, "kind": "dtl_state", "uuid": volume.uuid, "epoch": volume.epoch}
        engine.events.put(event | {"node": "b1", "from": "in_sync", "to": "degraded"})
        after = town.registry.revision()
        town["a1"].desk.start()
        assert ("volume", volume.uuid) in changed_after(town, after)
        town["a1"].desk.stop()
        assert engine.answers[11] is True


def changed_after(town: Town, after: int) -> frozenset[tuple[str, str]]:
    real = town.registry
    assert isinstance(real, MemoryRegistry)
    with real._changed:
        assert real._changed.wait_for(lambda: real._revision > after, timeout=60)
    return real.watch(after, 0).keys


def test_what_was_begun_before_the_lease_was_over_is_begun_again(town: Town) -> None:
    """a2 is paused while it takes over; a1 comes back and takes the volume from it."""
    volume = make(town)
    town["a1"].kill()
    town.pass_time()
    fetch = town["a2"].engine.fetch_tail

    def fetch_slowly(request: str) -> str:
        town["a2"].engine.fetch_tail = fetch  # type: ignore[method-assign]
        answer = fetch(request)
        town.time_s += 10
        for keeper in ("b1", "b2"):
            town[keeper].liveness.beat()
        town["a1"].start()
        town["a1"].steward.tend()
        assert open_at(town, volume) == ["a1"]
        town["a2"].liveness.beat()
        return answer

    town["a2"].engine.fetch_tail = fetch_slowly  # type: ignore[method-assign]
    town["a2"].steward.tend()
    assert open_at(town, volume) == ["a1"]
    assert town.volume(volume.uuid).node == "a1"


def test_an_asynchronous_log_never_replaces_what_its_owner_has(town: Town) -> None:
    volume = make(town)
    town.set_dtl(volume, Dtl(DtlMode.ASYNC, "b1", IN_SYNC))
    town["a1"].kill()
    town["a1"].start()
    assert town.volume(volume.uuid).dtl == Dtl(DtlMode.ASYNC, "b1", DEGRADED)
    assert open_at(town, volume) == ["a1"]


class TestModes:
    """When writes are acknowledged, for one volume."""

    def test_none_lets_the_keeper_go_and_sync_finds_one_again(self, town: Town) -> None:
        volume = make(town)
        host = town["a1"].host
        alone = set_dtl_mode(host, "web1", DtlMode.NONE)
        assert alone.dtl == Dtl(DtlMode.NONE, None, DtlState.STANDALONE)
        assert town["a1"].engine.dtl[volume.uuid] is None
        assert ("b1:1", volume.uuid) not in town.keepers.tails
        town.tend()
        assert town.volume(volume.uuid).dtl.node is None
        set_dtl_mode(host, "web1", DtlMode.SYNC)
        town.tend()
        again = town.volume(volume.uuid)
        assert (again.dtl.mode, again.dtl.state) == (DtlMode.SYNC, DEGRADED)
        assert again.dtl.node in ("b1", "b2")

    def test_another_mode_has_to_be_in_sync_anew(self, town: Town) -> None:
        volume = make(town)
        changed = set_dtl_mode(town["a1"].host, "web1", DtlMode.ASYNC)
        assert changed.dtl == Dtl(DtlMode.ASYNC, "b1", DEGRADED)
        engine = town["a1"].engine.dtl[volume.uuid]
        assert engine is not None
        assert (engine["mode"], engine["state"]) == ("async", "degraded")

    def test_what_the_engine_refuses_changes_no_mode(self, town: Town) -> None:
        volume = make(town)
        town["a1"].engine.fail.add("set_dtl")
        refused(lambda: set_dtl_mode(town["a1"].host, "web1", DtlMode.ASYNC), "io")
        assert town.volume(volume.uuid).dtl == Dtl(DtlMode.SYNC, "b1", DEGRADED)

    def test_only_the_owner_changes_it(self, town: Town) -> None:
        make(town)
        refused(lambda: set_dtl_mode(town["a2"].host, "web1", DtlMode.NONE), "not_here")


def test_a_deleted_volume_leaves_no_log(town: Town) -> None:
    volume = make(town)
    volumes.delete_volume(town["a1"].host, "web1", False)
    assert ("b1:1", volume.uuid) not in town.keepers.tails


def test_a_verb_and_the_desk_do_not_undo_each_other(town: Town) -> None:
    """The keeper goes while a volume grows."""
    volume = make(town)
    engine = town["a1"].engine
    resize = engine.resize_volume

    def resize_slowly(uuid: str, size: int) -> None:
        assert town["a1"].says(volume, IN_SYNC, DEGRADED, 77)
        resize(uuid, size)

    engine.resize_volume = resize_slowly  # type: ignore[method-assign]
    volumes.resize_volume(town["a1"].host, "web1", 2 * GIB)
    volumes.set_template(town["a1"].host, "web1", True)
    found = town.volume(volume.uuid)
    assert (found.size, found.dtl.state, found.template) == (2 * GIB, DEGRADED, True)


def test_what_is_about_to_be_deleted_is_not_opened_again(town: Town) -> None:
    """Its deletion is decided, and the engine has let go of it, after the steward has looked."""
    volume = make(town)
    town["a1"].kill()
    town["a1"].start()
    host = town["a1"].host
    host.close(volume.uuid)
    view = View.of(host.store)
    host.store.commit(put(replace(town.volume(volume.uuid), state=State.DELETING)))
    town["a1"].steward._open_own(view)
    assert open_at(town, volume) == []


def test_what_keeps_failing_is_tried_less_and_less(town: Town) -> None:
    volume = make(town)
    town["a1"].kill()
    town.disk.volumes[volume.uuid].corrupt = True
    town["a1"].start()
    first = town.volume(volume.uuid).epoch
    for _ in range(5):
        town["a1"].steward.tend()
    assert town.volume(volume.uuid).epoch == first + 1, "one try, then it waits"
    assert not town["a1"].steward._due()
    town.time_s += 1
    assert town["a1"].steward._due()
    town.disk.volumes[volume.uuid].corrupt = False
    town["a1"].steward.tend()
    assert open_at(town, volume) == ["a1"]
