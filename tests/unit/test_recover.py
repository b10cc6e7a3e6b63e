"""Objects from folders of OSDs, where disks came back with copies and puts were cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyeclib.ec_iface import ECDriver

from ovs_daemon.recover import recover, scan

DATA, PARITY, ACKNOWLEDGE = 2, 2, 3
HEADER = 4096 - 80


def encode(content: bytes) -> list[bytes]:
    driver: Any = ECDriver(k=DATA, m=PARITY, ec_type="isa_l_rs_cauchy", chksum_type="inline_crc32")
    fragments: list[bytes] = driver.encode(content)
    return fragments


def store(osd: Path, generation: int, number: int, fragment: bytes) -> None:
    code = f"{DATA:02x}{PARITY:02x}{ACKNOWLEDGE:02x}0100"
    name = f"{generation:016x}.00000001.{code}.00000000.{number:02x}"
    folder = osd / "log" / "sco" / "1.obj"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(bytes(HEADER) + fragment)


def recovered(*osds: Path) -> bytes:
    return b"".join(recover("log/sco/1", scan(osds)["log/sco/1"]))


@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_damaged_copy_does_not_hide_a_sound_one(tmp_path: Path, spoilt: int) -> None:
    content = b"first" * 3000
    fragments = encode(content)
    osds = [tmp_path / str(number) for number in range(3)]
    store(osds[2], 7, 1, fragments[1])
    for number, osd in enumerate(osds[:2]):
        bad = fragments[0][:-1] + bytes([fragments[0][-1] ^ 1])
        store(osd, 7, 0, bad if number == spoilt else fragments[0])
    assert recovered(*osds) == content


def test_a_later_put_that_was_cut_off_does_not_come_before_one_that_was_not(
    tmp_path: Path,
) -> None:
    whole, later = b"whole" * 3000, b"later" * 3000
    for number, fragment in enumerate(encode(whole)):
        store(tmp_path, 7, number, fragment)
    for number, fragment in enumerate(encode(later)[:DATA]):
        store(tmp_path, 8, number, fragment)
    assert recovered(tmp_path) == whole
    for path in tmp_path.rglob("0000000000000007.*.0[23]"):
        path.unlink()
    assert recovered(tmp_path) == later
