"""Keeps calls that may take long from taking all threads: few at work, the others of them wait."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ovs_daemon.errors import Code, VStorageError


class Turnstile:
    """Lets some in at a time.

    :param inside: who may be in
    :param waiting: who may wait besides; more are refused, since each takes a thread
    """

    def __init__(self, inside: int, waiting: float) -> None:
        self._guard = threading.Lock()
        self._inside = threading.Semaphore(inside)
        self._size = inside + waiting
        self._present = 0

    @contextlib.contextmanager
    def passing(self, what: str) -> Iterator[None]:
        """Be in for as long as the context lasts; waits for it.

        :raises VStorageError: ``busy``, as many wait as may
        """
        with self._guard:
            if self._present >= self._size:
                raise VStorageError(
                    Code.BUSY,
                    what,
                    f"this node has {self._size} such calls already, which wait for the backend",
                    "try again later; 'vstorage status' tells what the backend waits for",
                )
            self._present += 1
        try:
            with self._inside:
                yield
        finally:
            with self._guard:
                self._present -= 1
