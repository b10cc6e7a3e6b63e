"""Which backend a node stores objects on, told apart by an identity that lies on the backend.

A volume can be opened only where its objects are. Two nodes with folders of their own look alike
from outside; the identity is what tells them from two nodes that share one.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from ovs_daemon.errors import Code, VStorageError

_FILE = "backend.id"


def has_identity(folder: Path) -> bool:
    """Whether a node has used the folder as its backend."""
    return (folder / _FILE).exists()


def identity_of_folder(folder: Path) -> str:
    """The identity of the backend in a folder, made by the first node that uses it.

    :raises VStorageError: ``internal``, the folder cannot be used
    """
    path = folder / _FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(folder, path)
        found = path.read_text().strip()
    except OSError as failure:
        raise VStorageError(
            Code.INTERNAL,
            f"use the backend {folder}",
            str(failure),
            "mount it, or correct the option [engine] backend_dir",
        ) from failure
    if not found:
        raise VStorageError(
            Code.INTERNAL,
            f"use the backend {folder}",
            f"{path} is empty",
            "put back what it held: every node's record has it, see 'vstorage node show --json'",
        )
    return found


def _make(folder: Path, path: Path) -> None:
    """Make an identity, whole and durable, unless another node is faster."""
    made = folder / f".{_FILE}.{uuid.uuid4()}"
    try:
        with made.open("x") as file:
            file.write(f"{uuid.uuid4()}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
