"""The daemon's process with the engine's twin inside: start, signals, being alone, refusals."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ovs_daemon.client import Client

# The twin tells in a file what became of it.
PROGRAM = """
import json, sys
from ovs_daemon import daemon
from ovs_daemon.engine import EngineClient
from tests.support.fake_engine import FakeEngine, FakeEngineError

class Engine(FakeEngine):
    def shutdown(self, drain):
        super().shutdown(drain)
        with open(sys.argv[1], "w") as file:
            json.dump({"drained": drain}, file)

def start_engine(conf, cluster):
    return EngineClient(Engine(run_dir=conf.run_dir), FakeEngineError)

daemon.start_engine = start_engine
sys.exit(daemon.main(sys.argv[2:]))
"""
ROOT = Path(__file__).resolve().parents[2]
STARTED_S_MAX = 60


class Daemon:
    """One daemon process whose sd_notify messages can be awaited."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.config = folder / "vstorage.conf"
        lines = ["[DEFAULT]", f"state_dir = {folder}/state", f"run_dir = {folder}/run", *options]
        self.config.write_text("\n".join(lines) + "\n")
        self.messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify = folder / f"notify{len(list(folder.iterdir()))}"
        self.messages.bind(str(notify))
        self.messages.settimeout(STARTED_S_MAX)
        self.log = (folder / "log").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, folder / "engine", "--config-file", self.config],
            env={**os.environ, "NOTIFY_SOCKET": str(notify), "PYTHONPATH": str(ROOT)},
            stderr=self.log,
        )

    def said(self) -> str:
        """The next message."""
        return self.messages.recv(100).decode()

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(by)
        return self.process.wait(STARTED_S_MAX)

    def logged(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.messages.close()
        self.log.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="ovs-") as name:
        yield Path(name)


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    started = Daemon(folder)
    yield started
    started.close()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_stopping_drains(daemon: Daemon, by: signal.Signals) -> None:
    assert daemon.said() == "READY=1"
    client = Client(daemon.folder / "run" / "control.sock")
    client.create_volume("web1", 1 << 30)
    client.close()
    assert daemon.stop(by) == 0
    assert daemon.said() == "STOPPING=1"
    assert json.loads((daemon.folder / "engine").read_text()) == {"drained": True}
    assert not (daemon.folder / "run" / "control.sock").exists()


def test_hangup_reads_the_configuration_again(daemon: Daemon) -> None:
    assert daemon.said() == "READY=1"
    text = daemon.config.read_text()
    daemon.config.write_text(text + "debug = true\n[edge]\ncheck_interval = 0.5\n")
    daemon.process.send_signal(signal.SIGHUP)
    assert [daemon.said(), daemon.said()] == ["RELOADING=1", "READY=1"]
    assert "check_interval" in daemon.logged()
    daemon.config.write_text("[edge]\ncheck_interval = soon\n")
    daemon.process.send_signal(signal.SIGHUP)
    assert [daemon.said(), daemon.said()] == ["RELOADING=1", "READY=1"]
    assert "the configuration stays as it was" in daemon.logged()
    assert daemon.stop() == 0


def test_all_files_that_may_be_open_are_asked_for(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard // 2), hard))
    try:
        daemon = Daemon(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert daemon.said() == "READY=1"
    assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert daemon.stop() == 0
    daemon.close()


def test_a_killed_daemon_leaves_nothing_in_the_way(daemon: Daemon) -> None:
    assert daemon.said() == "READY=1"
    daemon.stop(signal.SIGKILL)
    assert (daemon.folder / "run" / "control.sock").exists()
    second = Daemon(daemon.folder)
    assert second.said() == "READY=1"
    assert second.stop() == 0
    second.close()


def test_only_one_daemon_on_one_state(daemon: Daemon) -> None:
    assert daemon.said() == "READY=1"
    second = Daemon(daemon.folder)
    assert second.process.wait(STARTED_S_MAX) == 1
    assert "another vstorage-daemon uses it" in second.logged()
    second.close()
    Client(daemon.folder / "run" / "control.sock").status()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("[registry]\nurl = etcetera://x", "no driver is named 'etcetera'"),
        ("[nbd]\nsocket_owner = nobody-at-all:root", "nobody-at-all"),
        ("run_dir = /proc/vstorage", "make the daemon's folders"),
        ("run_dir = /" + "x" * 100, "longer than"),
    ],
)
def test_a_wrong_configuration_is_explained(folder: Path, option: str, words: str) -> None:
    wrong = Daemon(folder, option)
    assert wrong.process.wait(STARTED_S_MAX) == 1
    assert words in wrong.logged()
    wrong.close()
