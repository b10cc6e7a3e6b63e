"""Works on many volumes beside each other: what takes time is waiting, for disks, other nodes and
the registry. What takes long with one of them holds up nobody else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

LOG = logging.getLogger(__name__)


class Crew:
    """A few threads. One other thread gives them their tasks.

    :param at_once: how many tasks are worked on at a time
    :param patience_s: how long whoever gives tasks waits for them, seconds; None: until they end
    :param late: told that a task has ended for which nobody waited any more
    """

    def __init__(
        self,
        at_once: int,
        patience_s: float | None = None,
        late: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = ThreadPoolExecutor(at_once, "crew")
        self._patience_s = patience_s
        self._late = late
        self._guard = threading.Lock()
        # By key: what is under way, and of that what nobody waits for any more.
        self._under_way: set[str] = set()
        self._given_up: set[str] = set()

    def work(self, tasks: Mapping[str, Callable[[], None]]) -> None:
        """Begin all tasks whose key is not under way already, and wait for them for a while.

        A key ends with the UUID of the volume or family that the task is about, if there is one.
        """
        with self._guard:
            begun = tasks.keys() - self._under_way
            self._under_way |= begun
        # In the order in which they were given.
        futures: list[Future[None]] = [
            self._pool.submit(self._perform, key, task)
            for key, task in tasks.items()
            if key in begun
        ]
        wait(futures, self._patience_s)
        with self._guard:
            self._given_up |= self._under_way

    def is_at(self, key: str) -> bool:
        """Whether a task with this key has been given and has not ended."""
        with self._guard:
            return key in self._under_way

    def about(self) -> set[str]:
        """What the tasks are about that have been given and have not ended."""
        with self._guard:
            return {key.rpartition(" ")[2] for key in self._under_way}

    def stop(self) -> None:
        """Begin nothing more; returns when what was begun has ended."""
        self._pool.shutdown(cancel_futures=True)

    def _perform(self, key: str, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception:
            LOG.exception("%s failed; report this", key)
        with self._guard:
            self._under_way.discard(key)
            late = key in self._given_up
            self._given_up.discard(key)
        if late:
            self._late()
