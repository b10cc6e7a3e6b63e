"""What the verbs of one host share: engine, registry, Edge, and which volumes are open here.

Every opening first raises the volume's epoch in the registry by compare-and-swap, and only then
asks the engine: an engine that opened with an older epoch can be told apart for ever.

A volume that cannot be opened is remembered with its error. It harms nobody else; verbs that
need it open answer with that error, and `vstorage status` lists it.
"""

from __future__ import annotations

import datetime
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ovs_daemon.control.locks import Locks
from ovs_daemon.control.records import State, Volume
from ovs_daemon.control.store import Store, put
from ovs_daemon.control.topology import ALL_ROLES
from ovs_daemon.edge import EdgeClient
from ovs_daemon.engine import EngineClient, OpenSpec
from ovs_daemon.errors import Code, VStorageError, unknown_volume
from ovs_daemon.policy.model import DtlMode, Role
from ovs_daemon.registry import retry

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
    """

    domain_configured: bool = False
    recovery_domain: str | None = None
    roles: tuple[Role, ...] = ALL_ROLES
    addresses: tuple[tuple[str, str], ...] = ()
    release: str = ""
    instance: str = ""


@dataclass(frozen=True)
class Settings:
    """What the configuration says to the verbs.

    :param node: name of this host
    :param sco_size: bytes of data in a SCO of a new volume
    :param socket_owner: "uid:gid" of guests' sockets, None to leave them
    :param socket_mode: permission bits of guests' sockets
    :param dtl_mode: of new volumes
    :param domain: name of the Domain in which this host registers; where it is, says its node
    :param availability_zone: OpenStack's name for a Domain that this host has to make
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
        self.locks = Locks()
        # Attaching, detaching and telling a restarted Edge what it should serve take turns.
        self.edge_lock = threading.RLock()
        self._guard = threading.Lock()
        self._open: dict[str, bool] = {}
        self._failures: dict[str, VStorageError] = {}

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

    def open(self, volume: Volume) -> Volume:
        """Have a volume open as its record says: read-only or writable.

        Returns the record with the epoch under which it is open. The caller holds its lock.

        :raises VStorageError: ``not_here``, another node owns it; or the engine could not open it
            (remembered until it can)
        """
        if volume.node != self.settings.node:
            raise VStorageError(
                Code.NOT_HERE,
                f"open volume {volume.name!r}",
                f"node {volume.node!r} owns it",
                f"use it there; 'vstorage node show {volume.node}' tells whether it is alive",
            )
        with self._guard:
            opened = self._open.get(volume.uuid)
        if opened == volume.read_only:
            return volume
        if opened is not None:
            self.close(volume.uuid)
        current = self._raise_epoch(volume)
        try:
            answer = self.engine.open_volume(self._open_spec(current))
            self._limit(current)
        except VStorageError as failure:
            self.remember_failure(current.uuid, failure)
            raise
        with self._guard:
            self._open[current.uuid] = current.read_only
            self._failures.pop(current.uuid, None)
        LOG.info(
            "opened volume %s (%s) under epoch %d: %s",
            current.name,
            current.uuid,
            current.epoch,
            answer.get("recovered"),
        )
        return current

    def _limit(self, volume: Volume) -> None:
        """Apply the limits of a volume that was just opened; without them it is not served."""
        if volume.limits is None:
            return
        try:
            self.engine.set_qos(volume.uuid, volume.limits)
        except VStorageError:
            self.engine.close_volume(volume.uuid)
            raise

    def is_open(self, uuid: str) -> bool:
        """Whether the engine has the volume open."""
        with self._guard:
            return uuid in self._open

    def close(self, uuid: str) -> None:
        """Close a volume if it is open. The caller holds its lock."""
        if self.is_open(uuid):
            self.engine.close_volume(uuid)
            with self._guard:
                self._open.pop(uuid, None)

    def delete(self, uuid: str) -> None:
        """Have the engine delete a volume, open or not. The caller holds its lock."""
        self.engine.delete_volume(uuid)
        with self._guard:
            self._open.pop(uuid, None)

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

    def _raise_epoch(self, volume: Volume) -> Volume:
        what = f"open volume {volume.name!r}"

        def attempt() -> Volume:
            found = self.store.volume(volume.uuid)
            if found is None:
                raise unknown_volume(what, volume.name)
            raised = replace(found, epoch=found.epoch + 1)
            return replace(raised, version=self.store.commit(put(raised)))

        return retry(what, attempt)

    def _open_spec(self, volume: Volume) -> OpenSpec:
        existing = (State.AVAILABLE, State.HIDDEN)
        snapshots = self.store.snapshots(volume.uuid)
        return OpenSpec(
            uuid=volume.uuid,
            size=volume.size,
            epoch=volume.epoch,
            read_only=volume.read_only,
            ancestors=volume.ancestors,
            parent=volume.parent,
            snapshots=tuple(one.uuid for one in snapshots if one.state in existing),
            sco_size=volume.sco_size,
        )
