"""The identity of a backend: one for all who use it, and never half written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ovs_daemon.backend import identity_of_folder
from ovs_daemon.errors import VStorageError


def test_it_stays_and_is_its_own(tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "backend", tmp_path / "two"
    assert identity_of_folder(first) == identity_of_folder(first)
    assert identity_of_folder(first) != identity_of_folder(second)
    assert [path.name for path in first.iterdir()] == ["backend.id"], "nothing is left beside it"


def test_many_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: identity_of_folder(tmp_path), range(64)))
    assert len(set(found)) == 1


def test_a_damaged_one_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "backend.id").touch()
    with pytest.raises(VStorageError, match="is empty"):
        identity_of_folder(tmp_path)
    assert (tmp_path / "backend.id").read_text() == ""


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VStorageError, match="file"):
        identity_of_folder(tmp_path / "file")
