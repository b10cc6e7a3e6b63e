"""Attach tokens: the leave to attach one volume from one host, signed with the cluster's key.

The bytes are drawn in ``native/format/src/edge/token.rs``; the engine that owns the volume checks
them. A token is good for half a day to a day, and the same within half a day, so that a daemon that
asks every second has something new for the Edge only twice a day.

It carries the generation of the volume's attachments (`fencing.py`), and is worth nothing once that
was raised. It must come from the same reading of the record that says that the host has the volume.
Generation 0 is signed as it was before there were any.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import struct
import uuid as uuid_module
from pathlib import Path

from ovs_daemon.errors import Code, VStorageError

_VERSION, _VERSION_GENERATION = 1, 2
_PURPOSE, _PURPOSE_GENERATION = b"vstorage attach 1", b"vstorage attach 2"
_HALF_LIFE_S = 12 * 3600
_KEY_BYTES_MIN = 32


def issue(
    key: bytes, volume: str, host: str, may_write: bool, now_s: float, generation: int = 0
) -> str:
    """A token as hexadecimal digits.

    :param volume: UUID
    :param host: the one whose Edge attaches
    :param now_s: seconds since 1970, UTC
    :param generation: of the record in which the host has the volume
    """
    expires = (int(now_s) // _HALF_LIFE_S + 2) * _HALF_LIFE_S
    return _token(key, volume, host, may_write, expires, generation).hex()


def _token(
    key: bytes, volume: str, host: str, may_write: bool, expires: int, generation: int = 0
) -> bytes:
    version, purpose, later = _VERSION, _PURPOSE, b""
    if generation:
        version, purpose = _VERSION_GENERATION, _PURPOSE_GENERATION
        later = struct.pack("<Q", generation)
    fields = struct.pack("<B6xQ", may_write, expires)
    of_volume = uuid_module.UUID(volume).bytes
    signed = purpose + of_volume + fields[:1] + fields[7:] + later + host.encode()
    signature = hmac.new(key, signed, hashlib.sha256).digest()
    return struct.pack("<B", version) + fields + later.ljust(16, b"\0") + signature


def load_key(path: Path, may_make: bool) -> bytes | None:
    """The cluster's key; None when there is no file and none may be made.

    :param may_make: make the file when it is missing: only where no other node can have it
    :raises VStorageError: ``bad_request``, the file cannot be used
    """
    if may_make:
        _make(path)
    try:
        key = path.read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as failure:
        raise _unusable(path, str(failure)) from failure
    if len(key) < _KEY_BYTES_MIN:
        raise _unusable(path, f"it has fewer than {_KEY_BYTES_MIN} bytes")
    return key


def _make(path: Path) -> None:
    """Complete or not at all: a node that was killed here makes it the next time."""
    if path.exists():
        return
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secrets.token_hex(_KEY_BYTES_MIN).encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        os.unlink(fresh)
    except OSError as failure:
        raise _unusable(path, str(failure)) from failure


def _unusable(path: Path, why: str) -> VStorageError:
    return VStorageError(
        Code.BAD_REQUEST,
        f"use the cluster key {path}",
        why,
        "copy the file from a node that has it, readable for the daemon alone; "
        "cluster_key_file says where it is",
    )
