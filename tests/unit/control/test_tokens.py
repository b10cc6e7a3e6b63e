"""Attach tokens and the key that signs them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ovs_daemon.control.tokens import _token, issue, load_key
from ovs_daemon.errors import VStorageError

VOLUME = "11111111-1111-1111-1111-111111111111"
KEY = b"0123456789abcdef0123456789abcdef"


def test_bytes_are_those_that_the_engine_expects() -> None:
    token = _token(KEY, VOLUME, "host-a", True, 1_800_000_000)
    assert len(token) == 64
    # The same in native/edge/src/server/key.rs.
    assert token.hex() == (
        "010100000000000000d2496b00000000"
        + "00" * 16
        + "ce5dcdc8c5837292baaac31cf4b0d7ecba882dbad24ea72cd6a7df091a8c78f9"
    )
    later = _token(KEY, VOLUME, "host-a", True, 1_800_000_000, 258)
    assert later.hex() == (
        "020100000000000000d2496b00000000"
        "02010000000000000000000000000000"
        "58163529b4ee02bb6b5a787f6c2ad6e6221b01a6ae98fd383b8fd556c64465fb"
    )


def test_a_token_lasts_half_a_day_at_least_and_changes_twice_a_day() -> None:
    tokens = [issue(KEY, VOLUME, "host-a", True, hour * 3600.0) for hour in range(24)]
    assert len(set(tokens)) == 2
    for hour, token in enumerate(tokens):
        expires = int.from_bytes(bytes.fromhex(token)[8:16], "little")
        assert 12 * 3600 < expires - hour * 3600 <= 24 * 3600


def test_everything_in_it_counts() -> None:
    first = issue(KEY, VOLUME, "host-a", True, 0)
    others = [
        issue(KEY[::-1], VOLUME, "host-a", True, 0),
        issue(KEY, VOLUME.replace("1", "2"), "host-a", True, 0),
        issue(KEY, VOLUME, "host-b", True, 0),
        issue(KEY, VOLUME, "host-a", False, 0),
        issue(KEY, VOLUME, "host-a", True, 0, generation=1),
        issue(KEY, VOLUME, "host-a", True, 0, generation=2),
    ]
    assert len({first, *others}) == 7


def test_a_key_is_made_once_and_for_the_daemon_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "cluster.key"
    assert load_key(path, may_make=False) is None
    key = load_key(path, may_make=True)
    assert key is not None
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path, may_make=True) == key
    assert [one.name for one in path.parent.iterdir()] == ["cluster.key"]


def test_a_key_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    path.write_text("short\n")
    with pytest.raises(VStorageError, match="fewer than 32 bytes"):
        load_key(path, may_make=True)
    with pytest.raises(VStorageError, match="cluster_key_file"):
        load_key(tmp_path, may_make=False)
