"""Write buffers of volumes that have left a node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ovs_daemon.control.records import Dtl, Volume
from ovs_daemon.control.sweep import sweep
from ovs_daemon.control.view import View
from ovs_daemon.policy.model import DtlMode, DtlState
from tests.support.town import Town
from tests.unit.control.test_takeover import make, town

__all__ = ["town"]


def swept(town: Town, volume: Volume, folder: Path) -> bool:
    """Whether node a1 removes the buffer that it has of a volume with this record."""
    a1 = town["a1"].host
    a1.settings = replace(a1.settings, buffer_dir=folder)
    (folder / volume.uuid).mkdir()
    (folder / "lost+found").mkdir()
    sweep(a1, View.of(a1.store))
    return town["a1"].engine.cleared == [volume.uuid]


def moved_on(town: Town, volume: Volume) -> Volume:
    """It is taken over and has its log elsewhere; its former owner comes back."""
    town["a1"].kill()
    town.pass_time()
    town.tend()
    taken = town.volume(volume.uuid)
    assert taken.node != "a1"
    town["a1"].start()
    town["a1"].engine.cleared.clear()
    return taken


def test_what_others_have_is_removed(town: Town, tmp_path: Path) -> None:
    taken = moved_on(town, make(town))
    town.set_dtl(taken, Dtl(DtlMode.SYNC, "b2", DtlState.IN_SYNC))
    assert swept(town, taken, tmp_path)


@pytest.mark.parametrize("state", [DtlState.DEGRADED, DtlState.STANDALONE])
def test_what_only_one_other_has_stays(town: Town, tmp_path: Path, state: DtlState) -> None:
    taken = moved_on(town, make(town))
    town.set_dtl(taken, Dtl(DtlMode.SYNC, "b2", state))
    assert not swept(town, taken, tmp_path)


def test_what_is_served_here_stays(town: Town, tmp_path: Path) -> None:
    assert not swept(town, make(town), tmp_path)


def test_what_a_person_may_want_after_a_loss_stays(town: Town, tmp_path: Path) -> None:
    taken = moved_on(town, make(town))
    town.set_dtl(taken, Dtl(DtlMode.SYNC, "b2", DtlState.IN_SYNC))
    host = town["a1"].host
    host.swap(town.volume(taken.uuid), forced={"at": "now"})
    assert not swept(town, taken, tmp_path)
