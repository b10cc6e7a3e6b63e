"""`make openstack-demo`: OpenStack's own commands on volumes of ours, told as it happens.

1. volumes in two availability zones, and a bootable one from an image;
2. a server boots from it; a second volume is attached, snapshotted, cloned and extended under it;
3. kill -9 of the zone's storage node under the running server: its writes pause, the other zone's
   node goes on with its volumes, `server show` says ACTIVE all the time; the node comes back and
   keeps the logs from then on;
4. detach, delete: nothing is left.

Ends with the line ``DEMO OK`` and status 0, or says what went wrong and ends with status 1.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from openstack import exceptions

from tests.openstack.lab import layout
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import ZONES
from tests.openstack.lab.processes import LabError, wait_until
from tests.openstack.lab.services import daemon_of
from tests.openstack.user import Unexpected, User

PATIENCE_SECONDS = 120.0
#: everything that the demo makes is named so; a demo that was killed leaves it to the next one
PREFIX = "demo-"
ROOT, DATA, CLONE, SERVER, SNAPSHOT = (
    f"{PREFIX}{name}" for name in ("root", "data", "clone", "server", "snapshot")
)
OTHER = f"{PREFIX}{ZONES[1].name}"


class Demo:
    """The story, and what it needs to tell it."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._cloud = Cloud(layout.default())
        self._user = User(self._cloud.lab)
        self._server = ""

    def tell(self, text: str) -> None:
        """Print one line of the story, with the seconds since its beginning."""
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", flush=True)

    def openstack(self, *arguments: str, show: bool = False) -> None:
        """Run an ``openstack`` command as a user would type it."""
        command = ["openstack", *arguments]
        self.tell("$ " + " ".join(command))
        environment = self._cloud.lab.environment() | self._cloud.lab.credentials()
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise Unexpected(f"`{' '.join(command)}` failed: {result.stdout}{result.stderr}")
        if show:
            print(result.stdout, end="", flush=True)

    def volume(self, name: str, *wanted: str) -> str:
        """Wait until a volume of that name has one of the states; return its id."""
        found = self._user.cloud.block_storage.find_volume(name, ignore_missing=False)
        self._user.wait_volume(found.id, *wanted)
        return str(found.id)

    def console(self, pattern: str) -> str:
        """Wait for a line on the server's console, tell it, and return what its group matched."""
        match = self._user.wait_console(self._server, pattern)
        self.tell(f"   console: {match.group(0).strip()}")
        return match.group(1)

    def list_volumes(self) -> None:
        """`openstack volume list`."""
        self.openstack("volume", "list", "--long", "-c", "Name", "-c", "Status", "-c", "Size",
                       "-c", "Type", "-c", "Bootable", "-c", "Attached to", show=True)  # fmt: skip

    def clean(self) -> None:
        """Delete what a demo has made, also an earlier one that was killed."""
        cloud = self._user.cloud
        self._user.remove(
            [one.id for one in cloud.compute.servers() if one.name.startswith(PREFIX)],
            [one.id for one in cloud.block_storage.volumes() if one.name.startswith(PREFIX)],
        )

    def create(self) -> None:
        """Volumes in both zones, and one from an image."""
        first, second = (zone.name for zone in ZONES)
        size = ("--size", "1")
        self.openstack("volume", "create", "--availability-zone", first, *size, DATA)
        self.openstack("volume", "create", "--availability-zone", second, *size, OTHER)
        self.openstack("volume", "create", "--availability-zone", first, *size, "--image", "tiny",
                       "--bootable", ROOT)  # fmt: skip
        for name in (DATA, OTHER, ROOT):
            self.volume(name, "available")
        self.list_volumes()

    def boot(self) -> None:
        """A server from the bootable volume."""
        self.openstack("server", "create", "--volume", ROOT, "--flavor", "tiny", "--nic", "none",
                       "--availability-zone", ZONES[0].name, "--wait", SERVER)  # fmt: skip
        found = self._user.cloud.compute.find_server(SERVER, ignore_missing=False)
        self._server = str(found.id)
        self.console(r"GUEST: (boot \d+)\n")

    def use(self) -> None:
        """Attach, snapshot, clone, extend."""
        self.openstack("server", "add", "volume", SERVER, DATA)
        self.volume(DATA, "in-use")
        mark = self.console(r"GUEST: marked vdb (\S+)\n")
        self.openstack("volume", "snapshot", "create", "--force", "--volume", DATA, SNAPSHOT)
        found = self._user.cloud.block_storage.find_snapshot(SNAPSHOT, ignore_missing=False)
        self._user.cloud.block_storage.wait_for_status(found, "available", ["error"], 1, 120)
        self.openstack("volume", "create", "--snapshot", SNAPSHOT, CLONE)
        self.volume(CLONE, "available")
        self.openstack("server", "add", "volume", SERVER, CLONE)
        seen = self.console(r"GUEST: disk vdc \d+ sectors, (.*)\n")
        if seen != f"mark {mark}":
            raise Unexpected(f"the clone begins with {seen!r}, its source with 'mark {mark}'")
        self.list_volumes()
        self.openstack("volume", "set", "--size", "2", DATA)
        self.volume(DATA, "in-use")
        self.console(r"GUEST: disk vdb resized to (4194304) sectors\n")

    def kill(self) -> None:
        """Kill the zone's storage node under the server: the other zone's goes on."""
        first, second = ZONES
        name = daemon_of(first.storage)
        self.until_on(first.storage, second.storage)
        before = self._user.tick(self._server)
        self.tell(f"the server writes and syncs: tick {before}. Now kill -9 {name}")
        began = time.monotonic()
        self._cloud.processes.kill(name)
        self.until("the volumes to be taken over", lambda: self.owners() == {second.storage})
        tick = self._user.wait_tick_after(self._server, self._user.tick(self._server))
        self.tell(f"after {time.monotonic() - began:.0f} s the server writes on, tick {tick}: its "
                  f"volumes are on {second.storage} now")  # fmt: skip
        self.show_server()
        self._cloud.services.start([self._cloud.services.find(name)])
        self.until_on(second.storage, first.storage)
        tick = self._user.wait_tick_after(self._server, tick)
        self.tell(f"{first.storage} is back and keeps their logs; tick {tick}, and no error")
        self.show_server()

    def show_server(self) -> None:
        """`openstack server show`; raises Unexpected unless it is active."""
        self.openstack("server", "show", SERVER, "-c", "name", "-c", "status", show=True)
        self._user.wait_server(self._server, "ACTIVE", 0.0)

    def mine(self) -> list[dict[str, Any]]:
        """The volumes of the server's zone as our cluster sees them."""
        storage = self._user.cloud.block_storage
        ids = [storage.find_volume(name, ignore_missing=False).id for name in (ROOT, DATA, CLONE)]
        with closing(self._cloud.cluster.client()) as client:
            return [client.show_volume(f"volume-{one}") for one in ids]

    def owners(self) -> set[str]:
        """The nodes that have the volumes of the server's zone."""
        return {one["node"] for one in self.mine()}

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait for something, and see that the server is active all the while."""

        def look() -> bool:
            status = self._user.cloud.compute.get_server(self._server).status
            if status != "ACTIVE":
                raise Unexpected(f"the server is {status}, not ACTIVE")
            return holds()

        wait_until(look, what, PATIENCE_SECONDS)

    def until_on(self, owner: str, keeper: str) -> None:
        """Wait until a node has the volumes, and another one all of their logs."""
        wanted = (owner, keeper, "in_sync")
        self.until(
            f"the volumes on {owner} with their logs on {keeper}",
            lambda: all(
                (one["node"], one["dtl"]["node"], one["dtl"]["state"]) == wanted
                for one in self.mine()
            ),
        )

    def take_apart(self) -> None:
        """Detach, delete, and see that nothing is left."""
        for name, disk in ((CLONE, "vdc"), (DATA, "vdb")):
            self.openstack("server", "remove", "volume", SERVER, name)
            self.volume(name, "available")
            self.console(rf"GUEST: disk ({disk}) gone\n")
        self._user.check_console(self._user.console(self._server))
        self.openstack("server", "delete", "--wait", SERVER)
        self.openstack("volume", "snapshot", "delete", SNAPSHOT)
        self.clean()
        self.tell("all deleted")
        self.list_volumes()

    def perform(self) -> None:
        """The whole story."""
        self.clean()
        self.create()
        self.boot()
        self.use()
        self.kill()
        self.take_apart()


def main() -> int:
    """Run the demo and return the exit status."""
    try:
        Demo().perform()
    except (LabError, Unexpected, exceptions.SDKException) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        print("DEMO FAILED; logs are in build/openstack/log", flush=True)
        return 1
    print("DEMO OK", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
