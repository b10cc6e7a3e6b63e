"""The registry in this process's memory: the twin for tests, and for trying things out."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

from ovs_daemon.registry.driver import (
    Conflict,
    Create,
    Delete,
    Operation,
    Record,
    Registry,
    Update,
    check_distinct,
    expected_version,
)


class MemoryRegistry(Registry):
    """Bodies are kept as JSON text, so that no caller shares an object with the store and what
    cannot be stored elsewhere cannot be stored here either."""

    def __init__(self, url: str = "memory://") -> None:
        self._lock = threading.Lock()
        self._revision = 0
        self._records: dict[tuple[str, str], tuple[int, str]] = {}

    def get(self, kind: str, ident: str) -> Record | None:
        with self._lock:
            found = self._records.get((kind, ident))
        return None if found is None else Record(kind, ident, found[0], json.loads(found[1]))

    def list(self, kind: str) -> list[Record]:
        with self._lock:
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
        with self._lock:
            for operation in operations:
                found = self._records.get((operation.kind, operation.ident))
                version = None if found is None else found[0]
                if version != expected_version(operation):
                    raise Conflict(operation, version)
            self._revision += 1
            for operation in operations:
                if isinstance(operation, Delete):
                    del self._records[operation.kind, operation.ident]
            for key, body in bodies.items():
                self._records[key] = (self._revision, body)
            return self._revision

    def close(self) -> None:
        with self._lock:
            self._records.clear()
