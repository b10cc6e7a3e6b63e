"""The orderly end of a daemon: everything to the backend, and a word of that in the records."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Volume
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.model import DtlState
from ovs_daemon.registry import Conflict

LOG = logging.getLogger(__name__)

#: Between two words about volumes that are still being closed, seconds.
PATIENCE_S = 30.0

_NAMED_MAX = 3


def put_away(host: Host, at_once: int, patience_s: float = PATIENCE_S) -> None:
    """Close all volumes, and record of each that all of it is on the backend.

    So the node may come back with another disk for its write buffers, and what is left in the old
    ones is never taken for the end of a log. Where another node keeps the log, the record stays:
    the log is asked. A record that cannot be changed stays, too: then the disk is asked for.

    Whatever cannot be closed is left for :meth:`EngineClient.shutdown`, which says why.

    :param at_once: how many are closed beside each other: one that has much to bring to the
        backend, or whose records are slow, keeps no other from it
    :param patience_s: after how long it is said which ones are still being closed
    """
    records = _Records(host)
    began = time.monotonic()
    with ThreadPoolExecutor(at_once, "closing") as pool:
        left: dict[Future[None], str] = {
            pool.submit(_put_away, host, uuid, records): uuid for uuid in host.opened()
        }
        told = began
        while left:
            done, _ = wait(left, max(0.0, told + patience_s - time.monotonic()), FIRST_COMPLETED)
            for closed in done:
                uuid, failure = left.pop(closed), closed.exception()
                if failure is not None:
                    LOG.error("volume %s cannot be closed", uuid, exc_info=failure)
            if left and time.monotonic() >= told + patience_s:
                told = time.monotonic()
                _tell(list(left.values()), told - began)


def _tell(uuids: list[str], seconds: float) -> None:
    named = ", ".join(uuids[:_NAMED_MAX])
    if len(uuids) > _NAMED_MAX:
        named += f" and {len(uuids) - _NAMED_MAX} more"
    LOG.warning(
        "stopping for %.0f s: the backend does not have all yet of %s; wait, or end the daemon: "
        "what is missing stays in the write buffer, and this node goes on with it",
        seconds,
        named,
    )


def _put_away(host: Host, uuid: str, records: _Records) -> None:
    with host.locks.holding(uuid):
        volume = records.volume(uuid)
        try:
            saved = host.close(uuid)
        except VStorageError as failure:
            LOG.error("volume %s cannot be closed: %s", uuid, failure)
            return
        if saved and volume is not None:
            records.saved(volume)


class _Records:
    """What the records hear, until the registry cannot be asked: nobody waits for it again."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._away = threading.Event()
        self._guard = threading.Lock()

    def volume(self, uuid: str) -> Volume | None:
        """The record of a volume; None where nothing can be recorded."""
        if self._away.is_set():
            return None
        try:
            return self._host.store.volume(uuid)
        except VStorageError as failure:
            self._give_up(failure)
            return None

    def saved(self, volume: Volume) -> None:
        """Say that the backend has all of it."""
        settings = self._host.settings
        if volume.node != settings.node or volume.dtl.state is DtlState.IN_SYNC:
            return
        if self._away.is_set():
            return
        try:
            self._host.swap(volume, served=volume.served, saved=True, dtl=volume.dtl)
        except Conflict as conflict:
            LOG.info("the record of volume %s stays as it is: %s", volume.uuid, conflict)
        except VStorageError as failure:
            self._give_up(failure)

    def _give_up(self, failure: VStorageError) -> None:
        with self._guard:
            told = self._away.is_set()
            self._away.set()
        if not told:
            LOG.warning("records are not brought up to date: %s", failure)
