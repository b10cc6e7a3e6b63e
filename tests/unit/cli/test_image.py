"""Importing and exporting with a stand-in for qemu-img that records how it is called."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovs_daemon.cli.app import main
from tests.support.api_server import serving
from tests.support.house import House

GIB = 1 << 30
QEMU_IMG = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$1" in
info) echo '{"virtual-size": '"$VIRTUAL_SIZE"', "format": "qcow2"}' ;;
convert)
    [ -z "$FAIL" ] || { echo "qemu-img: no space left" >&2; exit 1; }
    printf '    (0.00/100%%)\\r    (50.00/100%%)\\r    (100.00/100%%)\\n'
    for target; do :; done
    case "$target" in nbd*) ;; *) echo data > "$target" ;; esac ;;
esac
"""

Calls = Callable[[], list[str]]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "qemu-img").write_text(QEMU_IMG)
    (programs / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("VIRTUAL_SIZE", str(GIB))
    monkeypatch.setenv("FAIL", "")
    made = House()
    with serving(made) as run_dir:
        monkeypatch.setenv("VSTORAGE_RUN_DIR", str(run_dir))
        assert main(["volume", "create", "web1", "1GiB"]) == 0
        yield made
    made.check()
    assert all(one.attachments == () for one in made.host.store.volumes())


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return lambda: (tmp_path / "calls").read_text().splitlines()


def test_import(house: House, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["--json", "volume", "import", "web1", "image.qcow2"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out == {"volume": "web1", "file": "image.qcow2", "bytes": GIB}
    volume = house.host.require("", "web1")
    uri = f"nbd+unix:///?socket=/run/vstorage/direct/{volume.uuid}.sock"
    image = Path("image.qcow2").absolute()
    assert calls() == [
        f"info --output=json {image}",
        f"convert -p -n -O raw -f qcow2 {image} {uri}",
    ]


def test_progress_and_sentence(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["volume", "import", "web1", "image.qcow2"]) == 0
    captured = capsys.readouterr()
    assert "1 GiB imported from image.qcow2 into volume web1" in captured.out
    assert "100%" in captured.err


def test_a_given_format_is_not_guessed(house: House, calls: Calls) -> None:
    assert main(["volume", "import", "web1", "image", "--format", "raw"]) == 0
    assert calls()[0].startswith("info --output=json -f raw ")


def test_an_image_that_does_not_fit(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIRTUAL_SIZE", str(GIB + 1))
    assert main(["--json", "volume", "import", "web1", "image.qcow2"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "bad_size"


def test_a_failed_import_detaches(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAIL", "1")
    assert main(["--json", "volume", "import", "web1", "image.qcow2"]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "tool_failed"
    assert "no space left" in error["why"]


def test_export(house: House, calls: Calls, tmp_path: Path) -> None:
    target = tmp_path / "out.raw"
    assert main(["volume", "export", "web1", str(target)]) == 0
    assert target.read_text() == "data\n"
    assert calls()[0].startswith("convert -p -f raw -O raw nbd+unix:///?socket=")
    assert list(tmp_path.glob("*.part")) == []


def test_a_failed_export_keeps_the_file_that_was_there(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.raw"
    target.write_text("good")
    monkeypatch.setenv("FAIL", "1")
    assert main(["volume", "export", "web1", str(target)]) == 1
    assert target.read_text() == "good"
    assert list(tmp_path.glob("*.part")) == []


def test_a_template_is_exported_read_only(house: House, tmp_path: Path) -> None:
    assert main(["volume", "set", "--template", "web1"]) == 0
    assert main(["volume", "export", "web1", str(tmp_path / "out.raw")]) == 0


def test_an_attached_volume_is_refused(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["volume", "attach", "web1"]) == 0
    capsys.readouterr()
    assert main(["--json", "volume", "import", "web1", "image.qcow2"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "in_use"
    assert main(["volume", "detach", "web1"]) == 0


def test_without_qemu_img(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    capsys.readouterr()
    assert main(["--json", "volume", "export", "web1", str(tmp_path / "out.raw")]) == 1
    assert "qemu-utils" in json.loads(capsys.readouterr().err)["error"]["fix"]
