"""The embedded registry of one host: an SQLite file.

WAL with ``synchronous = FULL`` syncs the log before a commit returns, so a committed transaction
survives a kill and a power loss (https://www.sqlite.org/pragma.html#pragma_synchronous). Each
thread has its own connection: SQLite serializes the writers among threads and processes alike,
and readers see one moment without stopping writers.

A lease counts the time since the host was started, which all its processes share; a lease of an
earlier start is over. Whoever comes by removes what belongs to leases that are over. A watch
looks at the revision from time to time, because SQLite tells no other process that it changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ovs_daemon.errors import Code, VStorageError
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

_SCHEMA_VERSION = 2
_BUSY_TIMEOUT_S = 30.0
_HISTORY_MAX = 4096
_LOOK_INTERVAL_S = 0.1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS revision (id INTEGER PRIMARY KEY CHECK (id = 0), value INTEGER NOT NULL);
INSERT OR IGNORE INTO revision VALUES (0, 0);
CREATE TABLE IF NOT EXISTS record (
    kind TEXT NOT NULL, ident TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (kind, ident)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change (
    revision INTEGER NOT NULL, kind TEXT NOT NULL, ident TEXT NOT NULL,
    PRIMARY KEY (revision, kind, ident)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease (
    id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, deadline REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS bound (
    kind TEXT NOT NULL, ident TEXT NOT NULL, lease INTEGER NOT NULL, PRIMARY KEY (kind, ident)
) WITHOUT ROWID;
"""


class SqliteRegistry(Registry):
    """A registry in the file that ``sqlite:///path`` names."""

    def __init__(self, url: str) -> None:
        self._path = unquote(urlsplit(url).path)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._changed = threading.Condition()
        self._boot = _BOOT_ID.read_text().strip()
        with self._explained("open"):
            self._prepare()

    def get(self, kind: str, ident: str) -> Record | None:
        with self._explained("read"):
            self._expire()
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
            self._expire()
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
        with self._explained("write"):
            self._expire()
            with self._transaction() as connection:
                revision = self._perform(connection, operations)
        with self._changed:
            self._changed.notify_all()
        return revision

    def grant(self, ttl_s: float) -> Lease:
        with self._explained("write"), self._transaction() as connection:
            made = connection.execute(
                "INSERT INTO lease (boot, deadline) VALUES (?, ?)", (self._boot, _now() + ttl_s)
            )
            assert made.lastrowid is not None
            return Lease(made.lastrowid, ttl_s)

    def keep_alive(self, lease: Lease) -> bool:
        with self._explained("write"), self._transaction() as connection:
            now = _now()
            kept = connection.execute(
                "UPDATE lease SET deadline = ? WHERE id = ? AND boot = ? AND deadline > ?",
                (now + lease.ttl_s, lease.ident, self._boot, now),
            )
            return kept.rowcount == 1

    def revoke(self, lease: Lease) -> None:
        with self._explained("write"):
            with self._transaction() as connection:
                connection.execute("UPDATE lease SET boot = '' WHERE id = ?", (lease.ident,))
            self._expire()

    def revision(self) -> int:
        with self._explained("read"):
            self._expire()
            return _revision(self._connection())

    def watch(self, after: int, timeout_s: float) -> Changes:
        give_up = time.monotonic() + timeout_s
        while (revision := self.revision()) <= after and time.monotonic() < give_up:
            with self._changed:
                self._changed.wait(min(_LOOK_INTERVAL_S, max(0, give_up - time.monotonic())))
        with self._explained("read"):
            connection = self._connection()
            rows = connection.execute(
                "SELECT kind, ident FROM change WHERE revision > ? AND revision <= ?",
                (after, revision),
            ).fetchall()
            # Asked last: what was dropped before the rows were read shows here.
            kept = connection.execute("SELECT MIN(revision) FROM change").fetchone()[0]
        if after < revision and (kept is None or after + 1 < kept):
            raise Lapsed
        return Changes(max(after, revision), frozenset((kind, ident) for kind, ident in rows))

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

    def _perform(self, connection: sqlite3.Connection, operations: Sequence[Operation]) -> int:
        for operation in operations:
            row = connection.execute(
                "SELECT version FROM record WHERE (kind, ident) = (?, ?)",
                (operation.kind, operation.ident),
            ).fetchone()
            version = None if row is None else int(row[0])
            if version != expected_version(operation):
                raise Conflict(operation, version)
        leases = leases_of(operations)
        for lease in leases.values():
            if _is_over(connection, lease.ident, self._boot):
                raise LeaseLost
        if not any(isinstance(one, Create | Update | Delete) for one in operations):
            return _revision(connection)
        revision = _next_revision(connection)
        for operation in operations:
            _perform(connection, operation, revision)
        for key, lease in leases.items():
            connection.execute("INSERT INTO bound VALUES (?, ?, ?)", (*key, lease.ident))
        return revision

    def _expire(self) -> None:
        """Remove leases that are over, and what is bound to them."""
        over = "SELECT id FROM lease WHERE boot != ? OR deadline <= ?"
        arguments = (self._boot, _now())
        if self._connection().execute(over, arguments).fetchone() is None:
            return
        with self._transaction() as connection:
            gone: list[Key] = connection.execute(
                f"SELECT kind, ident FROM bound WHERE lease IN ({over})", arguments
            ).fetchall()
            connection.execute(f"DELETE FROM lease WHERE id IN ({over})", arguments)
            if gone:
                revision = _next_revision(connection)
                for kind, ident in gone:
                    _perform(connection, Delete(kind, ident, 0), revision)
        with self._changed:
            self._changed.notify_all()

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


def _now() -> float:
    """Seconds since the host was started, sleep included: the same for all its processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _revision(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM revision").fetchone()[0])


def _next_revision(connection: sqlite3.Connection) -> int:
    connection.execute("UPDATE revision SET value = value + 1")
    revision = _revision(connection)
    connection.execute("DELETE FROM change WHERE revision <= ?", (revision - _HISTORY_MAX,))
    return revision


def _is_over(connection: sqlite3.Connection, lease: int, boot: str) -> bool:
    found = connection.execute(
        "SELECT 1 FROM lease WHERE id = ? AND boot = ? AND deadline > ?", (lease, boot, _now())
    )
    return found.fetchone() is None


def _perform(connection: sqlite3.Connection, operation: Operation, revision: int) -> None:
    if not isinstance(operation, Create | Update | Delete):
        return
    key = (operation.kind, operation.ident)
    connection.execute("DELETE FROM bound WHERE (kind, ident) = (?, ?)", key)
    connection.execute("INSERT INTO change VALUES (?, ?, ?)", (revision, *key))
    if isinstance(operation, Delete):
        connection.execute("DELETE FROM record WHERE (kind, ident) = (?, ?)", key)
    else:
        connection.execute(
            "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?)",
            (*key, revision, json.dumps(operation.body)),
        )
