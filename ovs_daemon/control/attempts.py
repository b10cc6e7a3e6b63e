"""What fails with one volume is tried again, later each time, and keeps nothing else waiting."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from ovs_daemon.control.records import Volume
from ovs_daemon.errors import VStorageError

LOG = logging.getLogger(__name__)

_AGAIN_S, _AGAIN_S_MAX = 0.5, 60.0
# By then the pause is as long as it gets; what fails for days would have it leave the numbers.
_DOUBLINGS_MAX = 7


@dataclass(frozen=True)
class _Failed:
    """What failed several times in a row.

    :param again: when it is tried again, by the clock
    :param volume: with which it was tried, its UUID
    :param root: the family of that volume
    """

    times: int
    again: float
    volume: str
    root: str


class Attempts:
    """What may fail with volumes. Any thread may call.

    :param clock: seconds that never go back
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._failed: dict[str, _Failed] = {}

    def attempt(
        self, volume: Volume, act: Callable[[Volume], None], key: str | None = None
    ) -> bool:
        """Do something with a volume, unless it failed a moment ago; whether it was done.

        :param key: names what is done, where several things are; the volume unless told otherwise
        """
        key = key or volume.uuid
        with self._guard:
            failed = self._failed.get(key)
        if failed is not None and self._clock() < failed.again:
            return False
        times = 0 if failed is None else failed.times
        try:
            act(volume)
            with self._guard:
                self._failed.pop(key, None)
            return True
        except VStorageError as failure:
            pause_s = min(_AGAIN_S * 2 ** min(times, _DOUBLINGS_MAX), _AGAIN_S_MAX)
            LOG.warning("volume %s is tried again in %g s: %s", volume.name, pause_s, failure)
        except Exception:
            pause_s = _AGAIN_S_MAX
            LOG.exception("volume %s is tried again in a while; report this", volume.name)
        with self._guard:
            self._failed[key] = _Failed(
                times + 1, self._clock() + pause_s, volume.uuid, volume.root
            )
        return False

    def due(self) -> bool:
        """Whether something that failed is to be tried again by now."""
        return bool(self.overdue())

    def overdue(self) -> dict[str, _Failed]:
        """What is to be tried again by now; for :meth:`drop`."""
        now = self._clock()
        with self._guard:
            return {key: one for key, one in self._failed.items() if one.again <= now}

    def drop(self, overdue: Mapping[str, _Failed], waiting: Set[str] = frozenset()) -> None:
        """Forget what nobody has tried since: it is no longer to be done, or done otherwise.

        :param waiting: volumes, or the roots of their families, that somebody is at or will be
        """
        with self._guard:
            for key, one in overdue.items():
                if self._failed.get(key) is one and waiting.isdisjoint((one.volume, one.root)):
                    del self._failed[key]

    def failing(self) -> set[str]:
        """The keys of what failed and was not done since."""
        with self._guard:
            return set(self._failed)

    def forget(self, relative: Volume | None = None) -> bool:
        """Try at once what failed: all of it, or what failed with a relative of this volume.

        Returns whether there was anything.
        """
        with self._guard:
            found = [
                key
                for key, one in self._failed.items()
                if relative is None or one.root == relative.root
            ]
            for key in found:
                del self._failed[key]
        return bool(found)
