"""Registry records of other releases.

Nodes of two releases share a registry while a cluster is upgraded, one node after the other. What a
record of a later release says in fields that this one does not know is kept, and written back with
whatever this one changes.

So a later release may add fields to a record and to attachments, never give one of them another
meaning. Other parts of a record (its DTL, its parent) get no new fields: what is new stands beside
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: registry bookkeeping, and what is written as fields of its own
_NOT_WRITTEN = ("version", "rest")


def known(cls: type[DataclassInstance], body: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `cls` from what the registry has, with what it does not know in ``rest``."""
    names = {field.name for field in dataclasses.fields(cls)}.difference(_NOT_WRITTEN)
    found = {name: value for name, value in body.items() if name in names}
    return {**found, "rest": {name: body[name] for name in body if name not in names}}


def body_of(record: DataclassInstance) -> dict[str, Any]:
    """What the registry shall have of a record."""
    names = (field.name for field in dataclasses.fields(record))
    written = {name: _plain(getattr(record, name)) for name in names if name not in _NOT_WRITTEN}
    return {**getattr(record, "rest", {}), **written}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(one) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return body_of(value)
    return value
