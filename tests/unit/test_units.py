"""Sizes, both ways."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_daemon.errors import VStorageError
from ovs_daemon.units import check_volume_size, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("4096B", 4096),
        ("4k", 4096),
        ("4KB", 4096),
        ("4 KiB", 4096),
        (" 1G ", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("0.5k", 512),
        ("64TiB", 64 << 40),
    ],
)
def test_parse(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "G", "-1", "1e9", "1X", "1GG", "0x10", "1,5G", "1.G", ".5G", "0.1", "٣", "1\n2", "nan"],
)
def test_refused(text: str) -> None:
    with pytest.raises(VStorageError) as caught:
        parse_size(text)
    assert caught.value.code == "bad_size"


@given(st.integers(0, 1 << 60))
def test_bytes_come_back(size: int) -> None:
    assert parse_size(str(size)) == size


@given(st.integers(1, 1023), st.sampled_from([1, 1 << 10, 1 << 20, 1 << 30, 1 << 40]))
def test_whole_units_come_back(number: int, unit: int) -> None:
    assert parse_size(format_size(number * unit)) == number * unit


@given(st.integers(-(1 << 50), 1 << 50))
def test_volume_sizes(size: int) -> None:
    good = 0 < size <= 64 << 40 and size % 4096 == 0
    expected = (
        contextlib.nullcontext() if good else pytest.raises(VStorageError, match=r"bytes|TiB")
    )
    with expected:
        check_volume_size("create volume 'x'", size)
