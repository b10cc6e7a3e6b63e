"""Which preset a volume uses, and that it stays while one does.

Whoever begins to use a preset writes its record as well, unchanged, so that deleting it at the
same time is noticed by one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ovs_daemon.control.store import Store, put
from ovs_daemon.control.topology import Preset
from ovs_daemon.engine import EngineClient
from ovs_daemon.errors import Code, VStorageError, unknown_preset
from ovs_daemon.registry import Operation

#: what the engine knows of a preset
FIELDS = (
    "name",
    "policies",
    "fragment_size",
    "sco_size",
    "compression",
    "encryption",
    "cache_on_write",
)


def spec_of(preset: Preset) -> dict[str, Any]:
    """A preset as the engine reads it."""
    fields = asdict(preset)
    return {name: fields[name] for name in FIELDS}


def find_preset(
    store: Store, engine: EngineClient, what: str, name: str
) -> tuple[Mapping[str, Any], Preset | None]:
    """A preset as it is written, and its record unless it comes with the program.

    :raises VStorageError: ``unknown_preset``
    """
    for spec in engine.shipped_presets():
        if spec["name"] == name:
            return spec, None
    preset = store.preset(name)
    if preset is None:
        raise unknown_preset(what, name)
    return spec_of(preset), preset


def claim_preset(
    store: Store, engine: EngineClient, what: str, name: str | None
) -> list[Operation]:
    """What to commit together with a record that names a preset.

    :raises VStorageError: ``unknown_preset``
    """
    if name is None:
        return []
    _, preset = find_preset(store, engine, what, name)
    return [] if preset is None else [put(preset)]


def refuse_used(store: Store, what: str, name: str, configured: str | None) -> None:
    """Refuse to delete a preset by which something is kept.

    :param configured: that of this node's volumes which name none
    :raises VStorageError: ``in_use``
    """
    if name == configured:
        raise VStorageError(
            Code.IN_USE,
            what,
            "this node's option [alba] preset names it",
            "have the option name another one, and restart the daemon",
        )
    users = [volume.name for volume in store.volumes() if volume.preset == name]
    if users:
        raise VStorageError(
            Code.IN_USE,
            what,
            f"{len(users)} volumes use it, one is {users[0]!r}",
            "delete these volumes first, or keep the preset",
        )
