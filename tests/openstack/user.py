"""What an OpenStack user does, through the SDK, with waits that say what did not happen.

Tests and the demo share it. Nothing here knows of our daemons: only of OpenStack's APIs and of what
the guest prints on its console.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from openstack import exceptions

from tests.openstack.lab import registration
from tests.openstack.lab.layout import Layout

# A machine of two cores that does everything at once.
SECONDS_MAX = 300.0
_POLL_SECONDS = 0.3
#: what must never appear on a guest's console, whoever prints it
FAILURE = re.compile(r"GUEST: IOERROR.*|.*I/O error.*|.*Kernel panic.*", re.IGNORECASE)


class Unexpected(Exception):
    """Something did not become what it should; the message says what it is instead."""


class User:
    """An administrator, who may also choose hosts and see them."""

    def __init__(self, lab: Layout) -> None:
        self.cloud: Any = registration.connect(lab)

    # Waiting

    def _await(self, what: str, done: Callable[[], object], seconds_max: float) -> None:
        deadline = time.monotonic() + seconds_max
        state = done()
        while state is not None:
            if time.monotonic() > deadline:
                raise Unexpected(f"{what}: still {state} after {seconds_max:.0f} s")
            time.sleep(_POLL_SECONDS)
            state = done()

    def wait_volume(self, volume: str, *wanted: str, seconds_max: float = SECONDS_MAX) -> Any:
        """Wait until a volume has one of the states; return it. An error state raises."""
        found: Any = None

        def state() -> str | None:
            nonlocal found
            found = self.cloud.block_storage.get_volume(volume)
            if found.status in wanted:
                return None
            if found.status.startswith("error"):
                raise Unexpected(f"volume {found.name} is {found.status}: {self.faults(volume)}")
            return str(found.status)

        self._await(f"volume {volume} to be {' or '.join(wanted)}", state, seconds_max)
        return found

    def wait_gone(self, what: str, get: Callable[[], Any], seconds_max: float) -> None:
        """Wait until something is not found any more. An error state raises."""

        def state() -> str | None:
            try:
                found = get()
            except exceptions.NotFoundException:
                return None
            if found.status.lower().startswith("error"):
                raise Unexpected(f"{what} is {found.status}, it should be gone")
            return str(found.status)

        self._await(f"the end of {what}", state, seconds_max)

    def wait_server(self, server: str, wanted: str, seconds_max: float = SECONDS_MAX) -> Any:
        """Wait until a server has a state; return it. The error state raises with its fault."""
        found: Any = None

        def state() -> str | None:
            nonlocal found
            found = self.cloud.compute.get_server(server)
            if found.status == wanted and found.task_state is None:
                return None
            if found.status == "ERROR" and wanted != "ERROR":
                raise Unexpected(f"server {found.name}: {found.fault}")
            return f"{found.status} ({found.task_state})"

        self._await(f"server {server} to be {wanted}", state, seconds_max)
        return found

    def faults(self, resource: str) -> str:
        """What Cinder tells its users went wrong with a volume or snapshot."""
        messages = self.cloud.block_storage.get("/messages").json()["messages"]
        mine = [one["user_message"] for one in messages if one["resource_uuid"] == resource]
        return "; ".join(mine) or "Cinder has no message for it"

    # Volumes

    def create_volume(self, name: str, size_gib: int = 1, **options: Any) -> Any:
        """Create a volume and wait until it is available."""
        made = self.cloud.block_storage.create_volume(name=name, size=size_gib, **options)
        return self.wait_volume(made.id, "available")

    def delete_volume(self, volume: str) -> None:
        """Delete a volume and wait until it is gone."""
        with suppress(exceptions.NotFoundException):
            self.cloud.block_storage.delete_volume(volume)
        self.wait_gone(
            f"volume {volume}", lambda: self.cloud.block_storage.get_volume(volume), SECONDS_MAX
        )

    def create_snapshot(self, volume: str, name: str) -> Any:
        """Take a snapshot, of an attached volume, too, and wait until it is available."""
        made = self.cloud.block_storage.create_snapshot(volume_id=volume, name=name, is_forced=True)

        def state() -> str | None:
            found = self.cloud.block_storage.get_snapshot(made.id)
            if found.status == "error":
                raise Unexpected(f"snapshot {name}: {self.faults(made.id)}")
            return None if found.status == "available" else str(found.status)

        self._await(f"snapshot {name}", state, SECONDS_MAX)
        return made

    def delete_snapshot(self, snapshot: str) -> None:
        """Delete a snapshot and wait until it is gone."""
        with suppress(exceptions.NotFoundException):
            self.cloud.block_storage.delete_snapshot(snapshot)
        self.wait_gone(
            f"snapshot {snapshot}",
            lambda: self.cloud.block_storage.get_snapshot(snapshot),
            SECONDS_MAX,
        )

    # Servers

    def boot(self, name: str, volume: str, **options: Any) -> Any:
        """Boot a server from a volume, without a network, and wait until it is active."""
        flavor = self.cloud.compute.find_flavor(registration.FLAVOR)
        disk = {"uuid": volume, "source_type": "volume", "destination_type": "volume",
                "boot_index": 0, "delete_on_termination": False}  # fmt: skip
        made = self.cloud.compute.create_server(
            name=name, flavor_id=flavor.id, networks="none", block_device_mapping_v2=[disk],
            **options,
        )  # fmt: skip
        return self.wait_server(made.id, "ACTIVE")

    def delete_server(self, server: str) -> None:
        """Delete a server and wait until it is gone."""
        with suppress(exceptions.NotFoundException):
            self.cloud.compute.delete_server(server)
        self.wait_gone(
            f"server {server}", lambda: self.cloud.compute.get_server(server), SECONDS_MAX
        )

    def attach(self, server: str, volume: str) -> None:
        """Attach a volume to a running server and wait until Cinder says so."""
        self.cloud.compute.create_volume_attachment(server, volume_id=volume)
        self.wait_volume(volume, "in-use")

    def detach(self, server: str, volume: str) -> None:
        """Detach a volume from a running server and wait until Cinder says so."""
        self.cloud.compute.delete_volume_attachment(volume, server)
        self.wait_volume(volume, "available")

    def listed(self, server: str, volume: str) -> bool:
        """Tell whether Nova counts a volume as the server's."""
        attachments = self.cloud.compute.volume_attachments(server)
        return any(one.volume_id == volume for one in attachments)

    def wait_agreed(self, server: str, volume: str, seconds_max: float) -> None:
        """Wait until Cinder and Nova say the same: the server has the volume, or nobody has."""

        def state() -> str | None:
            status = str(self.cloud.block_storage.get_volume(volume).status)
            if status.startswith("error"):
                raise Unexpected(f"volume {volume} is {status}: {self.faults(volume)}")
            listed = self.listed(server, volume)
            agreed = status == ("in-use" if listed else "available")
            return None if agreed else f"{status}, {'' if listed else 'not '}at the server"

        self._await(f"agreement on volume {volume} of server {server}", state, seconds_max)

    def wait_unlisted(self, server: str, volume: str) -> None:
        """Wait until Nova does not count a volume as the server's any more."""
        self._await(
            f"the end of volume {volume} at server {server}",
            lambda: "listed" if self.listed(server, volume) else None,
            SECONDS_MAX,
        )

    def began(self, server: str, name: str) -> bool:
        """Tell whether Nova's services have written down that they begin with a step."""
        compute = self.cloud.compute
        return any(
            one["event"] == name
            for action in compute.server_actions(server)
            for one in compute.get_server_action(action.request_id, server).events or []
        )

    def wait_migration(self, server: str, target: str) -> None:
        """Wait until a server runs on another host. A failed migration raises."""

        def state() -> str | None:
            found = self.cloud.compute.get_server(server)
            if found.compute_host == target and found.status == "ACTIVE" and not found.task_state:
                return None
            failed = [
                one for one in self.cloud.compute.migrations(instance_uuid=server)
                if one.status in ("error", "failed")
            ]  # fmt: skip
            if failed:
                raise Unexpected(f"the migration of {server} to {target} failed: {failed[0]}")
            return f"{found.status} on {found.compute_host} ({found.task_state})"

        self._await(f"server {server} to run on {target}", state, SECONDS_MAX)

    # Consoles

    def console(self, server: str) -> str:
        """What the guest has printed so far, its last 100 KiB."""
        try:
            answer = self.cloud.compute.get_server_console_output(server)
        except (exceptions.ConflictException, exceptions.NotFoundException):
            # It is not there before the guest is.
            return ""
        return str(answer["output"]).replace("\r", "")

    def wait_console(
        self, server: str, pattern: str, seconds_max: float = SECONDS_MAX
    ) -> re.Match[str]:
        """Wait until the guest has printed a match of ``pattern``; return the last one.

        Raises Unexpected when the guest reports a failure before.
        """
        matches: list[re.Match[str]] = []

        def state() -> str | None:
            text = self.console(server)
            self.check_console(text)
            matches[:] = re.finditer(pattern, text)
            return None if matches else f"the console ends with {text[-200:]!r}"

        self._await(f"{pattern!r} on the console of {server}", state, seconds_max)
        return matches[-1]

    def check_console(self, text: str) -> None:
        """Raise Unexpected if a guest reports a failure."""
        failure = FAILURE.search(text)
        if failure is not None:
            raise Unexpected(f"the guest reports a failure: {failure.group(0)}")

    def tick(self, server: str) -> int:
        """The number of the guest's last write that was synced."""
        return int(self.wait_console(server, r"GUEST: tick (\d+)\n").group(1))

    def wait_tick_after(self, server: str, tick: int) -> int:
        """Wait until the guest has written on; return the number of its last write."""
        last = tick

        def state() -> str | None:
            nonlocal last
            last = self.tick(server)
            return None if last > tick else f"tick {last}"

        self._await(f"server {server} to write after tick {tick}", state, SECONDS_MAX)
        return last

    def remove(self, servers: Iterable[str], volumes: Iterable[str]) -> None:
        """Delete servers, then volumes with their snapshots, whatever of them is still there."""
        for server in servers:
            self.delete_server(server)
        volumes = set(volumes)
        for snapshot in list(self.cloud.block_storage.snapshots()):
            if snapshot.volume_id in volumes:
                self.delete_snapshot(snapshot.id)
        for volume in volumes:
            self.delete_volume(volume)
