"""What a node's volumes rest on: which backend, which write buffers, which boot of the kernel.

A volume can be opened only where its objects are. Two nodes with folders of their own look alike
from outside; an identity that lies on the backend is what tells them from two nodes that share
one. Another one lies with the write buffers: a node that comes back with a new disk, or one that
is not mounted, has not what it acknowledged; nor, maybe, has one that lost power.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from ovs_daemon.errors import Code, VStorageError

_BACKEND, _BUFFERS = "backend.id", "buffer.id"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def has_identity(folder: Path) -> bool:
    """Whether a node has used the folder as its backend."""
    return (folder / _BACKEND).exists()


def identity_of_folder(folder: Path) -> str:
    """The identity of the backend in a folder, made by the first node that uses it.

    :raises VStorageError: ``internal``, the folder cannot be used
    """
    fix = "put back what it held: every node's record has it, see 'vstorage node show --json'"
    return _identity(folder, _BACKEND, f"use the backend {folder}", "[engine] backend_dir", fix)


def identity_of_buffers(folder: Path) -> str:
    """The identity of the folder of a node's write buffers, made with the folder.

    :raises VStorageError: ``internal``, the folder cannot be used
    """
    fix = "remove it; volumes that this node served last then wait for the logs of other nodes"
    return _identity(folder, _BUFFERS, f"use the folder {folder}", "[engine] buffer_dir", fix)


def boot_of_kernel() -> str:
    """What tells this boot of the kernel from all others.

    :raises VStorageError: ``internal``, the kernel does not say
    """
    try:
        return _BOOT.read_text().strip()
    except OSError as failure:
        raise VStorageError(
            Code.INTERNAL, "tell whether power was lost", str(failure), "mount /proc"
        ) from failure


def _identity(folder: Path, name: str, what: str, option: str, fix: str) -> str:
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(folder, path)
        found = path.read_text().strip()
    except OSError as failure:
        raise VStorageError(
            Code.INTERNAL, what, str(failure), f"mount it, or correct the option {option}"
        ) from failure
    if not found:
        raise VStorageError(Code.INTERNAL, what, f"{path} is empty", fix)
    return found


def _make(folder: Path, path: Path) -> None:
    """Make an identity, whole and durable, unless another node is faster."""
    made = folder / f".{path.name}.{uuid.uuid4()}"
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
