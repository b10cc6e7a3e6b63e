"""Objects from folders of OSDs, where disks came back with copies and puts were cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyeclib.ec_iface import ECDriver

from ovs_daemon.recover import recover, scan, search

DATA, PARITY, ACKNOWLEDGE = 2, 2, 3
HEADER = 4096 - 80


def encode(content: bytes) -> list[bytes]:
    driver: Any = ECDriver(k=DATA, m=PARITY, ec_type="isa_l_rs_cauchy", chksum_type="inline_crc32")
    fragments: list[bytes] = driver.encode(content)
    return fragments


def store(
    osd: Path, generation: int, number: int, fragment: bytes, object_: str = "log/sco/1"
) -> None:
    code = f"{DATA:02x}{PARITY:02x}{ACKNOWLEDGE:02x}0100"
    name = f"{generation:016x}.00000001.{code}.00000000.{number:02x}"
    folder = osd / f"{object_}.obj"
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


def test_what_any_osd_has_marked_as_deleted_is_deleted_on_all(tmp_path: Path) -> None:
    """An OSD that was away has all of the put still; another one was told that it was deleted."""
    old, new = b"old" * 3000, b"new" * 3000
    away, told = tmp_path / "away", tmp_path / "told"
    for number, fragment in enumerate(encode(old)):
        store(away, 7, number, fragment)
    assert recovered(away, told) == old
    folder = told / "log" / "sco" / "1.obj"
    folder.mkdir(parents=True)
    (folder / "0000000000000007.deleted").write_text("deleted\n")
    found = search([away, told])
    assert (list(found.standing), list(found.deleted)) == ([], ["log/sco/1"])
    assert b"".join(recover("log/sco/1", found.deleted["log/sco/1"])) == old
    # A later put of the same name is no concern of the mark.
    for number, fragment in enumerate(encode(new)[:DATA]):
        store(told, 8, number, fragment)
    assert recovered(away, told) == new
    assert search([told, away]).names == ["log/sco/1"]


def test_the_mark_of_a_log_is_about_all_of_it_and_about_no_other(tmp_path: Path) -> None:
    content = b"content" * 3000
    away, told = tmp_path / "away", tmp_path / "told"
    for name in ("log/sco/1", "log/ckpt/1", "logs/sco/1"):
        for number, fragment in enumerate(encode(content)):
            store(away, 7, number, fragment, name)
    (told / "log").mkdir(parents=True)
    (told / "log" / "log.deleted").write_text("deleted\n")
    found = search([away, told])
    assert list(found.standing) == ["logs/sco/1"]
    assert list(found.deleted) == ["log/ckpt/1", "log/sco/1"]
