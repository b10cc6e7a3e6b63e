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
        self._changed = threading.Condition()
        self._places = inside
        self._size = inside + waiting
        self._present = 0
        self._closed = False

    @contextlib.contextmanager
    def passing(self, what: str) -> Iterator[None]:
        """Be in for as long as the context lasts; waits for it.

        :raises VStorageError: ``busy``, as many wait as may, or it was closed meanwhile
        """
        with self._changed:
            if self._present >= self._size:
                raise VStorageError(
                    Code.BUSY,
                    what,
                    f"this node has {self._size} such calls already, which wait for the backend",
                    "try again later; 'vstorage status' tells what the backend waits for",
                )
            self._present += 1
            try:
                self._enter(what)
            except VStorageError:
                self._present -= 1
                raise
        try:
            yield
        finally:
            with self._changed:
                self._present -= 1
                self._places += 1
                self._changed.notify()

    def close(self) -> None:
        """Let nobody in any more; who is in is not disturbed, who waits is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _enter(self, what: str) -> None:
        self._changed.wait_for(lambda: self._closed or self._places > 0)
        if self._closed:
            raise stopping(what)
        self._places -= 1


def stopping(what: str) -> VStorageError:
    """What a call hears that comes, or whose turn comes, when the daemon stops."""
    return VStorageError(Code.BUSY, what, "the daemon is stopping", "try again when it is back")
