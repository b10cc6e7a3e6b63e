"""Fragments that Rust wrote, decoded by pyeclib: liberasurecode as others build and ship it."""

from __future__ import annotations

import itertools
import json
import random
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from pyeclib.ec_iface import ECDriver

import ovs_daemon
from tests.support.process import find_program

PAGE = 4096
ERASURE_AT = 4016
ERASURE_BYTES = 80
# More patterns of losses than these are drawn from all; Rust's own test decodes every one.
PATTERNS_MAX = 60


class Layout:
    """k data and m parity fragments over Domains with local parity in each."""

    def __init__(self, k: int, m: int, domains: int, local: int) -> None:
        self.k, self.m, self.domains, self.local = k, m, domains, local

    def members(self, group: int) -> list[int]:
        return list(range(group, self.k + self.m, self.domains))

    def locals(self, group: int) -> list[int]:
        first = self.k + self.m + group * self.local
        return list(range(first, first + self.local))

    def __repr__(self) -> str:
        return f"{self.k}+{self.m}x{self.domains}l{self.local}"


NATIVE = Path(ovs_daemon.__file__).parent / "native"
PRESETS = json.loads((NATIVE / "alba/src/presets.json").read_text())
SHIPPED = {
    (policy["k"], policy["m"], policy["domains"], policy["local"])
    for preset in PRESETS
    for policy in preset["policies"]
}
LAYOUTS = [Layout(*numbers) for numbers in sorted(SHIPPED)]
SMALL = Layout(4, 2, 3, 1)


def encode(layout: Layout, data: bytes, folder: Path) -> dict[int, bytes]:
    """Have Rust write the one piece of ``data``; returns the fragments by number, as pyeclib
    takes them: a part of each file, unchanged."""
    source = folder / "object"
    source.write_bytes(data)
    stored = folder / "stored"
    command = [find_program("vstorage-offline"), "encode", f"{layout.k}+{layout.m}"]
    command += [str(source), str(stored), "--domains", str(layout.domains)]
    command += ["--local", str(layout.local), "--fragment-size", str(1 << 20)]
    subprocess.run(command, check=True, timeout=60)
    fragments = {}
    for path in stored.iterdir():
        contents = path.read_bytes()
        (payload,) = struct.unpack_from("<I", contents, ERASURE_AT + 4)
        end = ERASURE_AT + ERASURE_BYTES + payload
        assert len(contents) == end + payload // PAGE * 4
        fragments[int(path.suffix[1:])] = contents[ERASURE_AT:end]
    count = layout.k + layout.m + layout.domains * layout.local
    assert sorted(fragments) == list(range(count))
    return fragments


def driver(k: int, m: int) -> ECDriver:
    return ECDriver(k=k, m=m, ec_type="isa_l_rs_cauchy", chksum_type="inline_crc32")


def patterns(count: int, lost: int) -> list[tuple[int, ...]]:
    """Sets of ``lost`` of ``count`` fragments: all, or as many as are tried, always the same."""
    every = itertools.combinations(range(count), lost)
    head = list(itertools.islice(every, PATTERNS_MAX + 1))
    if len(head) <= PATTERNS_MAX:
        return head
    draw = random.Random(lost)
    return [tuple(sorted(draw.sample(range(count), lost))) for _ in range(PATTERNS_MAX)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
def test_pyeclib_decodes_the_object(layout: Layout, tmp_path: Path) -> None:
    data = random.Random(7).randbytes(layout.k * 3 * PAGE - 1234)
    fragments = encode(layout, data, tmp_path)
    decoder = driver(layout.k, layout.m)
    count = layout.k + layout.m
    for lost in range(layout.m + 1):
        for pattern in patterns(count, lost):
            left = [fragments[number] for number in range(count) if number not in pattern]
            assert decoder.decode(left, force_metadata_checks=True) == data, pattern
    with pytest.raises(Exception, match="fragments"):
        decoder.decode([fragments[number] for number in range(layout.k - 1)])


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
def test_rust_writes_what_pyeclib_writes(layout: Layout, tmp_path: Path) -> None:
    """Byte for byte, but for the library's version and so nothing else in the header."""
    data = random.Random(8).randbytes(layout.k * 2 * PAGE)
    fragments = encode(layout, data, tmp_path)
    for number, theirs in enumerate(driver(layout.k, layout.m).encode(data)):
        ours = fragments[number]
        assert ours[:63] + ours[67:] == theirs[:63] + theirs[67:], number


def as_member(fragment: bytes, index: int, members: int) -> bytes:
    """A data fragment of its group's own code: the same payload, another header."""
    (payload,) = struct.unpack_from("<I", fragment, 4)
    header = bytearray(fragment[:ERASURE_BYTES])
    struct.pack_into("<I", header, 0, index)
    struct.pack_into("<Q", header, 12, payload * members)
    struct.pack_into("<I", header, 67, zlib.crc32(header[:59]))
    return bytes(header) + fragment[ERASURE_BYTES:]


@pytest.mark.parametrize("layout", [one for one in LAYOUTS if one.local], ids=repr)
def test_pyeclib_decodes_a_group_by_itself(layout: Layout, tmp_path: Path) -> None:
    data = random.Random(9).randbytes(layout.k * PAGE)
    fragments = encode(layout, data, tmp_path)
    for group in range(layout.domains):
        members = layout.members(group)
        whole = b"".join(fragments[number][ERASURE_BYTES:] for number in members)
        everything = [
            as_member(fragments[number], index, len(members))
            for index, number in enumerate(members)
        ] + [fragments[number] for number in layout.locals(group)]
        decoder = driver(len(members), layout.local)
        for pattern in patterns(len(everything), layout.local):
            left = [one for index, one in enumerate(everything) if index not in pattern]
            assert decoder.decode(left, force_metadata_checks=True) == whole, pattern


def test_a_flipped_byte_is_noticed_by_pyeclib(tmp_path: Path) -> None:
    fragments = encode(SMALL, b"x" * 30_000, tmp_path)
    damaged = bytearray(fragments[1])
    damaged[ERASURE_BYTES + 5] ^= 1
    judge = driver(4, 2)
    assert "'chksum_mismatch': 1" in str(judge.get_metadata(bytes(damaged), formatted=True))
    assert "'chksum_mismatch': 0" in str(judge.get_metadata(fragments[1], formatted=True))


def test_rust_decodes_what_is_left(tmp_path: Path) -> None:
    data = random.Random(10).randbytes(500_000)
    encode(SMALL, data, tmp_path)
    for number in (0, 3, 6, 7, 2):
        (tmp_path / "stored" / f"00000000.{number:02}").unlink()
    command = [find_program("vstorage-offline"), "decode"]
    command += [str(tmp_path / "stored"), str(tmp_path / "back")]
    subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "back").read_bytes() == data
