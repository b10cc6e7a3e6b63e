"""What Cinder has already: whose volume or snapshot it is that has a certain name.

Cinder hands a driver the volumes of its own backend section. Those of another section may be in
the same Domain (two sections of one Domain, or a volume that was taken over or moved), and are
somebody's all the same: only the database knows of all.
"""

from __future__ import annotations

import uuid

from cinder import context, objects
from cinder.volume import volume_utils


def volume_id(name: str) -> str | None:
    """The id of Cinder's volume, of any backend, whose data is under this name; None for none."""
    found = _uuid(volume_utils.extract_id_from_volume_name(name))
    if found is None:
        return None
    if volume_utils.check_already_managed_volume(found):
        return found
    # After a migration a volume's data is under the name of another id than its own.
    admin = context.get_admin_context()
    migrated = objects.VolumeList.get_all(admin, limit=1, filters={"_name_id": found})
    return str(migrated[0].id) if migrated else None


def snapshot_id(name: str) -> str | None:
    """The id of Cinder's snapshot, of any backend, that has this name; None for none."""
    found = _uuid(volume_utils.extract_id_from_snapshot_name(name))
    if found is None or not objects.Snapshot.exists(context.get_admin_context(), found):
        return None
    return found


def _uuid(text: str | None) -> str | None:
    try:
        return text if text and str(uuid.UUID(text)) == text.lower() else None
    except ValueError:
        return None
