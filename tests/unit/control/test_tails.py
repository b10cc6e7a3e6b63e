"""Logs that a node kept once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ovs_daemon.control.records import Dtl, Volume
from ovs_daemon.control.status import status
from ovs_daemon.policy.model import DtlMode, DtlState
from tests.support.town import Town
from tests.unit.control.test_takeover import make, town

__all__ = ["town"]


def told(town: Town, node: str, folder: Path, ident: str) -> list[dict[str, str]]:
    """What a node says that has the log of a volume."""
    host = town[node].host
    host.settings = replace(host.settings, dtl_dir=folder)
    (folder / ident).mkdir(exist_ok=True)
    (folder / "boot").touch()
    findings = status(host, edge_connected=True)["findings"]
    return [one for one in findings if one["code"] == "dtl_leftover"]


def keep(town: Town, volume: Volume, node: str, state: DtlState) -> None:
    town.set_dtl(town.volume(volume.uuid), Dtl(DtlMode.SYNC, node, state))


def test_a_log_that_another_node_has_whole_is_named_and_left(town: Town, tmp_path: Path) -> None:
    volume = make(town)
    keep(town, volume, "b2", DtlState.IN_SYNC)
    (found,) = told(town, "b1", tmp_path, volume.uuid)
    assert found["object"] == "node b1"
    assert volume.uuid in found["why"]
    assert str(tmp_path) in found["why"]
    assert "stop vstorage-daemon" in found["fix"]
    town.tend()
    assert (tmp_path / volume.uuid).is_dir()


@pytest.mark.parametrize(
    ("node", "state"),
    [
        ("b1", DtlState.IN_SYNC),
        ("b1", DtlState.DEGRADED),
        ("b2", DtlState.DEGRADED),
        ("b2", DtlState.CATCHING_UP),
    ],
)
def test_what_may_be_needed_is_not_named(
    town: Town, tmp_path: Path, node: str, state: DtlState
) -> None:
    volume = make(town)
    keep(town, volume, node, state)
    assert told(town, "b1", tmp_path, volume.uuid) == []


def test_what_a_deleted_volume_has_left_is_named(town: Town, tmp_path: Path) -> None:
    gone = [f"00000000-0000-4000-8000-0000000000{n:02x}" for n in range(240, 245)]
    for ident in gone:
        (found,) = told(town, "b1", tmp_path, ident)
    assert f"{gone[2]} and 2 more" in found["why"]


def test_a_node_that_keeps_no_logs_has_none_left(town: Town, tmp_path: Path) -> None:
    volume = make(town)
    keep(town, volume, "b2", DtlState.IN_SYNC)
    assert told(town, "b1", tmp_path, volume.uuid)
    host = town["b1"].host
    host.settings = replace(host.settings, dtl_dir=None)
    codes = [one["code"] for one in status(host, edge_connected=True)["findings"]]
    assert "dtl_leftover" not in codes
    host.settings = replace(host.settings, dtl_dir=tmp_path / "missing")
    assert "dtl_leftover" not in [
        one["code"] for one in status(host, edge_connected=True)["findings"]
    ]
