"""Attaching and detaching, and an Edge process that goes and comes back."""

from __future__ import annotations

import threading

import pytest

from ovs_daemon.control import attachments, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.edge_link import EdgeLink
from ovs_daemon.control.records import Mode, Volume
from ovs_daemon.control.status import status
from tests.support.house import House
from tests.unit.control.test_volumes import GIB, refused


@pytest.fixture
def link(house: House) -> EdgeLink:
    return EdgeLink(house.host, lambda: 60.0)


def test_through_the_edge(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    volume = attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    (attachment,) = volume.attachments
    assert attachment.uri == f"nbd+unix:///?socket=/run/vstorage/nbd/{made.uuid}.sock"
    assert house.edge.served[made.uuid] == {
        "op": "attach",
        "volume": made.uuid,
        "name": "web1",
        "socket": f"/run/vstorage/nbd/{made.uuid}.sock",
        "file": None,
        "owner": "107:107",
        "mode": 0o660,
        "read_only": False,
        "drop_on_resize": False,
    }
    assert attachments.detach(house.host, "web1").attachments == ()
    assert house.edge.served == {}


def test_direct(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    volume = attachments.attach(house.host, "web1", Wish(Mode.DIRECT))
    (attachment,) = volume.attachments
    assert attachment.socket == f"/run/vstorage/direct/{made.uuid}.sock"
    assert house.engine.open[made.uuid].export == "web1"
    house.start()
    assert house.engine.open[made.uuid].export == "web1", "served again after a restart"
    attachments.detach(house.host, "web1")
    assert house.engine.open[made.uuid].export is None


@pytest.mark.parametrize("mode", list(Mode))
def test_both_are_idempotent(house: House, mode: Mode) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    first = attachments.attach(house.host, "web1", Wish(mode))
    assert attachments.attach(house.host, "web1", Wish(mode)) == first
    attachments.detach(house.host, "web1")
    assert attachments.detach(house.host, "web1").attachments == ()


def test_in_two_ways_is_refused(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    with refused("in_use"):
        attachments.attach(house.host, "web1", Wish(Mode.DIRECT))
    with refused("in_use"):
        attachments.attach(house.host, "web1", Wish(Mode.EDGE, read_only=True))


def test_an_attached_volume_is_in_use(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    with refused("in_use"):
        volumes.delete_volume(house.host, "web1", cascade=True)
    with refused("in_use"):
        volumes.revert_volume(house.host, "web1", "s1")
    with refused("in_use"):
        volumes.set_template(house.host, "web1", True)
    volumes.resize_volume(house.host, "web1", 2 * GIB)


def test_template_is_attached_read_only(house: House) -> None:
    volumes.create_volume(house.host, "gold", GIB, None)
    volumes.set_template(house.host, "gold", True)
    for mode in Mode:
        with refused("read_only"):
            attachments.attach(house.host, "gold", Wish(mode))
        attachments.attach(house.host, "gold", Wish(mode, read_only=True))
        attachments.detach(house.host, "gold")


def test_direct_read_only_opens_read_only(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.DIRECT, read_only=True))
    assert house.engine.open[made.uuid].read_only
    house.start()
    assert house.engine.open[made.uuid].read_only
    attachments.detach(house.host, "web1")
    assert not house.engine.open[made.uuid].read_only


def test_nobody_waits_while_one_is_opened_in_another_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Edge is told about other volumes meanwhile, however long the engine takes."""
    host = house.host
    free: list[tuple[str, bool]] = []

    def watch(name: str) -> None:
        act = getattr(house.engine, name)

        def asked(*arguments: object) -> object:
            def other_thread() -> None:
                free.append((name, host.edge_lock.acquire(blocking=False)))
                if free[-1][1]:
                    host.edge_lock.release()

            looking = threading.Thread(target=other_thread)
            looking.start()
            looking.join()
            return act(*arguments)

        monkeypatch.setattr(house.engine, name, asked)

    volumes.create_volume(host, "web1", GIB, None)
    watch("open_volume")
    watch("close_volume")
    attachments.attach(host, "web1", Wish(Mode.DIRECT, read_only=True))
    attachments.detach(host, "web1")
    reopened = ["close_volume", "open_volume"]
    assert free == [(name, True) for name in 2 * reopened]


@pytest.mark.parametrize("mode", list(Mode))
def test_failed_attach_is_not_made_true_later(house: House, link: EdgeLink, mode: Mode) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    house.edge.up = False
    house.engine.fail = {"export_nbd"}
    with refused("io" if mode is Mode.DIRECT else "edge_unavailable"):
        attachments.attach(house.host, "web1", Wish(mode))
    house.engine.fail = set()
    assert house.host.require("", "web1").attachments == ()
    house.edge.restart()
    link.check()
    assert house.edge.served == {}


def test_edge_comes_back_knowing_nothing(house: House, link: EdgeLink) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    link.check()
    assert link.connected
    house.edge.up = False
    link.check()
    assert not link.connected
    house.edge.restart()
    link.check()
    assert link.connected
    assert list(house.edge.served) == [made.uuid]


def test_attaching_again_while_the_edge_is_away_keeps_it_attached(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    house.edge.up = False
    with refused("edge_unavailable"):
        attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    assert house.host.require("", "web1").attachments


def test_daemon_restart_leaves_the_edge_alone(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    served = dict(house.edge.served)
    house.start()
    EdgeLink(house.host, lambda: 60.0).check()
    assert house.edge.served == served


def test_what_is_not_attached_is_taken_from_the_edge(house: House, link: EdgeLink) -> None:
    house.edge.served["stray"] = {}
    link.check()
    assert house.edge.served == {}


def test_detach_from_an_edge_that_is_gone(house: House, link: EdgeLink) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    house.edge.up = False
    assert attachments.detach(house.host, "web1").attachments == ()
    house.edge.up = True
    link.check()
    assert house.edge.served == {}


@pytest.mark.parametrize("mode", list(Mode))
def test_one_that_cannot_be_opened_is_detached_and_deleted(house: House, mode: Mode) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(mode))
    house.disk.volumes[made.uuid].corrupt = True
    house.start()
    with refused("corrupt"):
        attachments.attach(house.host, "web1", Wish(mode))
    assert attachments.detach(house.host, "web1").attachments == ()
    assert volumes.delete_volume(house.host, "web1", cascade=False)
    assert house.host.failures() == {}


def test_detach_from_an_edge_that_hangs_is_refused(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    house.edge.up = house.edge.gone = False
    with refused("edge_unavailable"):
        attachments.detach(house.host, "web1")
    assert house.host.require("", "web1").attachments


def test_status_names_who_waits_for_the_edge(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    assert status(house.host, edge_connected=False)["findings"] == []
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    (finding,) = status(house.host, edge_connected=False)["findings"]
    assert finding["severity"] == "critical"
    assert "web1" in finding["why"]


def test_status_shows_the_worst_first(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    house.engine.findings = [
        {"code": "c", "severity": severity, "object": made.uuid, "why": "w", "fix": "f"}
        for severity in ("info", "critical", "warning")
    ]
    findings = status(house.host, edge_connected=True)["findings"]
    assert [one["severity"] for one in findings] == ["critical", "warning", "info"]
    assert {one["object"] for one in findings} == {"volume web1"}


def attached_by(house: House) -> list[str]:
    return [one.holder for one in house.host.require("", "web1").attachments]


def test_a_second_holder_is_refused_unless_somebody_says_so(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@a"))
    with refused("in_use"):
        attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@b", shared=True))
    assert attached_by(house) == ["nova@a", "nova@b"]
    attachments.detach(house.host, "web1", "nova@a")
    attachments.set_multi_attach(house.host, "web1", True)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE))
    assert attached_by(house) == ["local", "nova@b"]


def test_what_one_holder_uses_stays_while_any_holder_uses_it(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@a"))
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@b", shared=True))
    attachments.attach(house.host, "web1", Wish(Mode.FILE, holder="cinder", shared=True))
    served = house.edge.served[made.uuid]
    assert (served["socket"], served["file"]) == (
        f"/run/vstorage/nbd/{made.uuid}.sock",
        f"/run/vstorage/volumes/{made.uuid}",
    )
    attachments.detach(house.host, "web1", "nova@a")
    assert house.edge.served[made.uuid] == served
    attachments.detach(house.host, "web1", "nova@b")
    assert house.edge.served[made.uuid]["socket"] is None
    attachments.detach(house.host, "web1", "cinder")
    assert house.edge.dropped == [made.uuid], "once, at the end"


def test_preempting_takes_it_from_all_others(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@a"))
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@b", preempt=True))
    assert attached_by(house) == ["nova@b"]
    assert house.edge.dropped == [made.uuid], "whoever was connected is not any more"
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@b", preempt=True))
    assert house.edge.dropped == [made.uuid], "it has it alone already"


def test_a_person_does_not_detach_what_others_hold(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@a"))
    with refused("in_use"):
        attachments.detach(house.host, "web1")
    attachments.detach(house.host, "web1", "nova@b")
    assert attached_by(house) == ["nova@a"], "a holder who has nothing is fine"
    attachments.detach(house.host, "web1", everybody=True)
    assert attached_by(house) == []


@pytest.mark.parametrize(
    "second",
    [Wish(Mode.EDGE, read_only=True, shared=True), Wish(Mode.DIRECT, shared=True)],
    ids=["one reads, one writes", "one in process"],
)
def test_what_does_not_go_together(house: House, second: Wish) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@a"))
    with refused("in_use"):
        attachments.attach(house.host, "web1", second)
    assert attached_by(house) == ["nova@a"]


def test_failed_second_attach_leaves_the_first(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@a"))
    house.edge.up = False
    with refused("edge_unavailable"):
        attachments.attach(house.host, "web1", Wish(Mode.FILE, holder="cinder", shared=True))
    assert attached_by(house) == ["nova@a"]


def test_connections_close_on_a_resize_only_if_all_guests_come_back(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    wish = Wish(Mode.EDGE, holder="nova@a", reconnects=True)
    attachments.attach(house.host, "web1", wish)
    assert house.edge.served[made.uuid]["drop_on_resize"]
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="nova@b", shared=True))
    assert not house.edge.served[made.uuid]["drop_on_resize"]
    attachments.reconnect(house.host, "web1")
    assert house.edge.dropped == [made.uuid]


def test_names_of_holders(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    for name in ("", " ", "a b", "-x", "x" * 256):
        with refused("bad_request"):
            attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder=name))


def test_a_record_from_before_there_were_holders(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    body = made.body()
    del body["attachments"], body["multi_attach"]
    body["attachment"] = {"mode": "edge", "read_only": False, "socket": "/run/x.sock"}
    read = Volume.from_body(body, made.version)
    assert [(one.holder, one.socket) for one in read.attachments] == [("local", "/run/x.sock")]
    body["attachment"] = None
    assert Volume.from_body(body, made.version) == made
