"""Configuration: defaults, derived values, refusals, and the sample that explains it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg

from ovs_daemon import options
from ovs_daemon.backend import identity_of_folder
from ovs_daemon.errors import VStorageError

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "etc" / "ovs" / "vstorage.conf.sample"


def load(tmp_path: Path, text: str = "") -> cfg.ConfigOpts:
    file = tmp_path / "vstorage.conf"
    file.write_text(text)
    return options.load(["--config-file", str(file)])


def test_defaults(tmp_path: Path) -> None:
    conf = load(tmp_path)
    engine = options.engine_config(conf)
    assert engine == {
        "buffer_dir": "/var/lib/vstorage/buffer",
        "alba": {
            "osds": [
                {
                    "domain": f"domain{domain}",
                    "node": f"node{node}",
                    "path": f"/var/lib/vstorage/alba/domain{domain}/node{node}",
                }
                for domain in (1, 2, 3)
                for node in (1, 2, 3)
            ],
            "preset": "default",
            "reserve": 1 << 30,
        },
        "run_dir": "/run/vstorage",
        "shards": len(os.sched_getaffinity(0)),
        "sco_size": 64 << 20,
        "buffer_size": 4 << 30,
        "reserve": 1 << 30,
        "checkpoint_scos": 16,
        "compaction_bytes_per_s": 64 << 20,
        "socket_owner": None,
        "socket_mode": 0o660,
        "nbd_tcp": None,
        "edge_listen": None,
        "cluster_key_file": "/var/lib/vstorage/cluster.key",
    }
    assert conf.registry.url == "sqlite:////var/lib/vstorage/registry.sqlite"


def test_the_erasure_coded_backend(tmp_path: Path) -> None:
    conf = load(tmp_path, "[alba]\nosd = dc1/n1=/a\nosd = dc2/n1=/b\nreserve = 5G\n")
    engine = options.engine_config(conf)
    assert "backend_dir" not in engine
    assert engine["alba"] == {
        "osds": [
            {"domain": "dc1", "node": "n1", "path": "/a"},
            {"domain": "dc2", "node": "n1", "path": "/b"},
        ],
        "preset": "default",
        "reserve": 5 << 30,
    }
    conf = load(tmp_path, "[DEFAULT]\nstate_dir = /s\n[alba]\nembedded = true\n")
    osds = options.engine_config(conf)["alba"]["osds"]
    assert len(osds) == 9
    assert osds[5] == {"domain": "domain2", "node": "node3", "path": "/s/alba/domain2/node3"}
    for text in ("osd = /a", "osd = dc1=/a", "embedded = true\nosd = dc1/n1=/a"):
        with pytest.raises(VStorageError, match=r"\[alba\]"):
            options.engine_config(load(tmp_path, f"[alba]\n{text}\n"))


def test_objects_are_erasure_coded_unless_a_folder_is_named(tmp_path: Path) -> None:
    said = f"[DEFAULT]\nstate_dir = {tmp_path}\n"
    assert len(options.engine_config(load(tmp_path, said))["alba"]["osds"]) == 9
    folder = options.engine_config(load(tmp_path, said + "[engine]\nbackend_dir = /b\n"))
    assert (folder["backend_dir"], folder.get("alba")) == ("/b", None)
    for choice in ("embedded = true", "shared = true", "osd = dc1/n1=/a"):
        text = f"{said}[engine]\nbackend_dir = /b\n[alba]\n{choice}\n"
        assert "backend_dir" not in options.engine_config(load(tmp_path, text))


def test_a_node_that_kept_whole_objects_where_nothing_was_said_goes_on(tmp_path: Path) -> None:
    before = tmp_path / "backend"
    said = f"[DEFAULT]\nstate_dir = {tmp_path}\n"
    before.mkdir()
    assert "alba" in options.engine_config(load(tmp_path, said))
    identity_of_folder(before)
    assert options.engine_config(load(tmp_path, said))["backend_dir"] == str(before)
    chosen = options.engine_config(load(tmp_path, f"{said}[alba]\nembedded = true\n"))
    assert "backend_dir" not in chosen


def test_values(tmp_path: Path) -> None:
    conf = load(
        tmp_path,
        "[DEFAULT]\nstate_dir = /s\nrun_dir = /r\n"
        "[engine]\nshards = 3\nsco_size = 1MiB\nbuffer_size = 4194304\nbuffer_dir = /b\n"
        "[nbd]\nsocket_owner = root:0\nsocket_mode = 0600\ntcp = 127.0.0.1:10809\n",
    )
    engine = options.engine_config(conf)
    assert (engine["shards"], engine["sco_size"], engine["buffer_size"]) == (3, 1 << 20, 4 << 20)
    assert engine["buffer_dir"] == "/b"
    assert engine["alba"]["osds"][0]["path"] == "/s/alba/domain1/node1"
    assert (engine["socket_owner"], engine["socket_mode"]) == ("0:0", 0o600)
    assert engine["nbd_tcp"] == "127.0.0.1:10809"


def test_a_node_that_keeps_logs(tmp_path: Path) -> None:
    conf = load(tmp_path, "[DEFAULT]\nstate_dir = /s\n[dtl]\nlisten = 192.0.2.1:6630\n")
    engine = options.engine_config(conf, "the cluster")
    assert (engine["dtl_listen"], engine["dtl_dir"]) == ("192.0.2.1:6630", "/s/dtl")
    assert engine["cluster"] == "the cluster"
    assert not options.domain_configured(conf)
    assert options.domain_configured(load(tmp_path, "[DEFAULT]\ndomain = default\n"))


@pytest.mark.parametrize(
    "text",
    [
        "[engine]\nsco_size = 3MiB\n",
        "[engine]\nsco_size = 512KiB\n",
        "[engine]\nsco_size = 512MiB\n",
        "[engine]\nsco_size = big\n",
        "[engine]\nbuffer_size = 128MiB\n",
        "[engine]\nshards = -1\n",
        "[nbd]\nsocket_owner = nobody-at-all:root\n",
        "[nbd]\nsocket_owner = root\n",
        "[nbd]\nsocket_mode = rw\n",
        "[DEFAULT]\nrun_dir = /" + "x" * 100 + "\n",
        "this is no configuration\n",
    ],
)
def test_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises((VStorageError, cfg.Error, ValueError)) as caught:
        options.engine_config(load(tmp_path, text))
    assert str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VStorageError, match=r"nothing\.conf"):
        options.load(["--config-file", str(tmp_path / "nothing.conf")])


@pytest.mark.parametrize(
    ("sample", "namespaces"),
    [
        ("vstorage.conf.sample", ["ovs_daemon", "oslo.log"]),
        ("cinder.conf.sample", ["ovs_cinder", "ovs_nova"]),
    ],
)
def test_the_samples_are_up_to_date(tmp_path: Path, sample: str, namespaces: list[str]) -> None:
    """`make fix` writes them."""
    made = tmp_path / "sample"
    generator = Path(sys.executable).with_name("oslo-config-generator")
    chosen = [word for name in namespaces for word in ("--namespace", name)]
    subprocess.run([generator, *chosen, "--wrap-width", "96", "--output-file", made], check=True)
    assert made.read_text() == SAMPLE.with_name(sample).read_text()


def test_the_sample_changes_nothing(tmp_path: Path) -> None:
    conf = options.load(["--config-file", str(SAMPLE)])
    assert options.engine_config(conf) == options.engine_config(load(tmp_path))
