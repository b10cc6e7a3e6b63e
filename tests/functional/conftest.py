"""A real daemon (and Edge) in a private directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.node import Node


@pytest.fixture
def node() -> Iterator[Node]:
    """A node whose daemon runs; without the Edge, which a test starts if it needs it."""
    with Node() as made:
        made.start_daemon()
        yield made
