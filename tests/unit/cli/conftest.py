"""cliff adds a log handler at every start of the application; a process starts it only once."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.command_line import Run, command_line
from tests.support.house import House


@pytest.fixture(autouse=True)
def clean_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def run(
    house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    with command_line(house, capsys, monkeypatch) as made:
        yield made
