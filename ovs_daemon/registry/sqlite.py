"""The embedded registry of one host: an SQLite file.

WAL with ``synchronous = FULL`` syncs the log before a commit returns, so a committed transaction
survives a kill and a power loss (https://www.sqlite.org/pragma.html#pragma_synchronous). Each
thread has its own connection: SQLite serializes the writers among threads and processes alike,
and readers see one moment without stopping writers.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from urllib.parse import unquote, urlsplit

from ovs_daemon.errors import Code, VStorageError
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

_SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS revision (id INTEGER PRIMARY KEY CHECK (id = 0), value INTEGER NOT NULL);
INSERT OR IGNORE INTO revision VALUES (0, 0);
CREATE TABLE IF NOT EXISTS record (
    kind TEXT NOT NULL, ident TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (kind, ident)
) WITHOUT ROWID;
"""


class SqliteRegistry(Registry):
    """A registry in the file that ``sqlite:///path`` names."""

    def __init__(self, url: str) -> None:
        self._path = unquote(urlsplit(url).path)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        with self._explained("open"):
            self._prepare()

    def get(self, kind: str, ident: str) -> Record | None:
        with self._explained("read"):
            row = (
                self._connection()
                .execute(
                    "SELECT version, body FROM record WHERE (kind, ident) = (?, ?)", (kind, ident)
                )
                .fetchone()
            )
        return None if row is None else Record(kind, ident, row[0], json.loads(row[1]))

    def list(self, kind: str) -> list[Record]:
        with self._explained("read"):
            rows = (
                self._connection()
                .execute(
                    "SELECT ident, version, body FROM record WHERE kind = ? ORDER BY ident", (kind,)
                )
                .fetchall()
            )
        return [Record(kind, ident, version, json.loads(body)) for ident, version, body in rows]

    def commit(self, operations: Sequence[Operation]) -> int:
        check_distinct(operations)
        with self._explained("write"), self._transaction() as connection:
            for operation in operations:
                row = connection.execute(
                    "SELECT version FROM record WHERE (kind, ident) = (?, ?)",
                    (operation.kind, operation.ident),
                ).fetchone()
                version = None if row is None else int(row[0])
                if version != expected_version(operation):
                    raise Conflict(operation, version)
            connection.execute("UPDATE revision SET value = value + 1")
            revision = int(connection.execute("SELECT value FROM revision").fetchone()[0])
            for operation in operations:
                _perform(connection, operation, revision)
        return revision

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def _prepare(self) -> None:
        os.makedirs(os.path.dirname(self._path) or ".", mode=0o700, exist_ok=True)
        connection = self._connection()
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found > _SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"its schema {found} is newer than {_SCHEMA_VERSION}")
        with self._transaction():
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # isolation_level None: transactions begin and end where this file says so.
            connection = sqlite3.connect(
                self._path,
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            with self._lock:
                self._connections.append(connection)
            self._local.connection = connection
        return connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        # IMMEDIATE takes the writer's place at once: the versions read below cannot change
        # before they are swapped, and a deferred lock upgrade could fail without waiting.
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            # A failed COMMIT (full disk) may have rolled back by itself.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as failure:
            raise VStorageError(
                Code.REGISTRY,
                f"{verb} the registry {self._path!r}",
                str(failure),
                "check that the file can be written by the daemon's user and its disk is not full",
            ) from failure


def _perform(connection: sqlite3.Connection, operation: Operation, revision: int) -> None:
    if isinstance(operation, Create | Update):
        connection.execute(
            "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?)",
            (operation.kind, operation.ident, revision, json.dumps(operation.body)),
        )
    elif isinstance(operation, Delete):
        connection.execute(
            "DELETE FROM record WHERE (kind, ident) = (?, ?)", (operation.kind, operation.ident)
        )
