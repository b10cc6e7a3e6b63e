"""What the verbs of one host share: engine, registry, Edge, and which volumes are open here.

Every opening first raises the volume's epoch in the registry by compare-and-swap, and only then
asks the engine: an engine that opened with an older epoch can be told apart for ever.

A volume that cannot be opened is remembered with its error. It harms nobody else; verbs that
need it open answer with that error, and `vstorage status` lists it.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ovs_daemon.control.locks import Locks
from ovs_daemon.control.opening import Guard, Opener, Taken, Unguarded
from ovs_daemon.control.records import State, Volume
from ovs_daemon.control.store import Store, put
from ovs_daemon.control.topology import ALL_ROLES
from ovs_daemon.edge import EdgeClient
from ovs_daemon.engine import EngineClient
from ovs_daemon.errors import Code, VStorageError, unknown_volume
from ovs_daemon.policy.model import DtlMode, Role
from ovs_daemon.policy.ownership import Home
from ovs_daemon.registry import Conflict, Lapsed

LOG = logging.getLogger(__name__)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def _new_uuid() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class Membership:
    """What the configuration says about this host's place in the cluster.

    :param domain_configured: whether somebody chose the Domain; else it is the default
    :param instance: tells two hosts apart that were given one name
    :param backend: identity of the backend that it stores objects on
    """

    domain_configured: bool = False
    recovery_domain: str | None = None
    roles: tuple[Role, ...] = ALL_ROLES
    addresses: tuple[tuple[str, str], ...] = ()
    release: str = ""
    instance: str = ""
    backend: str = ""


@dataclass(frozen=True)
class Settings:
    """What the configuration says to the verbs.

    :param node: name of this host
    :param sco_size: bytes of data in a SCO of a new volume
    :param socket_owner: "uid:gid" of guests' sockets, None to leave them
    :param socket_mode: permission bits of guests' sockets
    :param dtl_mode: of new volumes
    :param cluster_key: signs attach tokens; None on a node that has none
    :param domain: name of the Domain in which this host registers; where it is, says its node
    :param availability_zone: OpenStack's name for a Domain that this host has to make
    :param preset: that of volumes which name none; None where the backend knows no presets
    :param home: what this host's write buffers rest on
    :param buffer_dir: where they are, a folder for each volume; None where there are none
    :param dtl_dir: where the logs are that this host keeps for others; None where it keeps none
    """

    node: str
    run_dir: Path
    sco_size: int
    socket_owner: str | None
    socket_mode: int
    domain: str = "default"
    availability_zone: str | None = None
    membership: Membership = Membership()
    dtl_mode: DtlMode = DtlMode.SYNC
    cluster_key: bytes | None = None
    preset: str | None = None
    home: Home = field(default_factory=Home)
    buffer_dir: Path | None = None
    dtl_dir: Path | None = None


class Host:
    """One host's engine and registry. Any thread may call."""

    def __init__(
        self,
        store: Store,
        engine: EngineClient,
        edge: EdgeClient,
        settings: Settings,
        now: Callable[[], str] = _now,
        new_uuid: Callable[[], str] = _new_uuid,
    ) -> None:
        self.store = store
        self.engine = engine
        self.edge = edge
        self.settings = settings
        self.now = now
        self.new_uuid = new_uuid
        self.guard: Guard = Unguarded()
        self.locks = Locks()
        # Attaching, detaching and telling a restarted Edge what it should serve take turns.
        self.edge_lock = threading.RLock()
        #: returns when something may have changed in the registry after a revision, or in seconds
        self.await_change: Callable[[int, float], None] = self._await_change
        self._guard = threading.Lock()
        self._open: dict[str, bool] = {}
        self._failures: dict[str, VStorageError] = {}
        self._unfinished: set[str] = set()
        self._unpurged: set[str] = set()

    def require(self, what: str, reference: str) -> Volume:
        """The volume that a user means: by name or UUID, not one that was deleted.

        :raises VStorageError: ``unknown_volume``
        """
        volume = self.store.find_volume(reference)
        if volume is None or volume.state is State.HIDDEN:
            raise unknown_volume(what, reference)
        return volume

    def again(self, what: str, volume: Volume) -> Volume:
        """The volume as it is now, read again under its lock.

        :raises VStorageError: ``unknown_volume`` when it is gone meanwhile
        """
        found = self.store.volume(volume.uuid)
        if found is None or found.state is State.HIDDEN:
            raise unknown_volume(what, volume.name)
        return found

    def _await_change(self, revision: int, timeout_s: float) -> None:
        # One that has lost count says as well that there is something to look at.
        with contextlib.suppress(Lapsed):
            self.store.registry.watch(revision, timeout_s)

    @property
    def opener(self) -> Opener:
        """What opens volumes here."""
        here = self.settings
        backend = here.membership.backend
        return Opener(self.store, self.engine, here.node, self.guard, backend, here.home)

    def require_own(self, what: str, volume: Volume) -> None:
        """Refuse what only a volume's owner may do.

        :raises VStorageError: ``not_here``
        """
        if volume.node != self.settings.node:
            raise VStorageError(
                Code.NOT_HERE,
                what,
                f"node {volume.node!r} owns it",
                f"ask that node; 'vstorage node show {volume.node}' tells whether it is alive",
            )

    def open(self, volume: Volume) -> Volume:
        """Have a volume open as its record says: read-only or writable.

        Returns the record with the epoch under which it is open. The caller holds its lock.

        :raises VStorageError: ``not_here``, another node owns it; or the engine could not open it
            (remembered until it can)
        """
        with self._guard:
            opened = self._open.get(volume.uuid)
        if opened is not None and volume.node == self.settings.node:
            if opened == volume.read_only:
                return self.finish_revert(volume)
            self.close(volume.uuid)
        return self.acquire(volume)

    def acquire(self, volume: Volume, taken: Taken | None = None) -> Volume:
        """Open a volume of this node that is not open. The caller holds its lock.

        :param taken: it was taken over just now
        :raises VStorageError: as :meth:`open`
        """
        try:
            opened = self.opener.acquire(volume, taken)
        except VStorageError as failure:
            # One that belongs to another node is not this node's trouble.
            if failure.code != Code.NOT_HERE:
                self.remember_failure(volume.uuid, failure)
            raise
        current = opened.volume
        with self._guard:
            self._open[current.uuid] = current.read_only
            self._failures.pop(current.uuid, None)
            if opened.unfinished:
                self._unfinished.add(current.uuid)
        LOG.info(
            "opened volume %s (%s) under epoch %d: %s",
            current.name,
            current.uuid,
            current.epoch,
            opened.recovered.get("recovered"),
        )
        return self.finish_revert(current)

    def finish_revert(self, volume: Volume) -> Volume:
        """Finish a revert that was begun, before anybody can write to the volume; later it would
        take what was written since. The caller holds its lock, and it is open.

        :raises VStorageError: an engine code, or the registry could not be told; it is to be
            finished still
        """
        if volume.reverting is None:
            return volume
        what = f"revert volume {volume.name!r}"
        if volume.attachments:
            # Nobody can attach it before this is done, but in releases that did not look.
            LOG.warning("volume %s is in use: a revert that was begun is given up", volume.name)
        else:
            try:
                self.engine.revert_volume(volume.uuid, volume.reverting)
            except VStorageError as failure:
                if failure.code != "no_snapshot":
                    raise
                LOG.warning("a revert of volume %s is given up: %s", volume.name, failure)
        return self.update(what, volume, reverting=None)

    def is_open(self, uuid: str) -> bool:
        """Whether the engine has the volume open."""
        with self._guard:
            return uuid in self._open

    def unfinished(self) -> set[str]:
        """The volumes (UUIDs) that were opened with snapshots half made or half deleted."""
        with self._guard:
            return set(self._unfinished)

    def set_unfinished(self, uuid: str, unfinished: bool) -> None:
        """Somebody finishes those of a volume now, or could not."""
        with self._guard:
            if unfinished:
                self._unfinished.add(uuid)
            else:
                self._unfinished.discard(uuid)

    def unpurged(self) -> set[str]:
        """The volumes (UUIDs) in which deletions that were decided could not be finished."""
        with self._guard:
            return set(self._unpurged)

    def set_unpurged(self, uuid: str, unpurged: bool) -> None:
        """Deletions in a volume could not be finished, or are no longer to be."""
        with self._guard:
            if unpurged:
                self._unpurged.add(uuid)
            else:
                self._unpurged.discard(uuid)

    def opened(self) -> list[str]:
        """The volumes that the engine has open (UUIDs)."""
        with self._guard:
            return list(self._open)

    def close(self, uuid: str, moved_to: str | None = None) -> bool:
        """Close a volume if it is open. The caller holds its lock.

        Returns whether everything of it is known to be on the backend.

        :param moved_to: "ADDRESS:PORT" where its Edges are told to look for it
        """
        if not self.is_open(uuid):
            return False
        saved = self.engine.close_volume(uuid, moved_to)
        with self._guard:
            self._open.pop(uuid, None)
        return saved

    def delete(self, uuid: str) -> None:
        """Have the engine delete a volume, open or not. The caller holds its lock."""
        volume = self.store.volume(uuid)
        self.engine.delete_volume(uuid)
        if volume is not None:
            self.drop_log(volume)
        with self._guard:
            self._open.pop(uuid, None)

    def drop_log(self, volume: Volume) -> None:
        """Have the node that keeps a volume's log forget it, if it can be reached."""
        dtl = self.opener.dtl_spec(volume)
        if dtl is None:
            return
        try:
            self.engine.drop_tail(volume.uuid, volume.epoch, dtl.address)
        except VStorageError as failure:
            LOG.warning("the log of volume %s stays on %s: %s", volume.uuid, dtl.node, failure)

    def remember_failure(self, uuid: str, failure: VStorageError) -> None:
        """Keep what is wrong with a volume for `status`."""
        LOG.error("volume %s: %s", uuid, failure)
        with self._guard:
            self._failures[uuid] = failure

    def forget_failure(self, uuid: str) -> None:
        """What was wrong with a volume is over."""
        with self._guard:
            self._failures.pop(uuid, None)

    def failures(self) -> dict[str, VStorageError]:
        """What is wrong with which volumes (UUID)."""
        with self._guard:
            return dict(self._failures)

    def update(self, what: str, volume: Volume, **changes: Any) -> Volume:
        """Store what a verb changes in a volume's record, as :meth:`swap`.

        :raises VStorageError: ``busy``, somebody else changed the same
        """
        try:
            return self.swap(volume, **changes)
        except Conflict as conflict:
            why = f"somebody else changed its record at the same time ({conflict})"
            raise VStorageError(Code.BUSY, what, why, "try again") from conflict

    def swap(self, volume: Volume, **changes: Any) -> Volume:
        """Change some fields of a volume's record. The caller holds its lock.

        The others stay as whoever changes them meanwhile wants them: this node's own threads,
        which record what becomes of the volume's DTL, and nodes that attach it.

        :param volume: the record as the caller knows it
        :raises Conflict: somebody else changed the same fields, or it has another owner by now
        """
        mine = ("node", "epoch", "state", *changes)
        current = volume
        while True:
            changed = replace(current, **changes)
            try:
                return replace(changed, version=self.store.commit(put(changed)))
            except Conflict:
                found = self.store.volume(volume.uuid)
                if found is None or found.version == current.version:
                    raise
                if any(getattr(found, name) != getattr(volume, name) for name in mine):
                    raise
                current = found
