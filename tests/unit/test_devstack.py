"""The DevStack plugin with DevStack's functions replaced by ones that write down their calls."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "devstack" / "plugin.sh"
SETTINGS = ROOT / "devstack" / "settings"

# What the plugin calls of DevStack and of the system; `iniset` keeps what it was told as well.
RECORDED = (
    "define_plugin", "enable_service", "die", "setup_develop", "iniset", "iniadd", "run_process",
    "stop_process", "openstack", "sudo",
)  # fmt: skip
STUBS = """
set -eu
for name in {names}; do
    eval "$name() {{ printf '%s' $name >> '$CALLS'; printf ' <%s>' \\"\\$@\\" >> '$CALLS';
        echo >> '$CALLS'; }}"
done
openstack() {{ echo "openstack $*" >> "$CALLS"; [[ " $* " != *" show "* ]]; }}
get_python_exec_prefix() {{ echo /opt/stack/bin; }}
get_transport_url() {{ echo rabbit://stack@127.0.0.1/; }}
is_service_enabled() {{ return 0; }}
hostname() {{ echo dev; }}
cargo() {{ :; }}
id() {{ echo stack; }}
DATA_DIR=/data STACK_USER=stack ENABLE_DEBUG_LOG_LEVEL=True REGION_NAME=RegionOne
CINDER_CONF=/etc/cinder/cinder.conf NOVA_CONF=/etc/nova/nova.conf TEMPEST_CONFIG=/tempest.conf
"""


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Where the calls are written down."""
    path = tmp_path / "calls"
    path.touch()
    return path


def run(calls: Path, script: str) -> list[str]:
    """Source settings and plugin as DevStack does, then ``script``; return the calls."""
    stubs = STUBS.format(names=" ".join(RECORDED))
    text = f"CALLS='{calls}'\n{stubs}\nOVS_CONF_DIR='{calls.parent}'\nsource {SETTINGS}\n{script}"
    subprocess.run(["bash", "-c", text], check=True, capture_output=True, text=True)
    return calls.read_text().splitlines()


def phase(*words: str) -> str:
    return f"source {PLUGIN} {' '.join(words)}"


def test_settings_enable_a_node_and_a_backend_for_each_zone(calls: Path) -> None:
    found = run(calls, 'printf "%s\\n" "$CINDER_ENABLED_BACKENDS" >> "$CALLS"')
    assert found == [
        "define_plugin <open-vstorage>",
        "enable_service <vstorage-daemon-az1> <vstorage-edge-az1>",
        "enable_service <vstorage-daemon-az2> <vstorage-edge-az2>",
        "ovs:az1,ovs:az2",
    ]


def test_it_installs_from_its_own_tree(calls: Path) -> None:
    assert f"setup_develop <{ROOT}>" in run(calls, phase("stack", "install"))


def test_each_node_and_client_is_configured(calls: Path) -> None:
    found = run(calls, phase("stack", "post-config"))
    for zone in ("az1", "az2"):
        conf = f"<{calls.parent}/vstorage-{zone}.conf>"
        assert f"iniset {conf} <DEFAULT> <domain> <{zone}>" in found
        assert f"iniset {conf} <DEFAULT> <host> <dev-{zone}>" in found
        assert f"iniset {conf} <alba> <embedded> <true>" in found
        assert f"iniset {conf} <rpc> <transport_url> <rabbit://stack@127.0.0.1/>" in found
    dirs = "</run/vstorage/az1,/run/vstorage/az2>"
    assert f"iniset </etc/cinder/cinder.conf> <ovs> <run_dirs> {dirs}" in found
    assert f"iniset </etc/nova/nova.conf> <ovs> <run_dirs> {dirs}" in found
    driver = "<oslo_messaging_notifications> <driver> <open_vstorage>"
    assert f"iniadd </etc/cinder/cinder.conf> {driver}" in found


def test_cinder_finds_the_functions_of_its_backends(calls: Path) -> None:
    script = f"""{phase("stack", "pre-install")}
        configure_cinder_backend_ovs az2; init_cinder_backend_ovs az2
        cleanup_cinder_backend_ovs az2"""
    found = run(calls, script)
    for key, value in (
        ("volume_driver", "ovs_cinder.driver.OVSVolumeDriver"),
        ("volume_backend_name", "ovs"),
        ("backend_availability_zone", "az2"),
        ("ovs_domain", "az2"),
    ):
        assert f"iniset </etc/cinder/cinder.conf> <az2> <{key}> <{value}>" in found
    program, conf = "/opt/stack/bin/vstorage-daemon", f"{calls.parent}/vstorage-az2.conf"
    assert (
        f"run_process <vstorage-daemon-az2> <{program} --config-file {conf}> <root> <root>" in found
    )
    assert "sudo <rm> <-rf> </data/vstorage/az2> </run/vstorage/az2>" in found


def test_the_driver_and_the_entry_point_that_it_names_exist() -> None:
    """What the shell only writes down, Python can load."""
    from importlib import import_module, metadata

    assert import_module("ovs_cinder.driver").OVSVolumeDriver
    drivers = metadata.entry_points(group="oslo.messaging.notify.drivers")
    assert "open_vstorage" in drivers.names


def test_the_volume_type_is_made_once(calls: Path) -> None:
    found = run(calls, phase("stack", "extra"))
    assert [line for line in found if " type create " in line] != []


def test_unstack_and_clean_end_what_stack_began(calls: Path) -> None:
    found = run(calls, f"{phase('unstack')}\n{phase('clean')}")
    for zone in ("az1", "az2"):
        assert f"stop_process <vstorage-daemon-{zone}>" in found
        assert f"stop_process <vstorage-edge-{zone}>" in found
        assert f"sudo <rm> <-rf> </data/vstorage/{zone}> </run/vstorage/{zone}>" in found


@pytest.mark.parametrize(
    "script", [PLUGIN, SETTINGS, *sorted((ROOT / "tools").glob("*.sh"))], ids=lambda path: path.name
)
def test_scripts_satisfy_shellcheck(script: Path) -> None:
    shell = "bash" if script.parent.name == "devstack" else "sh"
    command = ["shellcheck", "--shell", shell, str(script)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.stdout + found.stderr == ""
