"""Rules of the house that no linter knows.

They read the files that git tracks, so that what is built or installed here does not count.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE = "ovs_daemon/native"

LINES_MAX = 800
# Formatters keep code within 100; this is for what they leave alone: comments and strings.
COLUMNS_MAX = 108
CODE = (".py", ".pyi", ".rs", ".sh")
# Written by programs.
GENERATED = ("Cargo.lock", "constraints.txt", "vstorage.conf.sample")
PURE_CRATES = ("format", "machines")
UNSAFE_CRATES = ("isal", "media", "net", "py")

# Put together here, so that this file does not break its own rules.
MACHINE_PATHS = re.compile(
    "|".join(rf"/{name}/" for name in ("work", "root", "home/[a-z]", "farm"))
)
PROMISES = re.compile(
    "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", r"to" + r"do!\(")) + r"|unimplem" + r"ented!\("
)
UNSAFE = re.compile(r"(?<![\w(])unsafe(?=\s+(?:\{|fn|impl|extern|trait))")


@cache
def tracked() -> tuple[str, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return tuple(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


def text_of(name: str) -> str:
    return (ROOT / name).read_bytes().decode(errors="replace")


def code() -> list[str]:
    return [name for name in tracked() if name.endswith(CODE)]


def test_there_is_something_to_check() -> None:
    assert len(code()) > 100


def test_no_file_is_too_long() -> None:
    long = {name: text_of(name).count("\n") for name in code()}
    assert {name: lines for name, lines in long.items() if lines > LINES_MAX} == {}


def test_no_line_is_too_wide() -> None:
    wide = [
        f"{name}:{number}"
        for name in code()
        for number, line in enumerate(text_of(name).split("\n"), 1)
        if len(line) > COLUMNS_MAX and "http" not in line
    ]
    assert wide == []


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, PROMISES], ids=["machine paths", "promises"])
def test_nothing_of_that_kind(pattern: re.Pattern[str]) -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in tracked()
        if not name.endswith(GENERATED)
        for number, line in enumerate(text_of(name).split("\n"), 1)
        if pattern.search(line)
    ]
    assert found == []


def crate_files(crate: str) -> list[str]:
    return [name for name in code() if name.startswith(f"{NATIVE}/{crate}/")]


@pytest.mark.parametrize("crate", PURE_CRATES)
def test_pure_crates_say_so(crate: str) -> None:
    """The compiler proves the rest: without std there is no clock, file, socket or thread."""
    root = text_of(f"{NATIVE}/{crate}/src/lib.rs")
    assert re.search(r"^#!\[no_std\]", root, re.MULTILINE)
    assert re.search(r"^#!\[forbid\(unsafe_code\)\]", root, re.MULTILINE)
    sources = [name for name in crate_files(crate) if "/src/" in name and not is_test(name)]
    assert sources
    assert [name for name in sources if "extern crate std" in strip_tests(name)] == []


def is_test(name: str) -> bool:
    """A file, or in a folder, that is compiled for tests only."""
    return re.search(r"(/|_)tests(/|\.rs$)", name) is not None


def strip_tests(name: str) -> str:
    """The file without its test module, which by custom is its end."""
    return text_of(name).split("#[cfg(test)]")[0]


def test_unsafe_stays_where_it_may_be() -> None:
    allowed = tuple(f"{NATIVE}/{crate}/" for crate in UNSAFE_CRATES)
    found = [
        f"{name}:{number}"
        for name in code()
        if name.endswith(".rs") and not name.startswith(allowed)
        for number, line in enumerate(text_of(name).split("\n"), 1)
        if UNSAFE.search(line.split("//")[0]) or "allow(unsafe_code" in line
    ]
    assert found == []


def test_unsafe_is_explained() -> None:
    """Every unsafe block has a SAFETY comment in the lines above it."""
    missing = []
    for name in code():
        if not name.endswith(".rs"):
            continue
        lines = text_of(name).split("\n")
        for number, line in enumerate(lines):
            if re.search(r"(?<![\w(])unsafe(?=\s+(?:\{|impl))", line.split("//")[0]):
                above = "\n".join(lines[max(0, number - 12) : number + 1])
                if "SAFETY" not in above and "# Safety" not in above:
                    missing.append(f"{name}:{number + 1}")
    assert missing == []


def test_only_the_daemon_loads_the_engine() -> None:
    """import-linter does not see extensions."""
    loaders = [name for name in tracked() if re.match(r"ovs_\w+/.*\.py$", name)]
    found = [name for name in loaders if re.search(r"import.*_native", text_of(name))]
    assert found == ["ovs_daemon/daemon.py"]


def test_scripts_may_be_run() -> None:
    scripts = [name for name in tracked() if name.endswith(".sh") or name == ".ci/run"]
    assert len(scripts) > 1
    for name in scripts:
        assert (ROOT / name).stat().st_mode & 0o111, f"{name} is not executable"


def test_every_crate_follows_the_workspace_lints() -> None:
    manifests = [name for name in tracked() if re.fullmatch(rf"{NATIVE}/[a-z]+/Cargo\.toml", name)]
    assert len(manifests) >= 12
    for name in manifests:
        if "/fuzz/" not in name:
            assert "[lints]\nworkspace = true" in text_of(name), name
