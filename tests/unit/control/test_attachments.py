"""Attaching and detaching, and an Edge process that goes and comes back."""

from __future__ import annotations

import pytest

from ovs_daemon.control import attachments, volumes
from ovs_daemon.control.edge_link import EdgeLink
from ovs_daemon.control.records import Mode
from ovs_daemon.control.status import status
from tests.support.house import House
from tests.unit.control.test_volumes import GIB, refused


@pytest.fixture
def link(house: House) -> EdgeLink:
    return EdgeLink(house.host, lambda: 60.0)


def test_through_the_edge(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    volume = attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
    assert volume.attachment is not None
    assert volume.attachment.uri == f"nbd+unix:///?socket=/run/vstorage/nbd/{made.uuid}.sock"
    assert house.edge.served[made.uuid] == {
        "op": "attach",
        "volume": made.uuid,
        "name": "web1",
        "socket": f"/run/vstorage/nbd/{made.uuid}.sock",
        "owner": "107:107",
        "mode": 0o660,
        "read_only": False,
    }
    assert attachments.detach(house.host, "web1").attachment is None
    assert house.edge.served == {}


def test_direct(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    volume = attachments.attach(house.host, "web1", Mode.DIRECT, read_only=False)
    assert volume.attachment is not None
    assert volume.attachment.socket == f"/run/vstorage/direct/{made.uuid}.sock"
    assert house.engine.open[made.uuid].export == "web1"
    house.start()
    assert house.engine.open[made.uuid].export == "web1", "served again after a restart"
    attachments.detach(house.host, "web1")
    assert house.engine.open[made.uuid].export is None


@pytest.mark.parametrize("mode", list(Mode))
def test_both_are_idempotent(house: House, mode: Mode) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    first = attachments.attach(house.host, "web1", mode, read_only=False)
    assert attachments.attach(house.host, "web1", mode, read_only=False) == first
    attachments.detach(house.host, "web1")
    assert attachments.detach(house.host, "web1").attachment is None


def test_in_two_ways_is_refused(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
    with refused("in_use"):
        attachments.attach(house.host, "web1", Mode.DIRECT, read_only=False)
    with refused("in_use"):
        attachments.attach(house.host, "web1", Mode.EDGE, read_only=True)


def test_an_attached_volume_is_in_use(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
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
            attachments.attach(house.host, "gold", mode, read_only=False)
        attachments.attach(house.host, "gold", mode, read_only=True)
        attachments.detach(house.host, "gold")


def test_direct_read_only_opens_read_only(house: House) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Mode.DIRECT, read_only=True)
    assert house.engine.open[made.uuid].read_only
    house.start()
    assert house.engine.open[made.uuid].read_only
    attachments.detach(house.host, "web1")
    assert not house.engine.open[made.uuid].read_only


@pytest.mark.parametrize("mode", list(Mode))
def test_failed_attach_is_not_made_true_later(house: House, link: EdgeLink, mode: Mode) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    house.edge.up = False
    house.engine.fail = {"export_nbd"}
    with refused("edge_unavailable" if mode is Mode.EDGE else "io"):
        attachments.attach(house.host, "web1", mode, read_only=False)
    house.engine.fail = set()
    assert house.host.require("", "web1").attachment is None
    house.edge.restart()
    link.check()
    assert house.edge.served == {}


def test_edge_comes_back_knowing_nothing(house: House, link: EdgeLink) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
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
    attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
    house.edge.up = False
    with refused("edge_unavailable"):
        attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
    assert house.host.require("", "web1").attachment is not None


def test_daemon_restart_leaves_the_edge_alone(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
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
    attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
    house.edge.up = False
    assert attachments.detach(house.host, "web1").attachment is None
    house.edge.up = True
    link.check()
    assert house.edge.served == {}


@pytest.mark.parametrize("mode", list(Mode))
def test_one_that_cannot_be_opened_is_detached_and_deleted(house: House, mode: Mode) -> None:
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", mode, read_only=False)
    house.disk.volumes[made.uuid].corrupt = True
    house.start()
    with refused("corrupt"):
        attachments.attach(house.host, "web1", mode, read_only=False)
    assert attachments.detach(house.host, "web1").attachment is None
    assert volumes.delete_volume(house.host, "web1", cascade=False)
    assert house.host.failures() == {}


def test_detach_from_an_edge_that_hangs_is_refused(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
    house.edge.up = house.edge.gone = False
    with refused("edge_unavailable"):
        attachments.detach(house.host, "web1")
    assert house.host.require("", "web1").attachment is not None


def test_status_names_who_waits_for_the_edge(house: House) -> None:
    volumes.create_volume(house.host, "web1", GIB, None)
    assert status(house.host, edge_connected=False)["findings"] == []
    attachments.attach(house.host, "web1", Mode.EDGE, read_only=False)
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
