"""What every verb asks of its arguments before it does anything."""

from __future__ import annotations

import re
import uuid as uuid_module

from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Attachment, State, Volume
from ovs_daemon.errors import Code, VStorageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def require_available(host: Host, what: str, volume: Volume) -> Volume:
    """The volume, open in the engine; tried again if it could not be opened before.

    :raises VStorageError: ``busy`` when it is being created or deleted, or why it cannot be opened
    """
    if volume.state is not State.AVAILABLE:
        raise VStorageError(
            Code.BUSY,
            what,
            f"the volume is {volume.state.value}",
            f"'vstorage volume delete {volume.name}' finishes a deletion that failed",
        )
    return host.open(volume)


def refuse_attached(what: str, volume: Volume) -> None:
    """Refuse what must not happen under a guest.

    :raises VStorageError: ``in_use``
    """
    if volume.attachments:
        raise VStorageError(
            Code.IN_USE,
            what,
            f"it is attached: {describe_holders(volume.attachments)}",
            "stop its user, then "
            f"'vstorage volume detach {volume.name} --holder {volume.attachments[0].holder}'",
        )


def describe_holders(attachments: tuple[Attachment, ...]) -> str:
    """Who holds a volume and how, for messages."""
    return ", ".join(
        f"by {one.holder} ({one.mode.value}) on {one.socket}"
        + ("" if one.node is None else f" of node {one.node}")
        for one in attachments
    )


def check_name(what: str, name: str) -> None:
    """Refuse what cannot be a name of a volume or snapshot.

    :raises VStorageError: ``bad_request``
    """
    if _NAME.fullmatch(name) is None or is_uuid(name):
        raise VStorageError(
            Code.BAD_REQUEST,
            what,
            f"{name!r} is no name for a volume or snapshot",
            "use up to 255 letters, digits, '.', '_' and '-', a letter or digit first, no UUID",
        )


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in canonical form."""
    try:
        return str(uuid_module.UUID(text)) == text.lower()
    except ValueError:
        return False


def refuse_template(what: str, volume: Volume) -> None:
    """Refuse what would change a template.

    :raises VStorageError: ``read_only``
    """
    if volume.template:
        raise VStorageError(
            Code.READ_ONLY,
            what,
            "it is a template",
            f"clone it, or 'vstorage volume set --no-template {volume.name}' first",
        )
