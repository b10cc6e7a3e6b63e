"""Our one error as Cinder's many: at the drivers' border, and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cinder import exception

from ovs_cinder import specs
from ovs_daemon.errors import Code, VStorageError


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Raise what Cinder expects in place of a :class:`VStorageError`."""
    try:
        yield
    except VStorageError as failure:
        raise translate(failure) from failure


def translate(failure: VStorageError) -> exception.CinderException:
    """The exception by which Cinder's managers tell refusals from faults."""
    text = str(failure)
    match failure.code:
        case Code.UNKNOWN_VOLUME:
            return exception.VolumeNotFound(message=text)
        case Code.UNKNOWN_SNAPSHOT:
            return exception.SnapshotNotFound(message=text)
        case Code.UNKNOWN_PRESET | Code.BAD_PRESET:
            return exception.InvalidInput(reason=f"the extra spec {specs.PRESET}: {text}")
        case Code.BAD_REQUEST | Code.BAD_SIZE | Code.READ_ONLY:
            return exception.InvalidInput(reason=text)
    return exception.VolumeBackendAPIException(data=text)
