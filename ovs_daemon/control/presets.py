"""Verbs on presets: how the erasure-coded backend keeps objects (`doc/presets.md`).

The presets that come with the program are always there and cannot be changed; others are records
of the registry. What a preset means is decided by the engine alone, which checks every one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovs_daemon.control.host import Host
from ovs_daemon.control.preset_use import find_preset, refuse_used, spec_of
from ovs_daemon.control.store import drop, put
from ovs_daemon.control.topology import Preset
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.registry import Conflict, retry


class PresetVerbs:
    """The verbs on presets. Each raises :class:`VStorageError`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def list_presets(self) -> dict[str, Any]:
        """All presets, those that come with the program first."""
        shipped = [self._described(spec, None) for spec in self._host.engine.shipped_presets()]
        stored = [self._described(spec_of(one), one) for one in self._host.store.presets()]
        return {"presets": shipped + stored}

    def show_preset(self, name: str) -> dict[str, Any]:
        """One preset with what its policies promise."""
        return self._described(*self._find(f"show preset {name!r}", name))

    def create_preset(
        self,
        name: str,
        policies: Sequence[Mapping[str, Any]],
        fragment_size: int,
        sco_size: int,
        compression: str = "none",
        encryption: str = "none",
        cache_on_write: bool = False,
    ) -> dict[str, Any]:
        """A new preset; sizes in bytes.

        :param compression: ``none``, ``lz4`` or ``zstd``
        :param encryption: ``none`` or ``aes-256-gcm``
        :param cache_on_write: whether objects are brought to the cache tier when they are put
        :raises VStorageError: ``bad_preset`` with what is wrong, ``duplicate_name``
        """
        what = f"create preset {name!r}"
        chosen = tuple(dict(policy) for policy in policies)
        preset = Preset(
            name,
            chosen,
            fragment_size,
            sco_size,
            self._host.now(),
            compression=compression,
            encryption=encryption,
            cache_on_write=cache_on_write,
        )
        try:
            described = self._described(spec_of(preset), preset)
        except VStorageError as failure:
            raise VStorageError(failure.code, what, failure.why, failure.fix) from failure
        taken = VStorageError(
            Code.DUPLICATE_NAME, what, f"there is already a preset {name!r}", "choose another name"
        )
        if any(spec["name"] == name for spec in self._host.engine.shipped_presets()):
            raise taken
        try:
            self._host.store.commit(put(preset))
        except Conflict as conflict:
            raise taken from conflict
        return described

    def delete_preset(self, name: str) -> dict[str, Any]:
        """Delete a preset that does not come with the program, and that nothing uses.

        :raises VStorageError: ``unknown_preset``, ``in_use``
        """
        what = f"delete preset {name!r}"

        def attempt() -> None:
            _, preset = self._find(what, name)
            if preset is None:
                raise VStorageError(
                    Code.IN_USE, what, "it comes with the program", "create one of your own"
                )
            refuse_used(self._host.store, what, name, self._host.settings.preset)
            self._host.store.commit(drop(preset))

        retry(what, attempt)
        return {"deleted": True}

    def check_preset(self, name: str, cluster: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Which policy a cluster of ``[{"domain", "node", "disks"}]`` satisfies.

        Answers {"preset", "policy": described or null, "number", "shortages"}.
        """
        spec, _ = self._find(f"check preset {name!r}", name)
        return {"preset": name, **self._host.engine.judge_preset(spec, cluster)}

    def _find(self, what: str, name: str) -> tuple[Mapping[str, Any], Preset | None]:
        return find_preset(self._host.store, self._host.engine, what, name)

    def _described(self, spec: Mapping[str, Any], record: Preset | None) -> dict[str, Any]:
        described = self._host.engine.describe_preset(spec)
        created_at = None if record is None else record.created_at
        return {**described, "shipped": record is None, "created_at": created_at}
