"""How tests wait for what must happen: never without an end, and with what was seen instead."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS_MAX = 120.0
POLL_SECONDS = 0.01


class NeverHappened(AssertionError):
    """What was waited for did not happen; the message tells how things are."""


def _nothing() -> str:
    return "nothing more is known"


def wait_until(
    holds: Callable[[], object],
    what: str,
    state: Callable[[], object] = _nothing,
    meanwhile: Callable[[], object] | None = None,
    seconds_max: float = SECONDS_MAX,
) -> None:
    """Return when ``holds()``.

    :param what: that this waits for
    :param state: asked what is seen instead, when time is over
    :param meanwhile: done between two looks, in place of a pause
    :raises NeverHappened: time is over
    """
    deadline = time.monotonic() + seconds_max
    while not holds():
        if time.monotonic() > deadline:
            raise NeverHappened(f"within {seconds_max:g} s there was no {what}: {state()}")
        if meanwhile is None:
            time.sleep(POLL_SECONDS)
        else:
            meanwhile()
