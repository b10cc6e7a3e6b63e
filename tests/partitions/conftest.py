"""A cluster of which each host has a network of its own, and a guest that never stops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.partitions.site import SIZE, Site, site_of
from tests.support.rooms import Guest


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """All hosts run; volume ``web1`` is on a1, its log complete on a node of room2."""
    with site_of(tmp_path) as made:
        yield made


@pytest.fixture
def guest(site: Site) -> Iterator[Guest]:
    """It works on h1, through the Edge there; its first requests are answered."""
    with Guest(site["h1"], "web1", SIZE) as made:
        made.wait_for_more(1)
        yield made
