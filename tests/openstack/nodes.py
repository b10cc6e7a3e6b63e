"""What our nodes hold, seen from the host: records, sockets, mounts, processes."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from ovs_daemon.client import Client
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import Zone
from tests.openstack.lab.processes import LabError, wait_until
from tests.openstack.lab.services import daemon_of

_SETTLE_SECONDS_MAX = 20.0
#: processes that something of ours may have started and must not leave
_PROGRAMS = ("qemu-img", "qemu-nbd", "nbdcopy", "vstorage", "fusermount3")


class NodeView:
    """One zone: the storage node, and the node of its hypervisor, through which servers attach."""

    def __init__(self, cloud: Cloud, zone: Zone) -> None:
        self._storage_run = cloud.lab.node_run(zone.storage)
        self._run = cloud.lab.node_run(zone.hypervisor)
        #: the services that are its daemons
        self.storage_daemon = daemon_of(zone.storage)
        self.attaching_daemon = daemon_of(zone.hypervisor)
        self.zone = zone

    def client(self) -> Client:
        """A new connection to the storage node's daemon; close it."""
        return Client(self._storage_run / "control.sock")

    def _every_volume(self) -> list[dict[str, Any]]:
        """All volumes of the cluster, also those that its lists hide."""
        with closing(Client(self._run / "control.sock")) as client:
            return client.list_volumes(everything=True)

    def volumes(self) -> list[dict[str, Any]]:
        """The volumes that the storage node owns, also those that its lists hide."""
        return [one for one in self._every_volume() if one["node"] == self.zone.storage]

    def record(self, volume_id: str) -> dict[str, Any]:
        """The volume behind a Cinder volume, whoever owns it."""
        with closing(Client(self._run / "control.sock")) as client:
            return client.show_volume(f"volume-{volume_id}")

    def volume(self, volume_id: str) -> dict[str, Any]:
        """The volume behind a Cinder volume, and its counters since the daemon started."""
        name = f"volume-{volume_id}"
        with closing(self.client()) as client:
            found = client.show_volume(name)
            counters = [one for one in client.status()["volumes"] if one["uuid"] == found["uuid"]]
        return found | {"counters": counters[0] if counters else {}}

    def has(self, volume_id: str) -> bool:
        """Tell whether it has a Cinder volume."""
        return any(one["name"] == f"volume-{volume_id}" for one in self.volumes())

    def attachments(self) -> int:
        """How many attachments its hypervisor's node serves, of all volumes together."""
        return sum(
            attachment["node"] == self.zone.hypervisor
            for one in self._every_volume()
            for attachment in one["attachments"]
        )

    def sockets(self) -> set[str]:
        """Sockets and mount points of volumes in both run directories."""
        folders = ("nbd", "direct", "volumes")
        return {
            str(path.relative_to(run.parent))
            for run in (self._run, self._storage_run)
            for folder in folders
            for path in (run / folder).glob("*")
        }

    def mounts(self) -> set[str]:
        """What is mounted below its run directory, in this mount namespace."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return {point for line in lines if (point := line.split()[4]).startswith(f"{self._run}/")}


def traces(nodes: list[NodeView]) -> dict[str, Any]:
    """All that volumes leave on this machine; equal before and after means nothing was left."""
    return {
        "volumes": {
            node.zone.name: sorted(one["name"] for one in node.volumes()) for node in nodes
        },
        "attachments": {node.zone.name: node.attachments() for node in nodes},
        "sockets": {node.zone.name: node.sockets() for node in nodes},
        "mounts": {node.zone.name: node.mounts() for node in nodes},
        "processes": sorted(programs_running()),
    }


def traces_in_the_end(nodes: list[NodeView], before: dict[str, Any]) -> dict[str, Any]:
    """The traces, as soon as they are those of before, or when that takes too long.

    What Cinder ends for a host, the registry says at once, and that host's node a moment later.
    """
    with suppress(LabError):
        wait_until(lambda: traces(nodes) == before, "what was there before", _SETTLE_SECONDS_MAX)
    return traces(nodes)


def programs_running() -> list[str]:
    """Command lines of such programs in the lab's mount namespace: who tests it is in it, too."""
    found = []
    ours = Path("/proc/self/ns/mnt").stat().st_ino
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "ns/mnt").stat().st_ino != ours:
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        program = os.path.basename(words[0].decode(errors="replace"))
        if program in _PROGRAMS:
            found.append(b" ".join(words).decode(errors="replace"))
    return found
