"""One etcd for all tests of this folder that only need one; each test has its own prefix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.etcd import Etcd


@pytest.fixture(scope="session")
def etcd() -> Iterator[Etcd]:
    with Etcd() as started:
        yield started
