"""The os-brick connector of protocol ``OVS``.

The daemon of this host owns sockets, files and mounts, so nothing here needs a privilege; a
service only has to be allowed to use the daemon's control socket, and the user who opens the file
or socket to be its owner or group. Every call may be repeated: an attachment is known by its
holder, and a holder has one.

The connection info names the daemon of this host through which it goes, not the volume's owner:
that one may be anywhere and change at any time, and the daemon's Edge follows.

Two kinds of users come here. Whoever copies on this host (Cinder, its backups) gets a file; the
name of the program is the holder, and this module counts how many copies of one volume the
program has going. Nova counts by itself (`_should_disconnect_target`), and says who it is; so does
Glance's store in volumes, for those of multi-attach (`_disconnect_and_detach`).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from os_brick import exception, utils
from os_brick.initiator.connectors import base
from oslo_concurrency import processutils
from oslo_log import log as logging

from ovs_daemon.errors import Code, VStorageError
from ovs_nova import daemons, options

LOG = logging.getLogger(__name__)

PROTOCOL = "OVS"
#: what one of these calls answers when a volume is on an NBD socket rather than in a file
SOCKET = "socket"

_READ_BYTES = 4096
_GLANCE_STORE = "glance_store._drivers.cinder"
# os-brick's own limit for its programs.
_FLUSH_S = 600
_NOT_OURS_TO_FLUSH = ("No such file or directory", "Permission denied")


class OvsConnector(base.BaseLinuxConnector):
    """Attaches volumes through the daemons of this host.

    :param holder: who attaches; not given: this program, which counts its attachments
    :param attach_as: "file" or "nbd"
    """

    def __init__(
        self, root_helper: Any, driver: Any = None, execute: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(root_helper, *args, driver=driver, execute=execute, **kwargs)
        self._holder = str(kwargs.get("holder") or this_program())
        self._counted = "holder" not in kwargs
        self._mode = "edge" if kwargs.get("attach_as") == "nbd" else "file"

    @staticmethod
    def get_connector_properties(root_helper: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """``nodes``: the daemons that can attach on this host. Their absence hinders nobody.
        ``holder``: who will attach by this connector, so that Cinder can say that it is over."""
        me = this_program(kwargs.get("host"))
        return {"ovs": {"nodes": sorted(daemons.nodes()), "holder": me}}

    def connect_volume(self, connection_properties: dict[str, Any]) -> dict[str, Any]:
        """Attach a volume; ``path`` is the file, or the NBD socket when that was asked for.

        :raises BrickException: it could not be attached, and nothing is left of the attempt
        """
        if self._mode == "edge":
            return self._connect(connection_properties)
        connected: dict[str, Any] = self._connect_file(connection_properties)
        return connected

    # Encryptors replace the path by one of their own.
    @utils.connect_volume_prepare_result
    def _connect_file(self, connection_properties: dict[str, Any]) -> dict[str, Any]:
        return self._connect(connection_properties)

    def _connect(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        uuid, what = _uuid(properties), f"attach volume {_uuid(properties)}"
        with _brick_errors(), _USERS.changing(uuid, self._holder) as users:
            with daemons.client(str(properties["node"]), what) as client:
                # Cinder has decided that it may be attached here; see its attachments.
                answer = client.attach_volume(
                    uuid,
                    self._mode,
                    read_only=_read_only(properties),
                    holder=self._holder,
                    shared=True,
                )
            users.add()
        return {
            "type": SOCKET if self._mode == "edge" else "file",
            "path": str(answer["socket"]),
            "size": int(answer["size"]),
            # os-brick undoes with nothing but this in hand.
            "volume_uuid": uuid,
            "node": properties["node"],
        }

    @utils.connect_volume_undo_prepare_result(unlink_after=True)
    def disconnect_volume(
        self,
        connection_properties: dict[str, Any],
        device_info: dict[str, Any] | None = None,
        force: bool = False,
        ignore_errors: bool = False,
    ) -> None:
        """Detach a volume; one that is not attached, or is gone, is fine.

        :param force: detach although data may not be on disk yet
        :param ignore_errors: with ``force``, only log what went wrong
        :raises BrickException: it may still be attached
        """
        uuid, what = _uuid(connection_properties), f"detach volume {_uuid(connection_properties)}"
        try:
            with _brick_errors(), _USERS.changing(uuid, self._holder) as users:
                if self._counts(connection_properties) and users.count > 1:
                    users.remove()
                    return
                with daemons.client(self._own_node(connection_properties), what) as client:
                    self._detach(client, uuid, force)
                users.clear()
        except exception.BrickException:
            if not (force and ignore_errors):
                raise
            LOG.exception("volume %s is perhaps still attached", uuid)

    def _counts(self, properties: Mapping[str, Any]) -> bool:
        """Whether each attach of ours is followed by a detach of its own.

        Glance's store detaches a volume of multi-attach once, when its last reader is done. Cinder
        detaches for each of its copies, of whatever type the volume is.
        """
        by_glance = bool(properties.get("multi_attach")) and _GLANCE_STORE in sys.modules
        return self._counted and not by_glance

    def _own_node(self, properties: Mapping[str, Any]) -> str:
        """Through which daemon of this host to detach.

        The connection info may be another host's by now: Nova cleans up after an evacuation, on
        the host that is back, with what the server's new host attaches by. Our holder is ours
        alone, so there is no harm in ending that, whether or not Cinder has ended it already.
        """
        named, mine = str(properties["node"]), sorted(daemons.nodes())
        if named in mine or not mine:
            return named
        uuid = _uuid(properties)
        LOG.info("volume %s is attached through node %s of another host by now", uuid, named)
        if len(mine) > 1:
            with daemons.client(mine[0], f"detach volume {uuid}") as client:
                return self._serving_node(client, uuid, mine)
        return mine[0]

    def _serving_node(self, client: Any, uuid: str, mine: Sequence[str]) -> str:
        """That of several daemons which serves the holder; any, when none does."""
        try:
            found = client.show_volume(uuid)["attachments"]
        except VStorageError as failure:
            if failure.code != Code.UNKNOWN_VOLUME:
                raise
            found = []
        nodes = {one["node"] for one in found if one["holder"] == self._holder}
        return next((node for node in mine if node in nodes), mine[0])

    def _detach(self, client: Any, uuid: str, force: bool) -> None:
        try:
            if self._mode == "file":
                self._flush(self._attached_path(client.show_volume(uuid)), force)
            client.detach_volume(uuid, self._holder)
        except VStorageError as failure:
            if failure.code != Code.UNKNOWN_VOLUME:
                raise
            LOG.info("volume %s does not exist, so it is not attached", uuid)

    def _flush(self, path: Path | None, force: bool) -> None:
        """Have what was written to a file on disk before it goes.

        By a program: while it waits, so would every green thread of this process.
        """
        if path is None:
            return
        messages = {**os.environ, "LC_ALL": "C"}
        # Of the file itself; who cannot run the program has flushed nothing, whyever that is.
        said = ""
        try:
            self._execute("sync", str(path), timeout=_FLUSH_S, env_variables=messages)
            return
        except processutils.ProcessExecutionError as failure:
            said = (failure.stderr or "").strip()
            why = said or str(failure)
        except subprocess.TimeoutExpired:
            why = f"it took more than {_FLUSH_S} s"
        except OSError as failure:
            why = str(failure)
        if any(one in said for one in _NOT_OURS_TO_FLUSH):
            # Who may not open it has not written it: the one who did was told to sync it himself.
            LOG.debug("%s is not flushed: %s", path, why)
            return
        if not force:
            fix = "detach with force to go on anyway"
            raise VStorageError(Code.INTERNAL, f"flush {path}", why, fix)
        LOG.warning("%s is not flushed: %s", path, why)

    def _attached_path(self, volume: Mapping[str, Any]) -> Path | None:
        """Where the holder has it attached as a file."""
        mine = (one for one in volume["attachments"] if one["holder"] == self._holder)
        found = next((one for one in mine if one["mode"] == "file"), None)
        return None if found is None else Path(found["socket"])

    def get_volume_paths(self, connection_properties: dict[str, Any]) -> list[str]:
        """The file of a volume, if this holder has it attached as one."""
        uuid, what = _uuid(connection_properties), f"find volume {_uuid(connection_properties)}"
        with _brick_errors(), daemons.client(str(connection_properties["node"]), what) as client:
            try:
                path = self._attached_path(client.show_volume(uuid))
            except VStorageError as failure:
                if failure.code != Code.UNKNOWN_VOLUME:
                    raise
                path = None
        return [] if path is None else [str(path)]

    def get_search_path(self) -> str | None:
        """The folder of files, where there is one daemon."""
        folders = options.run_dirs()
        return str(folders[0] / "volumes") if len(folders) == 1 else None

    def get_all_available_volumes(
        self, connection_properties: dict[str, Any] | None = None
    ) -> list[str]:
        """The files of all volumes that are attached as files on this host."""
        found: list[str] = []
        for folder in options.run_dirs():
            with contextlib.suppress(OSError):
                found += sorted(str(path) for path in (folder / "volumes").iterdir())
        return found

    @utils.connect_volume_undo_prepare_result
    def extend_volume(self, connection_properties: dict[str, Any]) -> int:
        """The volume's size, bytes. Files have it already; how servers learn it, see `grow`."""
        uuid, what = _uuid(connection_properties), f"extend volume {_uuid(connection_properties)}"
        with _brick_errors(), daemons.client(str(connection_properties["node"]), what) as client:
            return int(client.show_volume(uuid)["size"])

    def reconnect_volume(self, connection_properties: Mapping[str, Any]) -> None:
        """Close the connections of a volume's servers over NBD, which have to connect again."""
        uuid, what = _uuid(connection_properties), f"extend volume {_uuid(connection_properties)}"
        with _brick_errors(), daemons.client(str(connection_properties["node"]), what) as client:
            client.reconnect_volume(uuid)

    def check_valid_device(self, path: str, run_as_root: bool = True) -> bool:
        """Whether something can be read there; as root only where nothing else will do."""
        try:
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            return bool(super().check_valid_device(path, run_as_root))
        except OSError as failure:
            LOG.error("cannot open %s: %s", path, failure)
            return False
        try:
            os.pread(device, _READ_BYTES, 0)
        except OSError as failure:
            LOG.error("cannot read %s: %s", path, failure)
            return False
        finally:
            os.close(device)
        return True


class _Users:
    """How many users a holder has for a volume within this process, one change at a time."""

    class Change:
        """One volume's count while its lock is held."""

        def __init__(self, counts: Counter[tuple[str, str]], key: tuple[str, str]) -> None:
            self._counts = counts
            self._key = key

        @property
        def count(self) -> int:
            return self._counts[self._key]

        def add(self) -> None:
            self._counts[self._key] += 1

        def remove(self) -> None:
            self._counts[self._key] -= 1

        def clear(self) -> None:
            self._counts.pop(self._key, None)

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[tuple[str, str], tuple[threading.Lock, int]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    @contextlib.contextmanager
    def changing(self, uuid: str, holder: str) -> Iterator[Change]:
        """Hold a volume: its attaching and detaching by one holder take turns."""
        key = (uuid, holder)
        with self._guard:
            lock, waiting = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, waiting + 1)
        try:
            with lock:
                yield self.Change(self._counts, key)
        finally:
            with self._guard:
                lock, waiting = self._locks.pop(key)
                if waiting > 1:
                    self._locks[key] = (lock, waiting - 1)


_USERS = _Users()


def this_program(host: str | None = None) -> str:
    """The holder that a program on this host is.

    :param host: what the program calls its host, where that is not the machine's name
    """
    path = Path(sys.argv[0] if sys.argv and sys.argv[0] else "python")
    program = path.name
    if path.suffix == ".py" and path.parent.name == "cmd":
        # `python -m nova.cmd.compute` is nova-compute.
        program = f"{path.parent.parent.name}-{path.stem}"
    return holder(program, host or socket.gethostname())


def holder(program: str, host: str) -> str:
    """A holder's name: who, and where."""
    return re.sub(r"[^A-Za-z0-9@:._/-]", "_", f"{program.lstrip('-._')}@{host}")[:255]


def _uuid(properties: Mapping[str, Any]) -> str:
    return str(properties["volume_uuid"])


def _read_only(properties: Mapping[str, Any]) -> bool:
    return bool(properties.get("read_only")) or properties.get("access_mode") == "ro"


@contextlib.contextmanager
def _brick_errors() -> Iterator[None]:
    try:
        yield
    except VStorageError as failure:
        raise exception.BrickException(str(failure)) from failure
