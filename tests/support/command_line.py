"""The command line in this process, against the control API of a host of twins."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ovs_daemon.cli.app import main
from tests.support.api_server import serving
from tests.support.house import House

#: the words of a command; its exit status, stdout and stderr
Run = Callable[..., tuple[int, str, str]]


@contextlib.contextmanager
def command_line(
    house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Commands for the house; when they are done, engine and registry agree."""
    with serving(house) as run_dir:
        monkeypatch.setenv("VSTORAGE_RUN_DIR", str(run_dir))

        def call(*words: str) -> tuple[int, str, str]:
            # cliff adds a log handler at every start of the application.
            handlers = list(logging.getLogger().handlers)
            status = main(words)
            logging.getLogger().handlers[:] = handlers
            captured = capsys.readouterr()
            return status, captured.out, captured.err

        yield call
    house.check()


def answer(run: Run, *words: str) -> Any:
    """What a command that succeeds prints with ``--json``."""
    status, out, err = run("--json", *words)
    assert (status, err) == (0, ""), err
    return json.loads(out)
