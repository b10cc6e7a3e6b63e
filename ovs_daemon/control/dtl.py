"""What the engine asks about the DTLs of open volumes, decided in the registry.

The engine says that a volume's log is, or is no longer, complete on the other node, and waits: a
write that only this node has is acknowledged after the registry knows that the log is incomplete,
never before. A thread takes one question after the other; while the registry is away it waits with
them, and so do the guests' writes.

No question takes a volume's lock: a verb that holds it may be waiting for the engine, which waits
for the answer. A lock of its own (:func:`dtl_lock`) keeps a question from being judged while the
volume is half paired with another node.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ovs_daemon.control.checks import require_available
from ovs_daemon.control.host import Host
from ovs_daemon.control.opening import record_of, with_record
from ovs_daemon.control.records import Dtl, Volume
from ovs_daemon.control.store import put
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.policy.model import DtlMode, DtlState
from ovs_daemon.policy.ownership import Verdict, judge
from ovs_daemon.registry import Conflict

LOG = logging.getLogger(__name__)

_POLL_S = 0.5
_AGAIN_S = 0.2

_REASONS = {
    "newer_epoch": "the node that keeps its log knows a newer owner",
    "swap_refused": "the registry says that it belongs to another node",
    "lease": "this node's lease was over, so that another one may own it",
}


@dataclass(frozen=True)
class DtlEvent:
    """A change of a DTL's state that was recorded."""

    uuid: str
    node: str | None
    before: DtlState
    after: DtlState


def dtl_lock(uuid: str) -> str:
    """The lock under which the registry and the engine learn of a volume's DTL together."""
    return f"dtl/{uuid}"


def set_dtl_mode(host: Host, reference: str, mode: DtlMode) -> Volume:
    """Change when a volume's writes are acknowledged.

    Its log counts as incomplete until the engine has it complete in the new mode.

    :raises VStorageError: ``unknown_volume``, ``not_here``, ``busy`` or an engine code; it then
        stays as it was
    """
    what = f"set the DTL mode of volume {reference!r} to {mode.value!r}"
    found = host.require(what, reference)
    with host.locks.holding(found.uuid), host.locks.holding(dtl_lock(found.uuid)):
        volume = require_available(host, what, host.again(what, found))
        if volume.dtl.mode is mode:
            return volume
        keeper = None if mode is DtlMode.NONE else volume.dtl.node
        changed = _store_dtl(host, volume, mode, keeper)
        try:
            host.engine.set_dtl(volume.uuid, host.opener.dtl_spec(changed))
        except VStorageError:
            # What the engine goes on doing must not be taken for the new mode.
            _store_dtl(host, changed, volume.dtl.mode, volume.dtl.node)
            raise
        if keeper is None:
            host.drop_log(volume)
        return changed


def _store_dtl(host: Host, volume: Volume, mode: DtlMode, keeper: str | None) -> Volume:
    state = DtlState.STANDALONE if keeper is None else DtlState.DEGRADED
    changed = replace(volume, dtl=Dtl(mode, keeper, state))
    return replace(changed, version=host.store.commit(put(changed)))


class DtlDesk:
    """The thread that answers.

    :param fenced: told the UUID of a volume that the engine has stopped
    :param recorded: told of every change that was recorded
    """

    def __init__(
        self,
        host: Host,
        fenced: Callable[[str], None],
        recorded: Callable[[DtlEvent], None],
    ) -> None:
        self._host = host
        self._fenced = fenced
        self._recorded = recorded
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dtl-desk", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; returns when the thread has ended."""
        self._stopping.set()
        self._thread.join()

    def handle(self, event: dict[str, Any]) -> None:
        """Answer one question, or take note of what needs no answer."""
        match event.get("kind"):
            case "dtl_state":
                decided = self._decide(event)
                if decided is None:
                    return
                # Guests may wait for the answer, for what follows from it nobody does.
                self._host.engine.answer_event(event["id"], decided[0])
                if decided[1] is not None:
                    self._recorded(decided[1])
            case "fenced":
                self._stopped(event)
            case kind:
                LOG.error("the engine said what this daemon does not know: %s", kind)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                event = self._host.engine.next_event(_POLL_S)
                if event is not None:
                    self.handle(event)
            except VStorageError as failure:
                LOG.error("a question of the engine stays open: %s", failure)
            except Exception:
                # Without this thread the writes of all volumes would wait one day.
                LOG.exception("a question of the engine stays open; report this")

    def _decide(self, event: dict[str, Any]) -> tuple[bool, DtlEvent | None] | None:
        """Whether the registry has it, and what has changed there; None when this daemon stops
        before that is known."""
        silent, uuid = False, event["uuid"]
        while not self._stopping.is_set():
            try:
                return self._record(event)
            except Conflict:
                continue
            except VStorageError as failure:
                if not silent:
                    LOG.error("writes of volume %s wait: %s", uuid, failure)
            except Exception:
                # The engine does not ask again.
                if not silent:
                    LOG.exception("writes of volume %s wait; report this", uuid)
            silent = True
            self._stopping.wait(_AGAIN_S)
        return None

    def _record(self, event: dict[str, Any]) -> tuple[bool, DtlEvent | None]:
        with self._host.locks.holding(dtl_lock(event["uuid"])):
            return self._judge(event)

    def _judge(self, event: dict[str, Any]) -> tuple[bool, DtlEvent | None]:
        volume = self._host.store.volume(event["uuid"])
        # A question of a former pair may fit the record again, where a node was chosen a second
        # time, while what it held was wiped.
        if volume is None or not self._host.engine.event_stands(event["id"]):
            return False, None
        to = DtlState(event["to"])
        me = self._host.settings.node
        verdict, record = judge(me, record_of(volume), event["epoch"], event["node"], to)
        if verdict is Verdict.SWAP:
            self._host.store.commit(put(with_record(volume, record)))
            LOG.info("volume %s: its log on %s is %s", volume.name, volume.dtl.node, to)
            return True, DtlEvent(volume.uuid, volume.dtl.node, volume.dtl.state, to)
        return verdict is not Verdict.REFUSED, None

    def _stopped(self, event: dict[str, Any]) -> None:
        uuid, why = event["uuid"], str(event.get("why"))
        failure = VStorageError(
            Code.NOT_HERE,
            f"go on with volume {uuid}",
            _REASONS.get(why, why),
            "it is opened again here if it is this node's",
        )
        self._host.remember_failure(uuid, failure)
        self._fenced(uuid)
