"""Mount namespaces, so that the lab's mounts and libvirt's folders are the lab's own.

There is one for the whole lab, in which mounts are shared, and below it one for each hypervisor,
which sees the lab's mounts (volumes as files) but has its own ``/etc/libvirt``, ``/run/libvirt``
and so on, and its own host name. Each is kept by a process that waits for ever; when the last
process in it has ended, the kernel removes it with all that was mounted: nothing can be left over.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.openstack.lab.layout import Layout, Zone
from tests.openstack.lab.processes import LabError, Processes

_LAB = "namespace"
_READY = "ready"
_BRICK_LINKS = Path("/dev/disk/by-id")
_LIBVIRT_FOLDERS = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "run": "/run/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}


def holder_name(zone: Zone) -> str:
    """The recorded name of the process that keeps a hypervisor's namespace."""
    return f"namespace-{zone.name}"


class Namespaces:
    """Makes namespaces and tells how to run a command in one."""

    def __init__(self, lab: Layout, processes: Processes) -> None:
        self._lab = lab
        self._processes = processes

    def ensure(self, zones: Sequence[Zone]) -> None:
        """Make the lab's namespace and those of hypervisors, if they are not there."""
        if os.geteuid() != 0:
            raise LabError("the lab makes mount namespaces and bridges: run it as root")
        # os-brick keeps its links to encrypted volumes there; udev makes it, where there is one.
        _BRICK_LINKS.mkdir(parents=True, exist_ok=True)
        self._ensure(_LAB, [], "private", "mount --make-rshared /")
        for zone in zones:
            if not self._processes.running(holder_name(zone)):
                script = " && ".join([f"hostname {zone.hypervisor}", *self._libvirt_mounts(zone)])
                self._ensure(holder_name(zone), self.command([]), "slave", script, "--uts")

    def _ensure(
        self, name: str, prefix: list[str], propagation: str, script: str, *options: str
    ) -> None:
        if self._processes.running(name):
            return
        ready = self._lab.run / f"{name}.{_READY}"
        ready.unlink(missing_ok=True)
        line = f"set -e; {script}; touch {shlex.quote(str(ready))}; exec sleep infinity"
        command = [*prefix, "unshare", "--mount", *options, "--propagation", propagation]
        self._processes.start(name, [*command, "sh", "-c", line], self._lab.environment())
        self._processes.wait_ready(name, ready.exists)

    def _libvirt_mounts(self, zone: Zone) -> list[str]:
        """Prepare what libvirt stores for a hypervisor; return the commands that mount it."""
        base = self._lab.state / f"libvirt-{zone.name}"
        # What libvirtd of an earlier start knew to run is gone with that start's processes.
        shutil.rmtree(base / "run", ignore_errors=True)
        for name in _LIBVIRT_FOLDERS:
            (base / name).mkdir(parents=True, exist_ok=True)
        for name in ("etc", "lib"):
            shutil.copytree(
                _LIBVIRT_FOLDERS[name], base / name, symlinks=True, dirs_exist_ok=True,
                ignore_dangling_symlinks=True,
            )  # fmt: skip
        # Networks and guests that the machine's own libvirt would start are no matter of ours.
        for autostart in (base / "etc").rglob("autostart"):
            shutil.rmtree(autostart)
        for path in (self._lab.etc / f"libvirt-{zone.name}").iterdir():
            shutil.copy(path, base / "etc" / path.name)
        for target in _LIBVIRT_FOLDERS.values():
            Path(target).mkdir(parents=True, exist_ok=True)
        return [
            f"mount --bind {shlex.quote(str(base / name))} {target}"
            for name, target in _LIBVIRT_FOLDERS.items()
        ]

    def command(
        self, command: Sequence[str | Path], zone: Zone | None = None, cwd: Path | None = None
    ) -> list[str]:
        """The command line that runs ``command`` in the lab, or on a hypervisor.

        Raises LabError when the lab does not run.
        """
        name = _LAB if zone is None else holder_name(zone)
        record = self._processes.record(name)
        if record is None:
            raise LabError(f"the lab does not run ({name} is not there): make openstack")
        prefix = ["nsenter", "--target", str(record.pid), "--mount"]
        if zone is not None:
            prefix.append("--uts")
        # The folder that the caller is in is one of another namespace.
        prefix.append(f"--wd={cwd or self._lab.run}")
        return [*prefix, *map(str, command)]
