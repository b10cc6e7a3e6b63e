"""What our nodes hold, seen from the host: records, sockets, mounts, processes."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

from ovs_daemon.client import Client
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import Zone

#: processes that something of ours may have started and must not leave
_PROGRAMS = ("qemu-img", "qemu-nbd", "nbdcopy", "vstorage", "fusermount3")


class NodeView:
    """One zone's node."""

    def __init__(self, cloud: Cloud, zone: Zone) -> None:
        self._run = cloud.lab.node_run(zone)
        self.daemon = f"vstorage-daemon-{zone.name}"
        self.zone = zone

    def client(self) -> Client:
        """A new connection to the daemon; close it."""
        return Client(self._run / "control.sock")

    def volumes(self) -> list[dict[str, Any]]:
        """All volumes, also those that its lists hide."""
        with closing(self.client()) as client:
            return client.list_volumes(everything=True)

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
        """How many attachments it knows, of all volumes together."""
        return sum(len(one["attachments"]) for one in self.volumes())

    def sockets(self) -> set[str]:
        """Sockets and mount points of volumes in its run directory."""
        folders = ("nbd", "direct", "volumes")
        return {
            str(path.relative_to(self._run))
            for folder in folders
            for path in (self._run / folder).glob("*")
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
