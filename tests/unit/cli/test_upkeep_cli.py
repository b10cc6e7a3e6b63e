"""The upkeep of the backend on the command line, through the control API."""

from __future__ import annotations

from tests.support.command_line import Run, answer
from tests.support.house import House
from tests.unit.control.test_upkeep import FIGURES


def test_the_safety_of_objects_is_shown(run: Run, house: House) -> None:
    status, _, err = run("alba", "status")
    assert status == 1
    assert "it is a folder of objects" in err
    house.engine.figures = {**FIGURES, "by_safety": {"1": 2, "3": 8}, "missing": 5, "to_mend": 2}
    assert answer(run, "alba", "status") == {"node": "node1", **house.engine.figures}
    status, out, _ = run("alba", "status")
    assert status == 0
    assert "2 objects can bear the loss of 1 more disks" in out
    assert "5 fragments of 2 objects are missing" in out
    status, out, _ = run("status")
    assert "8 objects can bear the loss of 3 more disks" in out
    assert "2 of 10 objects lack fragments (5 in all)" in out


def test_work_is_begun(run: Run, house: House) -> None:
    house.engine.figures = FIGURES
    assert answer(run, "alba", "repair", "--no-wait")["repairs"] == 1
    status, out, _ = run("alba", "scrub", "--no-wait")
    assert (status, house.engine.started) == (0, ["repair", "scrub"])
    assert "node node1: idle" in out


def test_rebalancing_is_begun_and_shown(run: Run, house: House) -> None:
    moved = {**FIGURES["rebalanced"], "fragments": 7, "bytes": 3 << 20, "trimmed": 2}
    house.engine.figures = {
        **FIGURES,
        "doing": "rebalancing",
        "done": 1 << 20,
        "of": 4 << 20,
        "rebalanced": moved,
        "spread": {"dc1": 0.125},
    }
    status, out, _ = run("alba", "rebalance", "--no-wait")
    assert (status, house.engine.started) == (0, ["rebalance"])
    assert "node node1: rebalancing, 1 MiB of about 4 MiB moved" in out
    assert "rebalanced since the start: 7 fragments, 3 MiB moved, 0 B of it" in out
    assert "copies that were there twice, deleted: 2" in out
    assert "the fullest disk of dc1 is 12.5 percent of its size fuller" in out


def test_the_cache_tier_is_shown(run: Run, house: House) -> None:
    osd = {"hits": 90, "misses": 10, "evicted": 3, "damaged": 0, "refused": 0, "bytes": 1 << 20}
    cache = {
        "hits": 75,
        "misses": 20,
        "late": 5,
        "passed": 7,
        "damaged": 0,
        "hit_bytes": 75 << 12,
        "fills": 20,
        "fill_bytes": 20 << 16,
        "left_out": 2,
        "osds": [
            {"osd": "one", "name": "at a", "reachable": True, **osd, "size": 4 << 20},
            {"osd": "two", "name": "at b", "reachable": False},
            {"osd": "three", "name": "at c", "reachable": True},
        ],
    }
    house.engine.figures = {**FIGURES, "cache": cache}
    assert answer(run, "alba", "status")["cache"] == cache
    status, out, _ = run("alba", "status")
    assert status == 0
    assert "cache tier: 75 of 100 reads (75 %) found there" in out
    assert "5 not answered in time, 7 not asked" in out
    assert "cache OSD one: 1 MiB of 4 MiB used; 90 hits, 10 misses, 3 blocks evicted" in out
    assert "cache OSD two: out of reach" in out
    assert "cache OSD three: does not answer" in out
    house.engine.figures = FIGURES
    assert "cache" not in run("alba", "status")[1]
