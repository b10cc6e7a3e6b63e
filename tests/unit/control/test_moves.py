"""Hand-over, draining, forced takeover."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovs_daemon.control import attachments, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.moves import bring_together, move_volume, take_over
from ovs_daemon.control.records import Attachment, Dtl, Mode
from ovs_daemon.control.store import put
from ovs_daemon.control.volumes import Source
from ovs_daemon.policy.model import DtlMode
from ovs_daemon.registry import Conflict, Operation, Unchanged
from tests.support.refusal import refused
from tests.support.town import Town
from tests.unit.control.test_takeover import DEGRADED, IN_SYNC, make, open_at, stranger, town

__all__ = ["town"]


class TestMoving:
    """Hand-over, draining, forced takeover."""

    def test_a_volume_is_handed_over(self, town: Town) -> None:
        volume = make(town)
        moved = move_volume(town["a1"].host, "web1", "b2")
        assert (moved.node, moved.served, moved.dtl.node) == ("b2", "b2", None)
        assert open_at(town, volume) == []
        town.tend()
        assert open_at(town, volume) == ["b2"]
        assert town.volume(volume.uuid).dtl.node in ("a1", "a2")

    def test_a_hand_over_leaves_nothing_behind(self, town: Town) -> None:
        volume = make(town)
        assert volume.uuid in {uuid for _, uuid in town.keepers.tails}
        move_volume(town["a1"].host, "web1", "b2")
        assert town["a1"].engine.cleared == [volume.uuid]
        assert town.keepers.tails == {}

    def test_a_hand_over_that_is_done_does_not_fail_over_what_it_leaves(self, town: Town) -> None:
        make(town)
        town["a1"].engine.fail |= {"drop_tail", "clear_buffer"}
        assert move_volume(town["a1"].host, "web1", "b2").node == "b2"

    def test_guests_wait_for_no_hand_over_whose_reason_is_gone(self, town: Town) -> None:
        volume, anchor = make(town), make(town, "b2", "web2")
        gone = Unchanged("volume", anchor.uuid, anchor.version - 1)
        town["a1"].engine.fail.add("close_volume")
        refused(
            lambda: bring_together(town["a1"].host, [volume], anchor, gone), "busy", "meanwhile"
        )
        assert open_at(town, volume) == ["a1"]

    def test_a_hand_over_does_not_wait_for_a_dead_keeper(self, town: Town) -> None:
        volume = make(town)
        keeper = town.volume(volume.uuid).dtl.node
        assert keeper is not None
        town[keeper].kill()
        town.pass_time()
        town["a1"].engine.fail.add("drop_tail")
        target = next(name for name in ("b1", "b2") if name != keeper)
        assert move_volume(town["a1"].host, "web1", target).node == target

    def test_relatives_are_handed_over_together(self, town: Town) -> None:
        make(town, name="base")
        clone = volumes.create_volume(town["a1"].host, "clone", None, Source("base", None))
        move_volume(town["a1"].host, "clone", "a2")
        town.tend()
        assert {one.node for one in town["a1"].host.store.volumes()} == {"a2"}
        assert open_at(town, clone) == ["a2"]

    @pytest.mark.parametrize(
        ("target", "code", "words"),
        [
            ("a1", "bad_request", "owns it already"),
            ("zz", "unknown_node", "no node 'zz'"),
            ("b1", "bad_request", "not alive"),
        ],
    )
    def test_refused_targets(self, town: Town, target: str, code: str, words: str) -> None:
        volume = make(town)
        town["b1"].kill()
        town.pass_time()
        refused(lambda: move_volume(town["a1"].host, "web1", target), code, words)
        assert open_at(town, volume) == ["a1"]

    def test_a_node_with_a_backend_of_its_own_gets_nothing(self, town: Town) -> None:
        volume = make(town)
        stranger(town, "b2")
        town["b2"].start()
        refused(
            lambda: move_volume(town["a1"].host, "web1", "b2"),
            "not_here",
            "its data is on the backend shared, and node 'b2' uses the backend b2-alone",
        )
        assert open_at(town, volume) == ["a1"]

    def test_only_the_owner_hands_over(self, town: Town) -> None:
        make(town)
        refused(lambda: move_volume(town["a2"].host, "web1", "b1"), "not_here", "'a1'")

    def test_edges_stay_where_they_are(self, town: Town) -> None:
        volume = make(town)
        attachments.attach(town["a2"].host, "web1", Wish(Mode.EDGE, holder="nova@a2"))
        earlier = Attachment(Mode.EDGE, False, "/run/x", "nova@a1")
        current = town.volume(volume.uuid)
        both = (earlier, *current.attachments)
        town["a1"].host.store.commit(put(replace(current, attachments=both)))
        move_volume(town["a1"].host, "web1", "b1")
        moved = town.volume(volume.uuid).attachments
        assert [(one.holder, one.node) for one in moved] == [("nova@a1", "a1"), ("nova@a2", "a2")]
        town.tend()
        assert open_at(town, volume) == ["b1"]

    def test_what_cannot_follow_stays(self, town: Town) -> None:
        volume = make(town)
        a1 = town["a1"]
        attachments.attach(a1.host, "web1", Wish(Mode.DIRECT))
        refused(lambda: move_volume(a1.host, "web1", "b1"), "in_use", "without --direct")
        attachments.detach(a1.host, "web1")
        attachments.attach(a1.host, "web1", Wish(Mode.EDGE))
        a1.host.settings = replace(a1.host.settings, cluster_key=None)
        refused(lambda: move_volume(a1.host, "web1", "b1"), "in_use", "cluster_key_file")
        a1.host.settings = a1.settings
        target = a1.host.store.node("b1")
        assert target is not None
        a1.host.store.commit(put(replace(target, addresses={})))
        refused(lambda: move_volume(a1.host, "web1", "b1"), "in_use", "[edge] listen")
        assert open_at(town, volume) == ["a1"]
        attachments.detach(a1.host, "web1")
        assert move_volume(a1.host, "web1", "b1").node == "b1"

    def test_guests_do_not_wait_for_a_move_that_failed(
        self, town: Town, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = make(town)
        host = town["a1"].host
        commit = host.store.commit

        def lose(*operations: Operation) -> int:
            monkeypatch.setattr(host.store, "commit", commit)
            raise Conflict(operations[0], None)

        def close(uuid: str, moved_to: str | None = None) -> bool:
            saved = type(host).close(host, uuid, moved_to)
            monkeypatch.setattr(host.store, "commit", lose)
            return saved

        monkeypatch.setattr(host, "close", close)
        refused(lambda: move_volume(host, "web1", "a2"), "busy", "try again")
        assert town.volume(volume.uuid).node == "a1"
        assert open_at(town, volume) == ["a1"]

    def test_one_that_cannot_be_closed_stays(self, town: Town) -> None:
        volume = make(town)
        town["a1"].engine.fail.add("close_volume")
        refused(lambda: move_volume(town["a1"].host, "web1", "a2"), "io")
        assert town.volume(volume.uuid).node == "a1"
        assert open_at(town, volume) == ["a1"]

    def test_draining_gives_everything_away(self, town: Town) -> None:
        volume, log = make(town), make(town, "b1", "web2")
        assert log.dtl.node == "a1"
        store = town["a1"].host.store
        node = store.node("a1")
        assert node is not None
        store.commit(put(replace(node, draining=True)))
        town.tend()
        assert open_at(town, volume) == ["a2"]
        assert town.volume(log.uuid).dtl.node == "a2"

    def test_takeover_by_hand_where_nothing_can_be_lost(self, town: Town) -> None:
        volume = make(town)
        town["a1"].kill()
        town.pass_time()
        taken = take_over(town["b2"].host, "web1", accept_loss=False)
        assert (taken.node, taken.forced) == ("b2", None)
        assert open_at(town, volume) == ["b2"]

    def test_takeover_says_what_may_be_lost(self, town: Town) -> None:
        volume = make(town)
        assert town["a1"].says(volume, IN_SYNC, DEGRADED)
        host = town["a2"].host
        refused(lambda: take_over(host, "web1", accept_loss=True), "in_use", "is alive")
        town["a1"].kill()
        town.pass_time()
        refused(
            lambda: take_over(host, "web1", accept_loss=False),
            "not_in_sync",
            "its log on node b1 is degraded",
            "acknowledged writes are on node a1 only",
            "--accept-loss",
        )
        assert town.volume(volume.uuid).node == "a1"
        taken = take_over(host, "web1", accept_loss=True)
        assert (taken.node, taken.served) == ("a2", "a2")
        assert taken.forced is not None
        assert "acknowledged writes are on node a1 only" in taken.forced["may_be_lost"]
        assert open_at(town, volume) == ["a2"]
        town["a1"].start()
        town.tend()
        assert open_at(town, volume) == ["a2"]

    @pytest.mark.parametrize(
        ("dtl", "words"),
        [
            (Dtl(DtlMode.NONE), "no other node keeps its log"),
            (Dtl(DtlMode.ASYNC, "b1", IN_SYNC), "its DTL mode is 'async'"),
        ],
    )
    def test_what_may_be_lost_depends_on_the_log(self, town: Town, dtl: Dtl, words: str) -> None:
        town.set_dtl(make(town), dtl)
        town["a1"].kill()
        town.pass_time()
        refused(lambda: take_over(town["a2"].host, "web1", accept_loss=False), "not_in_sync", words)

    def test_a_successor_without_any_log_can_be_forced(self, town: Town) -> None:
        volume = make(town)
        town["a1"].kill()
        town.pass_time()
        town.keepers.up.discard("b1:1")
        town["a2"].steward.tend()
        refused(lambda: take_over(town["a2"].host, "web1", accept_loss=False), "not_in_sync")
        taken = take_over(town["a2"].host, "web1", accept_loss=True)
        assert taken.forced is not None
        assert open_at(town, volume) == ["a2"]
