"""OSDs on the command line, through the control API."""

from __future__ import annotations

from ovs_daemon.control.osds import OsdLink
from tests.support.command_line import Run, answer
from tests.support.house import House

SERVER = "192.0.2.7:6650"
OSD = "aaaaaaaa-0000-4000-8000-000000000001"


def test_osds_are_added_listed_and_shown(run: Run, house: House) -> None:
    one = {"osd": OSD, "domain": "dc1", "node": "host1", "role": "capacity"}
    house.engine.servers[SERVER] = [one]
    assert answer(run, "osd", "list") == []
    added = answer(run, "osd", "add", SERVER)
    assert [osd["uuid"] for osd in added] == [OSD]
    assert answer(run, "osd", "list") == added
    assert answer(run, "osd", "show", OSD) == added[0]
    status, out, _ = run("osd", "list")
    assert status == 0
    assert SERVER in out
    status, _, err = run("osd", "show", "nothing")
    assert status == 1
    assert "there is no OSD 'nothing'" in err


def test_osds_leave_and_stay(run: Run, house: House) -> None:
    house.engine.servers[SERVER] = [
        {"osd": f"{OSD[:-2]}{at:02}", "domain": f"dc{at % 3}", "node": f"n{at}", "role": "capacity"}
        for at in range(12)
    ]
    osds = [one["uuid"] for one in answer(run, "osd", "add", SERVER)]
    OsdLink(house.host, None, shared=True).tend()
    status, out, _ = run("osd", "decommission", osds[0])
    assert status == 0
    assert "is being emptied" in out
    assert answer(run, "osd", "show", osds[0])["standing"] == "leaving"
    assert answer(run, "osd", "resume", osds[0])["standing"] == "member"
    status, _, err = run("osd", "remove", osds[1])
    assert status == 1
    assert "osd decommission" in err
    house.engine.away.add(osds[1])
    assert answer(run, "osd", "remove", osds[1], "--lost")["standing"] == "lost"
    status, out, _ = run("osd", "list")
    assert "lost" in out
