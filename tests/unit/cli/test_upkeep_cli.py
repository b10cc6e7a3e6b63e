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
    assert "2 objects can bear the loss of 1 more fragments" in out
    assert "5 fragments of 2 objects are missing" in out
    status, out, _ = run("status")
    assert "8 objects can bear the loss of 3 more fragments" in out
    assert "2 of 10 objects lack fragments (5 in all)" in out


def test_work_is_begun(run: Run, house: House) -> None:
    house.engine.figures = FIGURES
    assert answer(run, "alba", "repair", "--no-wait")["repairs"] == 1
    status, out, _ = run("alba", "scrub", "--no-wait")
    assert (status, house.engine.started) == (0, ["repair", "scrub"])
    assert "node node1: idle" in out
