"""`vstorage alba list` and `recover` on folders, where some objects were deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyeclib.ec_iface import ECDriver

from tests.support.command_line import Run, answer

KEPT, DELETED, PUT_AGAIN = "log/sco/kept", "log/sco/gone", "log/sco/again"
OLD, NEW = b"old" * 3000, b"new" * 3000


def store(osd: Path, name: str, generation: int, content: bytes) -> Path:
    """All four fragments of a put, in one folder."""
    folder = osd / f"{name}.obj"
    folder.mkdir(parents=True, exist_ok=True)
    driver = ECDriver(k=2, m=2, ec_type="isa_l_rs_cauchy", chksum_type="inline_crc32")
    for number, fragment in enumerate(driver.encode(content)):
        file = f"{generation:016x}.00000001.0202030100.00000000.{number:02x}"
        (folder / file).write_bytes(bytes(4096 - 80) + fragment)
    return folder


@pytest.fixture
def osd(tmp_path: Path) -> Path:
    """A folder with an object that stands, one that was deleted, and one that came again."""
    folder = tmp_path / "osd"
    store(folder, KEPT, 7, OLD)
    for name in (DELETED, PUT_AGAIN):
        (store(folder, name, 7, OLD) / "0000000000000007.deleted").write_text("deleted\n")
    store(folder, PUT_AGAIN, 8, NEW)
    return folder


def test_the_list_tells_deleted_puts_from_others(run: Run, osd: Path) -> None:
    rows = answer(run, "alba", "list", "--osd", str(osd))
    assert {row["name"]: (row["puts"], row["fragments"], row["deleted_puts"]) for row in rows} == {
        KEPT: (1, 4, 0),
        DELETED: (0, 0, 1),
        PUT_AGAIN: (1, 4, 1),
    }


def test_deleted_objects_are_left_out_and_that_is_said(run: Run, osd: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    status, out, err = run("alba", "recover", str(output), "--osd", str(osd))
    assert (status, err) == (0, "")
    assert "recovered 2 objects" in out
    assert f"deleted: {DELETED}" in out
    assert "--with-deleted" in out
    assert (output / KEPT).read_bytes() == OLD
    assert (output / PUT_AGAIN).read_bytes() == NEW
    assert not (output / DELETED).exists()


def test_they_are_brought_back_when_asked_for_and_that_is_said(
    run: Run, osd: Path, tmp_path: Path
) -> None:
    words = ("alba", "recover", str(tmp_path / "out"), "--osd", str(osd), "--with-deleted")
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    assert f"was deleted, brought back: {DELETED}" in out
    assert (tmp_path / "out" / DELETED).read_bytes() == OLD
    assert (tmp_path / "out" / PUT_AGAIN).read_bytes() == NEW, "what stands comes first"


def test_of_a_put_that_is_lost_the_deleted_one_before_it_is_brought_back_when_asked_for(
    run: Run, osd: Path, tmp_path: Path
) -> None:
    for path in (osd / f"{PUT_AGAIN}.obj").glob("0000000000000008.*.0[123]"):
        path.unlink()
    words = ("alba", "recover", str(tmp_path / "out"), "--osd", str(osd))
    lost = answer(run, *words)["lost"]
    assert "--with-deleted" in lost[PUT_AGAIN]
    again = answer(run, *words, "--with-deleted", "--object", PUT_AGAIN)
    assert again["brought_back"] == [PUT_AGAIN]
    assert (tmp_path / "out" / PUT_AGAIN).read_bytes() == OLD


def test_who_asks_for_a_deleted_object_alone_hears_why_not(
    run: Run, osd: Path, tmp_path: Path
) -> None:
    words = ("alba", "recover", str(tmp_path / "out"), "--osd", str(osd), "--object", DELETED)
    status, _, err = run(*words)
    assert status == 1
    assert "it was deleted" in err
    assert "--with-deleted" in err
    assert answer(run, *words, "--with-deleted")["brought_back"] == [DELETED]
