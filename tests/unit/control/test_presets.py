"""Presets that volumes use: chosen, inherited, kept as long as they are needed."""

from __future__ import annotations

import pytest

from ovs_daemon.control import volumes
from ovs_daemon.control.presets import PresetVerbs
from ovs_daemon.control.records import Volume
from ovs_daemon.control.store import PRESET, drop
from ovs_daemon.control.volumes import Source
from ovs_daemon.registry import Operation
from tests.support.house import House
from tests.support.refusal import refused

GIB = 1 << 30
MIB = 1 << 20
POLICY = {"k": 2, "m": 1, "c": 3, "x": 1, "domains": 1, "local": 0}


@pytest.fixture
def verbs(house: House) -> PresetVerbs:
    made = PresetVerbs(house.host)
    made.create_preset("small", [POLICY], 64 << 10, 8 * MIB, "lz4", "aes-256-gcm")
    return made


def opened_with(house: House, volume: Volume) -> object:
    """Name of the preset with which the engine has it open."""
    preset = house.engine.open[volume.uuid].preset
    return None if preset is None else (preset["name"], preset["compression"])


def test_a_volume_names_its_preset(house: House, verbs: PresetVerbs) -> None:
    volume = volumes.create_volume(house.host, "a", GIB, None, preset="small")
    assert (volume.preset, volume.sco_size) == ("small", 8 * MIB)
    assert opened_with(house, volume) == ("small", "lz4")
    other = volumes.create_volume(house.host, "b", GIB, None, sco_size=MIB, preset="small")
    assert (other.preset, other.sco_size) == ("small", MIB)
    house.start()
    assert opened_with(house, volume) == ("small", "lz4")
    plain = volumes.create_volume(house.host, "c", GIB, None)
    assert (plain.preset, plain.sco_size, opened_with(house, plain)) == (None, 64 * MIB, None)


def test_a_clone_has_its_parents_preset_unless_it_names_another(
    house: House, verbs: PresetVerbs
) -> None:
    volumes.create_volume(house.host, "a", GIB, None, preset="small")
    same = volumes.create_volume(house.host, "b", None, Source("a", None))
    assert (same.preset, opened_with(house, same)) == ("small", ("small", "lz4"))
    verbs.create_preset("other", [POLICY], 64 << 10, 4 * MIB)
    other = volumes.create_volume(house.host, "c", None, Source("a", None), preset="other")
    # SCOs are shared with the parent, so that their size is the parent's.
    assert (other.preset, other.sco_size) == ("other", 8 * MIB)


def test_a_preset_that_does_not_exist_is_refused(house: House) -> None:
    refused(
        lambda: volumes.create_volume(house.host, "a", GIB, None, preset="nothing"),
        "unknown_preset",
        "cannot create volume 'a': there is no preset 'nothing'",
    )
    assert house.host.store.volumes() == []


def test_what_the_engine_refuses_leaves_nothing(house: House, verbs: PresetVerbs) -> None:
    house.engine.fail = {"create_volume"}
    refused(lambda: volumes.create_volume(house.host, "a", GIB, None, preset="small"), "io")
    house.engine.fail = set()
    assert verbs.delete_preset("small") == {"deleted": True}


def test_a_preset_in_use_stays(house: House, verbs: PresetVerbs) -> None:
    volumes.create_volume(house.host, "a", GIB, None, preset="small")
    refused(lambda: verbs.delete_preset("small"), "in_use", "1 volumes use it, one is 'a'")
    volumes.delete_volume(house.host, "a", cascade=False)
    assert verbs.delete_preset("small") == {"deleted": True}


def test_a_preset_that_goes_while_a_volume_is_made_is_missed(
    house: House, verbs: PresetVerbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, commit = house.host.store, house.host.store.commit

    def late(*operations: Operation) -> int:
        if any(operation.kind == PRESET for operation in operations):
            monkeypatch.undo()
            preset = store.preset("small")
            assert preset is not None
            commit(drop(preset))
        return commit(*operations)

    monkeypatch.setattr(store, "commit", late)
    refused(
        lambda: volumes.create_volume(house.host, "a", GIB, None, preset="small"),
        "unknown_preset",
    )
    assert store.volumes() == []
