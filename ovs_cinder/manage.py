"""Volumes and snapshots that were there before Cinder knew of them, and changes in place.

A managed volume or snapshot takes the name that Cinder looks for; an unmanaged one keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cinder import exception
from cinder.volume import volume_utils
from oslo_config import cfg
from oslo_log import log as logging

from ovs_cinder import known, specs, stats
from ovs_cinder.failures import reported, translate
from ovs_cinder.volumes import UPLOAD_SUFFIX, VIEW_SUFFIX, VolumeVerbs, is_own_snapshot
from ovs_daemon.errors import Code, VStorageError

LOG = logging.getLogger(__name__)

_GIB = 1 << 30

#: endings of the names of clones that the driver makes for itself
OWN_SUFFIXES = (VIEW_SUFFIX, UPLOAD_SUFFIX)

_MANAGED = "already managed"
_OWN = "made by the driver for itself"


class ManageVerbs(VolumeVerbs):
    """The part of the driver that changes what a volume is called, or what it is."""

    # Volumes

    def manage_existing(self, volume: Any, existing_ref: Mapping[str, str]) -> None:
        """Take over a volume: by its name (source-name) or UUID (source-id)."""
        found = self._existing(existing_ref)
        limits = specs.limits_of(volume.volume_type_id, volume.size)
        with reported():
            # Cinder counts in GiB, rounded up: what it counts must be there.
            if found["size"] < volume.size * _GIB:
                self.api.resize_volume(found["uuid"], volume.size * _GIB)
            if limits is not None:
                self.api.set_limits(found["uuid"], limits)
            self.api.rename_volume(found["uuid"], volume.name)

    def manage_existing_get_size(self, volume: Any, existing_ref: Mapping[str, str]) -> int:
        """GiB, rounded up."""
        return _gib_up(self._existing(existing_ref)["size"])

    def unmanage(self, volume: Any) -> None:
        """The volume stays, under its name."""

    def get_manageable_volumes(
        self,
        cinder_volumes: Sequence[Any],
        marker: Any,
        limit: int,
        offset: int,
        sort_keys: list[str],
        sort_dirs: list[str],
    ) -> list[dict[str, Any]]:
        """All volumes of the Domain, and which of them may be managed."""
        managed = {volume.name: volume.id for volume in cinder_volumes}
        with reported():
            found = [
                one
                for one in self.api.list_volumes()
                # What was taken over by another Domain is Cinder's all the same.
                if self._is_here(one) or one["name"] in managed
            ]
        entries = [_manageable(one, managed, {}) for one in found]
        page = _page(entries, marker, limit, offset, sort_keys, sort_dirs)
        return _with_others(page, known.volume_id)

    def _is_here(self, volume: Mapping[str, Any]) -> bool:
        """Whether a volume of the cluster is this Domain's."""
        return bool(volume["domain"] == self._domain_name)

    def _existing(self, reference: Mapping[str, str]) -> dict[str, Any]:
        wanted = _wanted(reference)
        with reported():
            found = self.api.find_volume(wanted)
        if found is None or not self._is_here(found):
            raise _bad_reference(reference, f"there is no such volume in {self._domain_name}")
        if found["name"].endswith(OWN_SUFFIXES):
            raise _bad_reference(reference, f"it was {_OWN}")
        # Also one of another section: that one's volume would lose its data to this one.
        if known.volume_id(found["name"]) is not None:
            raise exception.ManageExistingAlreadyManaged(volume_ref=found["name"])
        if found["attached"] is not None:
            raise _bad_reference(reference, f"it is attached ({found['attached']})")
        if found["template"]:
            raise _bad_reference(reference, "it is a template, which is read-only")
        return found

    # Snapshots

    def manage_existing_snapshot(self, snapshot: Any, existing_ref: Mapping[str, str]) -> None:
        """Take over a snapshot of a managed volume, by name (source-name) or UUID (source-id)."""
        found = self._existing_snapshot(snapshot, existing_ref)
        with reported():
            self.api.rename_snapshot(snapshot.volume_name, found["uuid"], snapshot.name)

    def manage_existing_snapshot_get_size(
        self, snapshot: Any, existing_ref: Mapping[str, str]
    ) -> int:
        """GiB, rounded up."""
        return _gib_up(self._existing_snapshot(snapshot, existing_ref)["size"])

    def unmanage_snapshot(self, snapshot: Any) -> None:
        """The snapshot stays, under its name."""

    def get_manageable_snapshots(
        self,
        cinder_snapshots: Sequence[Any],
        marker: Any,
        limit: int,
        offset: int,
        sort_keys: list[str],
        sort_dirs: list[str],
    ) -> list[dict[str, Any]]:
        """All snapshots of the Domain, and which of them may be managed."""
        managed = {snapshot.name: snapshot.id for snapshot in cinder_snapshots}
        with reported():
            volumes = {one["uuid"] for one in self.api.list_volumes() if self._is_here(one)}
            found = [
                one
                for one in self.api.list_snapshots()
                if one["volume_uuid"] in volumes or one["name"] in managed
            ]
        entries = [
            _manageable(one, managed, {"source_reference": {"source-name": one["volume"]}})
            for one in found
        ]
        page = _page(entries, marker, limit, offset, sort_keys, sort_dirs)
        return _with_others(page, known.snapshot_id)

    def _existing_snapshot(self, snapshot: Any, reference: Mapping[str, str]) -> dict[str, Any]:
        wanted = _wanted(reference)
        with reported():
            found = self.api.list_snapshots(snapshot.volume_name)
        mine = [one for one in found if wanted in (one["name"], one["uuid"])]
        if not mine:
            raise _bad_reference(reference, f"volume {snapshot.volume_name} has no such snapshot")
        name = mine[0]["name"]
        if is_own_snapshot(name):
            raise _bad_reference(reference, f"it was {_OWN}")
        if known.snapshot_id(name) is not None:
            raise exception.ManageExistingAlreadyManaged(
                message=f"Unable to manage existing snapshot. Snapshot {name} already managed."
            )
        return mine[0]

    # Changes in place

    def retype(
        self, context: Any, volume: Any, new_type: Any, diff: Mapping[str, Any], host: Any
    ) -> bool:
        """Change limits in place; what needs other SCOs or another Domain is copied by Cinder."""
        pool = volume_utils.extract_host(host["host"], "pool")
        if pool != self._domain_name:
            LOG.info("volume %s: another Domain (%s) needs a migration", volume.name, pool)
            return False
        if diff.get("encryption"):
            LOG.info("volume %s: another encryption needs a migration", volume.name)
            return False
        for spec in (specs.SCO_SIZE, specs.PRESET):
            before, after = (diff.get("extra_specs") or {}).get(spec, (None, None))
            if before != after:
                LOG.info(
                    "volume %s: its %s (%s) is that of data already written; %s needs a migration",
                    volume.name,
                    spec,
                    before,
                    after,
                )
                return False
        limits = specs.limits_of(new_type["id"], volume.size)
        with reported():
            self.api.set_limits(volume.name, limits)
        return True

    def migrate_volume(
        self, context: Any, volume: Any, host: Mapping[str, Any]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Nothing moves between two backend sections of one Domain."""
        destination = (host.get("capabilities") or {}).get("location_info")
        cluster = self.api.cluster
        here = stats.location_info(cluster, self._domain_name)
        return cluster is not None and destination == here, None

    def update_migrated_volume(
        self, context: Any, volume: Any, new_volume: Any, original_volume_status: str
    ) -> dict[str, Any]:
        """Let a migrated volume have its first name again, unless that is taken or in use."""
        wanted = cfg.CONF.volume_name_template % volume.id
        try:
            self.api.rename_volume(new_volume.name, wanted)
        except VStorageError as failure:
            if failure.code not in (Code.DUPLICATE_NAME, Code.IN_USE):
                raise translate(failure) from failure
            LOG.info("volume %s keeps its name: %s", new_volume.name, failure)
            return {"_name_id": new_volume.name_id, "provider_location": None}
        return {"_name_id": None, "provider_location": None}


def _wanted(reference: Mapping[str, str]) -> str:
    wanted = reference.get("source-name") or reference.get("source-id")
    if not wanted:
        raise _bad_reference(reference, "give source-name or source-id")
    return wanted


def _bad_reference(
    reference: Mapping[str, str], reason: str
) -> exception.ManageExistingInvalidReference:
    return exception.ManageExistingInvalidReference(existing_ref=reference, reason=reason)


def _manageable(
    one: Mapping[str, Any], managed: Mapping[str, str], more: Mapping[str, Any]
) -> dict[str, Any]:
    reason = None
    if one["name"] in managed:
        reason = _MANAGED
    elif one["name"].endswith(OWN_SUFFIXES) or _is_own_snapshot(one):
        reason = _OWN
    elif one.get("attached") is not None:
        reason = "attached"
    elif one.get("template"):
        reason = "a template"
    elif one["state"] != "available":
        reason = f"its state is {one['state']}"
    return {
        "reference": {"source-name": one["name"]},
        "size": _gib_up(one["size"]),
        "safe_to_manage": reason is None,
        "reason_not_safe": reason,
        "cinder_id": managed.get(one["name"]),
        "extra_info": None,
        **more,
    }


def _with_others(
    page: list[dict[str, Any]], id_of: Callable[[str], str | None]
) -> list[dict[str, Any]]:
    """The same entries, of which those that Cinder has in another section are not to be managed.

    :param id_of: Cinder's id of what has a name
    """
    for one in page:
        if one["safe_to_manage"] and (known_id := id_of(one["reference"]["source-name"])):
            one.update(safe_to_manage=False, reason_not_safe=_MANAGED, cinder_id=known_id)
    return page


def _is_own_snapshot(one: Mapping[str, Any]) -> bool:
    """Whether it is a snapshot, not a volume, and the driver's own."""
    return "volume_uuid" in one and is_own_snapshot(one["name"])


def _page(entries: list[dict[str, Any]], *page: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = volume_utils.paginate_entries_list(entries, *page)
    return found


def _gib_up(size: int) -> int:
    return -(-size // _GIB)
