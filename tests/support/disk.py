"""A disk of a size that tests choose: a tmpfs, which takes root, as installing does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def disk(path: Path, size_mib: int) -> Iterator[Callable[[int], None]]:
    """A tmpfs of `size_mib` MiB at `path`; gives a function that changes its size."""
    path.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "vstorage-test", str(path)], check=True
    )

    def resize(mib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={mib}m", str(path)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
