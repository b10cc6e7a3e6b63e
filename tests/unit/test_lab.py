"""The parts of the OpenStack lab that must not touch anything but their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_daemon import _native
from tests.openstack.lab.configuration import TEMPLATES, Configuration
from tests.openstack.lab.layout import ZONES, Layout, Port
from tests.openstack.lab.processes import LabError, Processes, start_ticks


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes whose records lie in a folder of the test."""
    (tmp_path / "run").mkdir()
    (tmp_path / "log").mkdir()
    made = Processes(tmp_path / "run", tmp_path / "log")
    yield made
    made.stop(*made.names())


def test_a_process_is_known_to_who_did_not_start_it(processes: Processes, tmp_path: Path) -> None:
    record = processes.start("sleeper", ["sleep", "infinity"], os.environ)
    other = Processes(tmp_path / "run", tmp_path / "log")
    assert other.record("sleeper") == record
    other.stop("sleeper")
    assert start_ticks(record.pid) is None
    assert not processes.running("sleeper")
    assert processes.names() == []


def test_a_record_of_another_process_with_the_same_pid_ends_nobody(
    processes: Processes, tmp_path: Path
) -> None:
    bystander = subprocess.Popen(["sleep", "infinity"])
    try:
        record = processes.start("sleeper", ["sleep", "infinity"], os.environ)
        path = tmp_path / "run/sleeper.pid"
        began = start_ticks(bystander.pid)
        assert began is not None
        stale = {"pid": bystander.pid, "ticks": began - 1}
        path.write_text(json.dumps(json.loads(path.read_text()) | stale))
        assert not processes.running("sleeper")
        processes.stop("sleeper")
        processes.kill("sleeper")
        assert bystander.poll() is None
        os.kill(record.pid, signal.SIGKILL)
    finally:
        bystander.kill()
        bystander.wait()


def test_one_that_ignores_sigterm_is_killed(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tests.openstack.lab.processes.STOP_SECONDS_MAX", 1.0)
    ready = tmp_path / "ready"
    script = f"trap '' TERM; touch {ready}; while :; do sleep 1000; done"
    record = processes.start("stubborn", ["sh", "-c", script], os.environ)
    processes.wait_ready("stubborn", ready.exists)
    processes.stop("stubborn")
    assert start_ticks(record.pid) is None


def test_one_that_ends_at_once_is_reported_with_what_it_said(processes: Processes) -> None:
    processes.start("hasty", ["sh", "-c", "echo no such port >&2; exit 1"], os.environ)
    with pytest.raises(LabError, match="no such port"):
        processes.wait_ready("hasty", lambda: False)


def test_a_damaged_record_counts_as_none(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "run/odd.pid").write_text('{"pid": 1')
    assert not processes.running("odd")


def test_long_paths_get_a_short_run_directory(tmp_path: Path) -> None:
    near, far = Layout(Path("/lab")), Layout(tmp_path / ("deep" * 30))
    assert near.run == Path("/lab/run")
    for zone in ZONES:
        assert len(f"{far.node_run(zone.hypervisor)}/volumes/{'0' * 36}.sock") <= 107
    assert far.run != Layout(tmp_path / ("peed" * 30)).run


def test_ports_are_no_services_own() -> None:
    assert len(set(Port)) == len(Port)
    assert not {3306, 4369, 5000, 5672, 8774, 8776, 8778, 9292, 9696, 11211, 25672} & set(Port)


def test_no_two_servers_of_the_zones_have_one_port() -> None:
    zones = [
        [zone.libvirt_port, zone.dtl_port, zone.edge_port, *(disk.port for disk in zone.disks)]
        for zone in ZONES
    ]
    ports = [*Port, *(port for zone in zones for port in zone)]
    assert len(set(ports)) == len(ports)
    for zone in ZONES:
        assert not set(range(zone.migration_port, zone.migration_port + 50)) & set(ports)


def test_the_zones_disks_satisfy_the_preset_together_and_alone() -> None:
    shipped = json.loads(_native.Engine.shipped_presets())
    preset = next(one for one in shipped if one["name"] == "default")
    disks = [
        {"domain": zone.name, "node": disk.node, "disks": 1}
        for zone in ZONES
        for disk in zone.disks
    ]

    def policy(left: list[dict[str, object]]) -> object:
        judged = json.loads(_native.Engine.judge_preset(json.dumps(preset), json.dumps(left)))
        return judged["policy"] and judged["policy"]["notation"]

    assert policy(disks) == "2+2 over 2 Domains, 1 local"
    for zone in ZONES:
        assert policy([one for one in disks if one["domain"] != zone.name]) is not None
    for lost in disks:
        assert policy([one for one in disks if one != lost]) is not None


@pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.iterdir()))
def test_templates_are_for_something(template: str) -> None:
    """A template that no code names is dead."""
    folder = TEMPLATES.parents[1]
    code = "".join(path.read_text() for path in folder.rglob("*.py"))
    assert f'"{template}"' in code


def test_the_openrc_names_the_lab_alone(tmp_path: Path) -> None:
    lab = Layout(tmp_path)
    Configuration(lab).write_openrc()
    text = (tmp_path / "openrc").read_text()
    assert f"export OS_AUTH_URL=http://127.0.0.1:{int(Port.KEYSTONE)}/v3" in text.splitlines()
