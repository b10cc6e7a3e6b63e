"""A host of twins, checked after every test: registry and engine agree, nothing is half done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.house import House


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.check()
    # A restart must find nothing to mend and change nothing but epochs.
    before = [(one.uuid, one.state, one.size) for one in made.host.store.volumes()]
    made.start()
    made.check()
    assert [(one.uuid, one.state, one.size) for one in made.host.store.volumes()] == before
    assert made.host.failures() == {}
