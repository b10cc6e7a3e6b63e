"""One lock for each volume: verbs on one volume take turns, verbs on different ones do not wait."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Locks:
    """Locks by key; a key costs memory only while somebody holds or awaits it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.RLock, int]] = {}

    @contextlib.contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Hold the key's lock; the thread that holds it may take it again."""
        with self._using(key) as lock, lock:
            yield

    @contextlib.contextmanager
    def trying(self, key: str, patience_s: float) -> Iterator[bool]:
        """The same, unless somebody else holds it for so long; whether it is held."""
        with self._using(key) as lock:
            held = lock.acquire(timeout=patience_s)
            try:
                yield held
            finally:
                if held:
                    lock.release()

    @contextlib.contextmanager
    def _using(self, key: str) -> Iterator[threading.RLock]:
        with self._guard:
            lock, users = self._locks.get(key, (threading.RLock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            yield lock
        finally:
            with self._guard:
                lock, users = self._locks[key]
                if users == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = (lock, users - 1)
