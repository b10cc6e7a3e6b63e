"""Images that Glance keeps as volumes of Cinder (its cinder store): found, so as to be cloned.

Cinder's manager clones such an image by itself when its volume is of the very same host and
backend; within a Domain, whichever section the volume belongs to, the driver can.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from cinder import exception, objects
from cinder.volume import volume_utils
from oslo_config import cfg

_SCHEME = "cinder"


def find(
    context: Any, volume: Any, image_location: Any, image: Mapping[str, Any], domain: str
) -> Any | None:
    """The volume of ``domain`` that holds an image as a volume's data would be; None for none.

    A location is what somebody wrote into Glance: the volume has to be the image's owner's.
    """
    if not image_location or volume.encryption_key_id:
        return None
    if (image.get("container_format"), image.get("disk_format")) != ("bare", "raw"):
        return None
    if _SCHEME not in cfg.CONF.allowed_direct_url_schemes:
        return None
    for volume_id in _ids(image_location):
        try:
            found = objects.Volume.get_by_id(context.elevated(), volume_id)
        except exception.VolumeNotFound:
            continue
        here = volume_utils.extract_host(found.host, "pool") == domain
        if here and not found.encryption_key_id and image.get("owner") in _owners(found):
            return found
    return None


def _ids(image_location: Any) -> Iterator[str]:
    direct_url, locations = image_location
    urls = [direct_url, *(location.get("url") for location in locations or ())]
    for url in dict.fromkeys(url for url in urls if url):
        scheme, _, path = url.partition("://")
        # cinder://VOLUME or, with several stores, cinder://STORE/VOLUME
        volume_id = path.rpartition("/")[2]
        if scheme == _SCHEME and _is_uuid(volume_id):
            yield volume_id


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _owners(volume: Any) -> set[str]:
    """Whose the image in a volume is: the store may keep it in a project of its own."""
    owners = {volume.project_id, (volume.metadata or {}).get("image_owner")}
    return {owner for owner in owners if owner}
