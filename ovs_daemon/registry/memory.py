"""The registry in this process's memory: the twin for tests, and for trying things out."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ovs_daemon.registry.driver import (
    Changes,
    Conflict,
    Create,
    Delete,
    Key,
    Lapsed,
    Lease,
    LeaseLost,
    Operation,
    Record,
    Registry,
    Update,
    check_distinct,
    expected_version,
    leases_of,
)

_HISTORY_MAX = 4096


class MemoryRegistry(Registry):
    """Bodies are kept as JSON text, so that no caller shares an object with the store and what
    cannot be stored elsewhere cannot be stored here either.

    :param clock: seconds, never going back
    """

    def __init__(self, url: str = "memory://", clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._revision = 0
        self._records: dict[Key, tuple[int, str]] = {}
        self._history: deque[tuple[int, frozenset[Key]]] = deque(maxlen=_HISTORY_MAX)
        self._leases_made = 0
        self._deadlines: dict[int, float] = {}
        self._bound: dict[Key, int] = {}

    def get(self, kind: str, ident: str) -> Record | None:
        with self._changed:
            self._expire()
            found = self._records.get((kind, ident))
        return None if found is None else Record(kind, ident, found[0], json.loads(found[1]))

    def list(self, kind: str) -> list[Record]:
        with self._changed:
            self._expire()
            found = sorted((key, value) for key, value in self._records.items() if key[0] == kind)
        return [
            Record(kind, ident, version, json.loads(body)) for (_, ident), (version, body) in found
        ]

    def commit(self, operations: Sequence[Operation]) -> int:
        check_distinct(operations)
        bodies = {
            (operation.kind, operation.ident): json.dumps(operation.body)
            for operation in operations
            if isinstance(operation, Create | Update)
        }
        leases = leases_of(operations)
        with self._changed:
            self._expire()
            for operation in operations:
                found = self._records.get((operation.kind, operation.ident))
                version = None if found is None else found[0]
                if version != expected_version(operation):
                    raise Conflict(operation, version)
            if any(lease.ident not in self._deadlines for lease in leases.values()):
                raise LeaseLost
            gone = {(one.kind, one.ident) for one in operations if isinstance(one, Delete)}
            if bodies or gone:
                self._write(bodies, gone)
            for key, lease in leases.items():
                self._bound[key] = lease.ident
            return self._revision

    def grant(self, ttl_s: float) -> Lease:
        with self._changed:
            self._leases_made += 1
            self._deadlines[self._leases_made] = self._clock() + ttl_s
            # Who waits for changes may have to wait less long now.
            self._changed.notify_all()
            return Lease(self._leases_made, ttl_s)

    def keep_alive(self, lease: Lease) -> bool:
        with self._changed:
            self._expire()
            if lease.ident not in self._deadlines:
                return False
            self._deadlines[lease.ident] = self._clock() + lease.ttl_s
            return True

    def revoke(self, lease: Lease) -> None:
        with self._changed:
            self._end({lease.ident})

    def revision(self) -> int:
        with self._changed:
            self._expire()
            return self._revision

    def watch(self, after: int, timeout_s: float) -> Changes:
        give_up = self._clock() + timeout_s
        with self._changed:
            self._expire()
            while self._revision <= after:
                now = self._clock()
                if now >= give_up:
                    break
                self._changed.wait(min([give_up, *self._deadlines.values()]) - now)
                self._expire()
            first = self._history[0][0] if self._history else self._revision + 1
            if after + 1 < first:
                raise Lapsed
            keys = (keys for revision, keys in self._history if revision > after)
            return Changes(max(after, self._revision), frozenset[Key]().union(*keys))

    def close(self) -> None:
        with self._changed:
            self._records.clear()

    def _expire(self) -> None:
        now = self._clock()
        self._end({ident for ident, deadline in self._deadlines.items() if deadline <= now})

    def _end(self, leases: set[int]) -> None:
        for ident in leases:
            self._deadlines.pop(ident, None)
        gone = {key for key, lease in self._bound.items() if lease in leases}
        if gone:
            self._write({}, gone)

    def _write(self, bodies: dict[Key, str], gone: set[Key]) -> None:
        self._revision += 1
        for key in gone:
            del self._records[key]
            self._bound.pop(key, None)
        for key, body in bodies.items():
            self._records[key] = (self._revision, body)
            self._bound.pop(key, None)
        self._history.append((self._revision, frozenset(gone | bodies.keys())))
        self._changed.notify_all()
