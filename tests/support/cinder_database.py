"""Cinder's own database in memory, with its own fixtures, for tests that are functions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from cinder import context, objects
from cinder.tests.unit import test


class _Case(test.TestCase):  # type: ignore[misc, unused-ignore]
    """Cinder's base class, for what its setUp makes."""

    def runTest(self) -> None:
        """Nothing: the test is who asked for the database."""


@contextlib.contextmanager
def database() -> Iterator[Any]:
    """Yields an administrator's context."""
    case = _Case()
    case.setUp()
    try:
        objects.register_all()
        yield context.RequestContext("user", "project", is_admin=True)
    finally:
        case.doCleanups()
