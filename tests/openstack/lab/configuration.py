"""Writes every configuration file, from the templates in ``etc/`` and those that packages bring."""

from __future__ import annotations

import re
import secrets
import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from string import Template

from tests.openstack.lab import layout
from tests.openstack.lab.layout import SECTIONS, ZONES, Layout, Port, Zone

TEMPLATES = Path(__file__).parent / "etc"
#: where pip puts the files of services that belong into /etc
PACKAGED = Path(sys.prefix) / "etc"
HOSTS_NAMESPACE = uuid.UUID("b1f7a5cc-5f4e-4f0a-a3bb-0f4c2f9f5f0d")
_SERVICES_WITH_ROOTWRAP = ("cinder", "neutron", "nova")

# We are root already, and sudo's secure_path would lose the virtual environment.
_SUDO = """#!/bin/bash
# Drops sudo's own flags and runs the command.
while [[ "$1" == -* ]]; do shift; done
while [[ "$1" == *=* ]]; do export "$1"; shift; done
exec "$@"
"""
_TAP_METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: ovs-lab-ports\nVersion: 1\n",
    "entry_points.txt": "[neutron.ml2.mechanism_drivers]\nlab_tap = lab_tap_ports:TapPorts\n",
}


def database_url() -> str:
    """What a database's name is appended to."""
    return f"mysql+pymysql://openstack:{layout.PASSWORD}@127.0.0.1:{Port.MARIADB}"


def rabbitmq_url() -> str:
    """Where all messages go."""
    return f"rabbit://guest:guest@127.0.0.1:{Port.RABBITMQ}/"


def registry_url() -> str:
    """The registry that all nodes of ours share."""
    return f"etcd://127.0.0.1:{int(Port.ETCD)}/vstorage"


def render(name: str, values: Mapping[str, object]) -> str:
    """Fill in a template; a name without a value is an error."""
    return Template((TEMPLATES / name).read_text()).substitute(values)


class Configuration:
    """Writes the files of one lab. Settings that tests change are parameters of ``write``."""

    def __init__(self, lab: Layout) -> None:
        self._lab = lab
        self._common: dict[str, object] = {
            "log": lab.log,
            "state": lab.state,
            "etc": lab.etc,
            "run": lab.run,
            "database": database_url(),
            "rabbitmq": rabbitmq_url(),
            "registry": registry_url(),
            "cluster_key": lab.cluster_key,
            "password": layout.PASSWORD,
            "encryption_key": layout.ENCRYPTION_KEY,
            "region": layout.REGION,
            "first_zone": ZONES[0].name,
            "backends": ",".join(section.name for section in SECTIONS),
            **{port.name.lower(): int(port) for port in Port if port is not Port.RABBITMQ},
        }

    def _values(self, user: str, extra: Mapping[str, object]) -> dict[str, object]:
        values = self._common | {"user": user} | dict(extra)
        values["authentication"] = render("authentication.conf", values)
        values["authtoken"] = render("authtoken.conf", values)
        return values

    def _write(self, template: str, path: Path, user: str, **extra: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(template, self._values(user, extra)))

    def write(self, *, cross_az_attach: bool = True) -> None:
        """Write everything."""
        for folder in self._lab.folders():
            folder.mkdir(parents=True, exist_ok=True)
        self._folders()
        self._sudo()
        self._packaged()
        etc = self._lab.etc
        self._write("keystone.conf", etc / "keystone/keystone.conf", "keystone")
        self._write("glance-api.conf", etc / "glance/glance-api.conf", "glance")
        self._write("placement.conf", etc / "placement/placement.conf", "placement")
        self._write("neutron.conf", etc / "neutron/neutron.conf", "neutron")
        self._write("ml2_conf.ini", etc / "neutron/plugins/ml2/ml2_conf.ini", "neutron")
        self._tap_ports()
        self._cinder()
        self._cluster_key()
        for zone in ZONES:
            self._nodes(zone)
            self._hypervisor(zone, cross_az_attach)
        self._nova("nova", "controller", ZONES[0], cross_az_attach)
        self.write_openrc()

    def _folders(self) -> None:
        state = self._lab.state
        for name in (
            "backup", "cinder", "glance", "keystone", "locks", "neutron", "nova/instances",
            "rabbitmq",
        ):  # fmt: skip
            (state / name).mkdir(parents=True, exist_ok=True)
        for node in (node for zone in ZONES for node in (zone.storage, zone.hypervisor)):
            self._lab.node_state(node).mkdir(exist_ok=True)
            # As the daemon makes it: nobody else may come near its control socket.
            self._lab.node_run(node).mkdir(mode=0o700, exist_ok=True)

    def _sudo(self) -> None:
        program = self._lab.bin / "sudo"
        program.write_text(_SUDO)
        program.chmod(0o755)

    def _packaged(self) -> None:
        """Copy paste files, filters and the like, and tell rootwrap where they are."""
        etc = self._lab.etc
        for service in ("keystone", "glance", "nova", "neutron", "cinder"):
            shutil.copytree(PACKAGED / service, etc / service, dirs_exist_ok=True)
        filters = etc / "cinder/rootwrap.d"
        for path in (PACKAGED / "os-brick/rootwrap.d").iterdir():
            shutil.copy(path, filters / path.name)
        programs = [str(self._lab.bin), str(Path(sys.executable).parent)]
        programs += ["/sbin", "/usr/sbin", "/bin", "/usr/bin"]
        for service in _SERVICES_WITH_ROOTWRAP:
            path = etc / service / "rootwrap.conf"
            text = path.read_text()
            text = re.sub(
                r"(?m)^filters_path=.*", f"filters_path={etc / service / 'rootwrap.d'}", text
            )
            path.write_text(re.sub(r"(?m)^exec_dirs=.*", f"exec_dirs={','.join(programs)}", text))

    def _tap_ports(self) -> None:
        """Put the port driver where importlib finds it and its entry point."""
        folder = self._lab.root / "python"
        metadata = folder / "ovs_lab_ports-1.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name("tap_ports.py"), folder / "lab_tap_ports.py")
        for name, text in _TAP_METADATA.items():
            (metadata / name).write_text(text)

    def _cinder(self) -> None:
        self._write("cinder.conf", self._lab.etc / "cinder/cinder.conf", "cinder")
        with (self._lab.etc / "cinder/cinder.conf").open("a") as file:
            for section in SECTIONS:
                values = {
                    "section": section.name,
                    "backend_name": section.backend_name,
                    "zone": section.zone.name,
                }
                file.write("\n" + render("cinder-backend.conf", values))

    def _hypervisor(self, zone: Zone, cross_az_attach: bool) -> None:
        (peer,) = (other for other in ZONES if other != zone)
        self._nova(f"nova-{zone.name}", zone.hypervisor, peer, cross_az_attach)
        folder = self._lab.etc / f"libvirt-{zone.name}"
        values = self._common | {
            "libvirt_port": zone.libvirt_port,
            # The same after every start: Nova knows a hypervisor by it.
            "host_uuid": uuid.uuid5(HOSTS_NAMESPACE, zone.name),
            "migration_port": zone.migration_port,
            "migration_port_last": zone.migration_port + 49,
        }
        folder.mkdir(exist_ok=True)
        for name in ("libvirtd.conf", "qemu.conf"):
            (folder / name).write_text(render(name, values))

    def _cluster_key(self) -> None:
        """Make the secret that our nodes and OSD servers share, once."""
        path = self._lab.cluster_key
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.touch(mode=0o600)
            fresh.write_text(f"{secrets.token_hex(32)}\n")
            fresh.rename(path)

    def _nodes(self, zone: Zone) -> None:
        """A zone's storage node, and the node of its hypervisor."""
        (other,) = (one for one in ZONES if one != zone)
        for template, node in (
            ("vstorage-storage.conf", zone.storage),
            ("vstorage-compute.conf", zone.hypervisor),
        ):
            self._write(
                template,
                self._lab.etc / f"vstorage-{node}.conf",
                "",
                node=node,
                node_state=self._lab.node_state(node),
                node_run=self._lab.node_run(node),
                zone=zone.name,
                recovery=other.name,
                dtl_port=zone.dtl_port,
                edge_port=zone.edge_port,
            )

    def _nova(self, name: str, host: str, peer: Zone, cross_az_attach: bool) -> None:
        (self._lab.state / name).mkdir(exist_ok=True)
        self._write(
            "nova.conf",
            self._lab.etc / name / "nova.conf",
            "nova",
            hypervisor=host,
            # Each nova-compute keeps its identity there.
            nova_state=self._lab.state / name,
            peer_libvirt=peer.libvirt_port,
            cross_az_attach=str(cross_az_attach).lower(),
        )

    def write_openrc(self) -> None:
        """Write what a shell sources to be an administrator."""
        lines = [f"export {key}={value}" for key, value in self._lab.credentials().items()]
        lines.append(f"export PATH={Path(sys.executable).parent}:$PATH")
        (self._lab.root / "openrc").write_text("\n".join(lines) + "\n")
