"""Keys: the file's rules, and castellan's key managers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from castellan import key_manager
from castellan.common.objects.symmetric_key import SymmetricKey
from castellan.tests.unit.key_manager.mock_key_manager import MockKeyManager

from ovs_daemon import options
from ovs_daemon.errors import VStorageError
from ovs_daemon.keys import load_keys, read_key_file

ONE, TWO = "a" * 64, "B" * 64


def conf_of(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "vstorage.conf"
    file.write_text(text)
    return options.load(["--config-file", str(file)])


def key_file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_file_has_the_key_for_new_objects_first(tmp_path: Path) -> None:
    path = key_file(tmp_path, f"# since May\n2026-05 {TWO}\n\n  2025-01\t{ONE}\n")
    assert list(read_key_file(path).items()) == [("2026-05", TWO.lower()), ("2025-01", ONE)]
    conf = conf_of(tmp_path, f"[alba]\nkey_file = {path}\n")
    assert load_keys(conf) == [
        {"name": "2026-05", "key": TWO.lower()},
        {"name": "2025-01", "key": ONE},
    ]
    assert load_keys(conf_of(tmp_path, "")) == []


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (f"k {ONE}\n", 0o640, "others may use it (mode 0640); chmod 600"),
        (f"k {ONE}\n", 0o604, "others may use it"),
        ("", 0o600, "it has no key"),
        (f"k {ONE[1:]}\n", 0o600, "line 1 is not NAME and 64 hexadecimal digits"),
        (f"k {ONE}\nk {TWO}\n", 0o600, "line 2 has 'k' again"),
        (f"{'k' * 129} {ONE}\n", 0o600, "line 1 is not NAME"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, mode: int, why: str) -> None:
    with pytest.raises(VStorageError) as caught:
        read_key_file(key_file(tmp_path, text, mode))
    assert why in str(caught.value)
    assert ONE not in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(VStorageError, match=r"cannot use the key file .*/nowhere"):
        read_key_file(tmp_path / "nowhere")


def test_castellan_fetches_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # castellan has no types for what it has for tests.
    make: Any = MockKeyManager
    manager, context = make(), object()
    old = manager.store(context, SymmetricKey("AES", 256, bytes.fromhex(ONE)))
    new = manager.store(context, SymmetricKey("AES", 256, bytes.fromhex(TWO)))
    short = manager.store(context, SymmetricKey("AES", 128, bytes(16)))
    monkeypatch.setattr(key_manager, "API", lambda conf: manager)
    login = "[key_manager]\nauth_type = token\ntoken = t\n"

    def load(*names: str) -> list[dict[str, str]]:
        text = f"[alba]\nencryption_keys = {','.join(names)}\n{login}"
        return load_keys(conf_of(tmp_path, text))

    assert load(new, old) == [{"name": new, "key": TWO.lower()}, {"name": old, "key": ONE}]
    with pytest.raises(VStorageError, match=f"cannot fetch the key '{short}': it is no symmetric"):
        load(new, short)
    with pytest.raises(VStorageError, match=r"cannot fetch the key 'missing': .*Error"):
        load("missing")


def test_a_key_manager_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    text = "[alba]\nencryption_keys = one\n[key_manager]\nauth_type = none of them\n"
    with pytest.raises(VStorageError, match=r"correct \[key_manager\]"):
        load_keys(conf_of(tmp_path, text))


def test_one_place_for_keys(tmp_path: Path) -> None:
    text = "[alba]\nencryption_keys = one\nkey_file = /k\n"
    with pytest.raises(VStorageError, match="there can be only one of them"):
        load_keys(conf_of(tmp_path, text))
