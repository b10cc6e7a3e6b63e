"""The native extension is what its stub says, and its errors are ours."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import ovs_daemon
from ovs_daemon import _native
from ovs_daemon.engine import Engine, EngineClient
from ovs_daemon.errors import VStorageError

STUB = Path(ovs_daemon.__file__).with_name("_native.pyi")
UUID = "00000000-0000-4000-8000-000000000001"


def methods_of_the_stub() -> set[str]:
    tree = ast.parse(STUB.read_text())
    (engine,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Engine"
    )
    return {node.name for node in engine.body if isinstance(node, ast.FunctionDef)} - {"__init__"}


def test_the_stub_names_what_there_is() -> None:
    there = {name for name in vars(_native.Engine) if not name.startswith("_")}
    assert there == methods_of_the_stub()
    contract = {name for name in vars(Engine) if not name.startswith("_")}
    assert there == contract


def start(tmp_path: Path) -> EngineClient:
    config = {
        "buffer_dir": str(tmp_path / "buffer"),
        "backend_dir": str(tmp_path / "backend"),
        "run_dir": str(tmp_path / "r"),
        "shards": 1,
        "sco_size": 1 << 20,
        "buffer_size": 4 << 20,
        "reserve": 0,
        "checkpoint_scos": 16,
        "compaction_bytes_per_s": 1 << 20,
        "socket_owner": None,
        "socket_mode": 0o600,
        "nbd_tcp": None,
        "edge_listen": None,
        "cluster_key_file": None,
    }
    return EngineClient(_native.Engine(json.dumps(config)), _native.EngineError)


def test_a_refusal_says_what_why_and_what_to_do() -> None:
    with pytest.raises(_native.EngineError) as caught:
        _native.Engine('{"shards": 1}')
    code, what, why, fix = caught.value.args
    assert code == code.upper()
    assert what.startswith("cannot ")
    assert why
    assert fix


def test_starts_answers_and_stops(tmp_path: Path) -> None:
    engine = start(tmp_path)
    assert engine.status()["volumes"] == []
    with pytest.raises(VStorageError) as caught:
        engine.close_volume(UUID)
    assert caught.value.code == "not_open"
    assert not caught.value.what.startswith("cannot")
    engine.delete_volume(UUID)
    engine.shutdown(drain=True)
