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
* ``list`` shows one moment: never one half of a transaction.
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
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Record:
    """One record as it was at one moment."""

    kind: str
    ident: str
    version: int
    body: Body


@dataclass(frozen=True)
class Create:
    """Put a record that must not exist yet."""

    kind: str
    ident: str
    body: Body


@dataclass(frozen=True)
class Update:
    """Replace the body of a record whose version must still be ``version``."""

    kind: str
    ident: str
    version: int
    body: Body


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


class Registry(abc.ABC):
    """A registry driver. All methods may be called from any thread."""

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
    """Open the registry that ``url`` names: ``memory://`` or ``sqlite:///path``.

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
            "set [registry] url to sqlite:///PATH",
        ) from missing
    registry = manager.driver(url)
    if not isinstance(registry, Registry):
        raise TypeError(f"the registry driver {scheme!r} made a {type(registry).__name__}")
    return registry
