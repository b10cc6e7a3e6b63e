"""What every registry driver promises.

A registry is a flat set of records. A record has a kind ("volume"), an identity within the kind
(a UUID), a body (a JSON object) and a version. A transaction is a list of operations that happen
all together or not at all; each operation carries its own condition, so that a driver needs
nothing but "compare these versions, then put and delete those keys", which is what one etcd
transaction can do (https://etcd.io/docs/v3.5/learning/api/#transaction).

A version is opaque and never used twice for one identity, not even after a delete and a new
create: who read version v and swaps on v cannot overwrite a record that was replaced meanwhile.

Promises, checked for every driver by tests/unit/registry/test_contract.py:

* a transaction that returned is durable and seen by every later read of any process;
* a transaction that raised :class:`Conflict` changed nothing;
* one that raised anything else, or whose process was killed, happened completely or not at all;
* ``list`` shows one moment: never one half of a transaction;
* a record bound to a lease is there while the lease is kept alive, and goes with it;
* ``watch`` misses no change: it names what changed since a revision, or says that it lost count.

A driver whose store is away for a moment waits for it, within limits, and then raises
:class:`VStorageError` ``registry``. A transaction whose answer was lost is looked up before
anything is said about it; where even that is impossible the error is :class:`OutcomeUnknown`, and
only reading again tells.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from stevedore import driver as stevedore_driver

from ovs_daemon.errors import Code, VStorageError

NAMESPACE = "ovs_daemon.registry"
_RETRIES_MAX = 32

Body: TypeAlias = Mapping[str, Any]
Key: TypeAlias = tuple[str, str]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Lease:
    """Time that was lent to a holder; what is bound to it goes when the time is over.

    :param ttl_s: how long it lives without a sign of life, seconds; what the driver granted
    """

    ident: int
    ttl_s: float


@dataclass(frozen=True)
class Record:
    """One record as it was at one moment."""

    kind: str
    ident: str
    version: int
    body: Body


@dataclass(frozen=True)
class Create:
    """Put a record that must not exist yet; with a lease it goes when the lease does."""

    kind: str
    ident: str
    body: Body
    lease: Lease | None = None


@dataclass(frozen=True)
class Update:
    """Replace the body of a record whose version must still be ``version``.

    It is bound to ``lease`` from then on; without one, to none.
    """

    kind: str
    ident: str
    version: int
    body: Body
    lease: Lease | None = None


@dataclass(frozen=True)
class Delete:
    """Remove a record whose version must still be ``version``."""

    kind: str
    ident: str
    version: int


@dataclass(frozen=True)
class Unchanged:
    """Condition only: the record must still have ``version``."""

    kind: str
    ident: str
    version: int


@dataclass(frozen=True)
class Absent:
    """Condition only: there must be no such record."""

    kind: str
    ident: str


Operation: TypeAlias = Create | Update | Delete | Unchanged | Absent


class Conflict(Exception):
    """A condition of a transaction did not hold; nothing was changed.

    :param operation: the first operation whose condition failed
    :param found: the version that is there, None when there is no record
    """

    def __init__(self, operation: Operation, found: int | None) -> None:
        super().__init__(operation, found)
        self.operation = operation
        self.found = found

    def __str__(self) -> str:
        subject = f"{self.operation.kind}/{self.operation.ident}"
        there = "absent" if self.found is None else f"at version {self.found}"
        return f"{type(self.operation).__name__} of {subject} found it {there}"


class LeaseLost(Exception):
    """A transaction bound a record to a lease that is over; nothing was changed."""


class Lapsed(Exception):
    """The history does not reach back to the revision that was asked for: list everything."""


class OutcomeUnknown(VStorageError):
    """The answer to a transaction was lost, and the store cannot be asked what became of it.

    It happened, did not, or may yet happen: whoever depends on it reads again, and swaps on what
    is there.
    """


@dataclass(frozen=True)
class Changes:
    """What happened after a revision.

    :param revision: up to which ``keys`` is complete; where to go on from
    :param keys: (kind, identity) of records that were created, changed or removed
    """

    revision: int
    keys: frozenset[Key]


class Registry(abc.ABC):
    """A registry driver. All methods may be called from any thread."""

    #: Only processes of this host can reach it: there is no cluster to agree with.
    embedded = True

    @abc.abstractmethod
    def get(self, kind: str, ident: str) -> Record | None:
        """The record, or None."""

    @abc.abstractmethod
    def list(self, kind: str) -> list[Record]:
        """All records of a kind, sorted by identity."""

    @abc.abstractmethod
    def commit(self, operations: Sequence[Operation]) -> int:
        """Perform all operations or none; returns the version that written records now have.

        No identity may appear twice.

        :raises Conflict: a condition did not hold; nothing was changed
        :raises LeaseLost: a lease is over; nothing was changed
        """

    def has_room(self, operations: int) -> bool:
        """Whether the store takes a transaction of so many operations.

        Whoever needs a large one asks before it does what cannot wait: one that is too large is
        refused when it is committed.
        """
        return True

    @abc.abstractmethod
    def grant(self, ttl_s: float) -> Lease:
        """A new lease; the driver may grant a longer one than was asked for."""

    @abc.abstractmethod
    def keep_alive(self, lease: Lease) -> bool:
        """Let the lease's time begin anew; False when it was over already, for good."""

    @abc.abstractmethod
    def revoke(self, lease: Lease) -> None:
        """End a lease and remove what is bound to it; one that is over is fine."""

    @abc.abstractmethod
    def revision(self) -> int:
        """A revision that everything read from now on includes: where a watch begins."""

    @abc.abstractmethod
    def watch(self, after: int, timeout_s: float) -> Changes:
        """What changed after revision ``after``; waits up to ``timeout_s`` for the first change.

        :raises Lapsed: the history does not reach back so far
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release what the driver holds; the registry must not be used afterwards."""


def check_distinct(operations: Sequence[Operation]) -> None:
    """Refuse a transaction that names one record twice, as etcd does.

    :raises ValueError: two operations have the same kind and identity
    """
    keys = {(operation.kind, operation.ident) for operation in operations}
    if len(keys) != len(operations):
        raise ValueError(f"a transaction names a record twice: {operations!r}")


def expected_version(operation: Operation) -> int | None:
    """The version that the operation's condition asks for; None means "must not exist"."""
    if isinstance(operation, Create | Absent):
        return None
    return operation.version


def leases_of(operations: Sequence[Operation]) -> dict[Key, Lease]:
    """Which records a transaction binds to which leases."""
    return {
        (operation.kind, operation.ident): operation.lease
        for operation in operations
        if isinstance(operation, Create | Update) and operation.lease is not None
    }


def retry(what: str, attempt: Callable[[], _Result]) -> _Result:
    """Run a read-decide-commit function again while somebody else was faster.

    Compare-and-swap always lets one of the competitors through, so this ends without a pause
    unless the registry is under absurd contention.

    :param what: verb and object, for the error
    :raises VStorageError: ``busy`` after many lost races
    """
    conflict: Conflict | None = None
    for _ in range(_RETRIES_MAX):
        try:
            return attempt()
        except Conflict as lost:
            conflict = lost
    raise VStorageError(
        Code.BUSY,
        what,
        f"its record in the registry changed {_RETRIES_MAX} times meanwhile ({conflict})",
        "try again",
    )


def open_registry(url: str) -> Registry:
    """Open the registry that ``url`` names: ``memory://``, ``sqlite:///path`` or
    ``etcd://host:port[,host:port...]/prefix``.

    The scheme is a driver's name in the stevedore namespace ``ovs_daemon.registry``; a driver is
    a callable that takes the url.

    :raises VStorageError: ``registry`` when there is no such driver or it cannot open its store
    """
    scheme = urlsplit(url).scheme
    try:
        manager: stevedore_driver.DriverManager[Callable[[str], object]] = (
            stevedore_driver.DriverManager(NAMESPACE, scheme)
        )
    except RuntimeError as missing:
        raise VStorageError(
            Code.REGISTRY,
            f"open the registry {url!r}",
            f"no driver is named {scheme!r} ({missing})",
            "set [registry] url to sqlite:///PATH or etcd://HOST:PORT/PREFIX",
        ) from missing
    registry = manager.driver(url)
    if not isinstance(registry, Registry):
        raise TypeError(f"the registry driver {scheme!r} made a {type(registry).__name__}")
    return registry
