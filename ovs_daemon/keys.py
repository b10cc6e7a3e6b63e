"""The keys that objects are encrypted with: from a file, or by castellan from Barbican or Vault.

The engine gets all of them at its start. The first one is that of new objects; the others are kept
as long as there are objects that were encrypted with them. A key's name is stored with each object.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from oslo_config import cfg

from ovs_daemon.errors import Code, VStorageError

_KEY_BYTES = 32
_NAME_BYTES_MAX = 128
_LINE = re.compile(r"(\S+)\s+([0-9a-fA-F]{64})")


def load_keys(conf: cfg.ConfigOpts) -> list[dict[str, str]]:
    """The keys as the engine takes them, that of new objects first.

    :raises VStorageError: ``bad_request``, one cannot be read
    """
    path, names = conf.alba.key_file, conf.alba.encryption_keys
    if path is not None and names:
        raise VStorageError(
            Code.BAD_REQUEST,
            "use the options [alba] key_file and encryption_keys",
            "there can be only one of them",
            "put all keys into the file, or all into the key manager",
        )
    keys = _fetch(conf, names) if names else {}
    if path is not None:
        keys = read_key_file(Path(path))
    return [{"name": name, "key": key} for name, key in keys.items()]


def read_key_file(path: Path) -> dict[str, str]:
    """Keys by name, in hexadecimal, in the order of the file's lines ``NAME KEY``.

    :raises VStorageError: ``bad_request``, others can read it, or a line is wrong
    """
    what = f"use the key file {path}"
    try:
        with path.open() as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except (OSError, UnicodeDecodeError) as failure:
        raise _bad(what, str(failure), "correct the path, or copy the file here") from failure
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        raise _bad(what, f"others may use it (mode {mode:04o})", f"chmod 600 {path}")
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or len(match[1].encode()) > _NAME_BYTES_MAX:
            raise _bad(
                what,
                f"line {number} is not NAME and 64 hexadecimal digits",
                "write such lines, the key for new objects first; 'openssl rand -hex 32' makes one",
            )
        if match[1] in keys:
            raise _bad(what, f"line {number} has {match[1]!r} again", "give each key its own name")
        keys[match[1]] = match[2].lower()
    if not keys:
        raise _bad(what, "it has no key", "'openssl rand -hex 32' makes one")
    return keys


def _fetch(conf: cfg.ConfigOpts, names: list[str]) -> dict[str, str]:
    """Keys by name from the key manager that castellan is configured for."""
    what = "fetch the keys of [alba] encryption_keys"
    try:
        from castellan import key_manager
        from castellan import options as castellan_options
        from castellan.common import utils
    except ImportError as missing:
        raise _bad(
            what, f"castellan is not installed ({missing})", "pip install castellan"
        ) from missing
    try:
        castellan_options.set_defaults(conf)
        manager = key_manager.API(conf)
        context = utils.credential_factory(conf)
    # What a key manager's plugin raises is its own affair; that it cannot be used is ours.
    except Exception as failure:
        raise _bad(what, _text(failure), "correct [key_manager]") from failure
    return {name: _fetch_one(manager, context, name) for name in names}


def _fetch_one(manager: Any, context: Any, name: str) -> str:
    what = f"fetch the key {name!r}"
    fix = "correct [alba] encryption_keys and [key_manager]; nothing is stored without the key"
    try:
        encoded = manager.get(context, name).get_encoded()
    # Whatever the key manager raises: what cannot be fetched is what the operator has to know.
    except Exception as failure:
        raise _bad(what, _text(failure), fix) from failure
    if not isinstance(encoded, bytes) or len(encoded) != _KEY_BYTES:
        raise _bad(what, "it is no symmetric key of 256 bits", fix)
    return encoded.hex()


def _text(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"


def _bad(what: str, why: str, fix: str) -> VStorageError:
    return VStorageError(Code.BAD_REQUEST, what, why, fix)
