"""The wheel holds everything and works where nothing else is."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = (
    "ovs_cinder/__init__.py",
    "ovs_daemon/_native*.so",
    "ovs_daemon/_native.pyi",
    "ovs_daemon/py.typed",
    "ovs_daemon/cli/app.py",
    "ovs_daemon/control/api.py",
    "ovs_daemon/registry/sqlite.py",
    "ovs_nova/__init__.py",
    "*.data/scripts/vstorage-edge",
    "*.data/scripts/vstorage-offline",
    "*.data/scripts/vstorage-osd",
    "*.dist-info/entry_points.txt",
    "*.dist-info/*LICENSE",
)
UNWANTED = ("*.rs", "*/Cargo.*", "tests/*", "*.pyc", "bench/*")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as `make wheel` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation"]
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "ovs_daemon" / "native" / "target"))
    subprocess.run(
        [*command, "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        env={**os.environ, "CARGO_TARGET_DIR": target},
    )
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; what it depends on comes from this one."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    dependencies = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    (site,) = (folder / "lib").glob("python3*/site-packages")
    pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    # After the installed package, and without the .pth files that make the source tree visible.
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    return folder


def test_it_runs_on_every_python_from_3_11_on(wheel: Path) -> None:
    assert fnmatch(wheel.name, "open_vstorage-*-cp311-abi3-*.whl")


@pytest.mark.parametrize("pattern", EXPECTED)
def test_it_holds(names: list[str], pattern: str) -> None:
    assert any(fnmatch(name, pattern) for name in names), names


@pytest.mark.parametrize("pattern", UNWANTED)
def test_it_does_not_hold(names: list[str], pattern: str) -> None:
    assert not [name for name in names if fnmatch(name, pattern)]


def test_the_engine_loads_from_it(installed: Path) -> None:
    program = "from ovs_daemon import _native; print(_native.__file__, _native.__version__)"
    done = subprocess.run(
        [installed / "bin" / "python", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=installed,
    )
    file, version = done.stdout.split()
    assert Path(file).is_relative_to(installed)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert version == setup["metadata"]["version"]


@pytest.mark.parametrize("program", ["vstorage", "vstorage-daemon"])
def test_the_python_programs_run(installed: Path, program: str) -> None:
    subprocess.run(
        [installed / "bin" / program, "--help"], check=True, capture_output=True, cwd=installed
    )


@pytest.mark.parametrize("program", ["vstorage-edge", "vstorage-offline"])
def test_the_rust_programs_run(installed: Path, program: str) -> None:
    """Each says how it is used; what status that gives is its own business."""
    done = subprocess.run(
        [installed / "bin" / program, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1, 2)
    assert program in done.stdout + done.stderr
