"""Finishes or undoes what a killed nova-compute has left half done, when nova-compute starts.

`interrupted` says what is to be done; here is who looks, and who does it: a thread of nova-compute
that ends when nothing is left. It is one of its threads because only there Nova's own lock of a
server can be had, by which attaching, detaching and this thread take turns. Nothing else of Nova's
is used but its objects, its volume API, and its own request to detach, sent to this host.

What the lock does not cover is a request on its way: reserved, but not yet begun here. So whatever
is not certain must stand still for a while after nova-compute has reported that it works, and by
then has taken what was waiting for it. Were a request slower still, it would fail or be repeated:
no data is at stake.

Only volumes of ours are looked at, of servers of this host that are at nothing else.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nova.conf
from nova import context as nova_context
from nova import exception, objects, utils
from nova.compute import instance_actions, rpcapi, vm_states
from nova.objects.base import NovaObject
from nova.virt.libvirt import guest as libvirt_guest
from nova.volume import cinder
from oslo_log import log as logging

from ovs_daemon.client import Client
from ovs_nova import daemons, options
from ovs_nova.interrupted import Cure, Facts, cure
from ovs_nova.registration import DRIVER_TYPE
from ovs_nova.volume_driver import LibvirtOvsVolumeDriver

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

THREAD = "ovs-recovery"
#: the states of a server in which Nova attaches and detaches on its host, and in which nothing
#: else has its volumes between two hosts
_STATES = (vm_states.ACTIVE, vm_states.PAUSED, vm_states.STOPPED)
#: how long what somebody might still be at must stand still
STILL_S = 10.0
#: how long Nova may take to detach before it is asked again
DETACH_S = 120.0
PAUSE_S = 2.0
#: after a failure, or while servers are at something else, which may take hours
LONG_PAUSE_S = 30.0
_GIVE_UP_S = 3600.0


@dataclass
class _Case:
    """A volume of a server.

    :param record: the id of Nova's record: another one is another attach
    :param cure: what was to be done at the last look, and ``since`` when
    :param asked: when Nova was asked to detach
    """

    record: int
    volume: str
    server: str
    cure: Cure = Cure.NOTHING
    since: float = 0.0
    asked: float | None = None


@dataclass(frozen=True)
class _Look:
    """What one look at a case has shown."""

    cure: Cure
    record: Any = None
    server: Any = None
    size: int | None = None


class Recovery:
    """Looks at the volumes of this host's servers until nothing is left to be done.

    :param volumes: Nova's volume API
    :param compute: Nova's requests to hosts
    :param disks: serial numbers of a guest's disks; None if there is no such guest
    :param knows: tells whether a volume of Cinder is one of ours
    """

    def __init__(
        self,
        volumes: Any,
        compute: Any,
        disks: Callable[[str], set[str] | None],
        knows: Callable[[str], bool],
    ) -> None:
        self._volumes = volumes
        self._compute = compute
        self._disks = disks
        self._knows = knows
        self._cases: list[_Case] | None = None

    @property
    def left(self) -> list[tuple[str, str, Cure]]:
        """Volumes and servers of which something is still to be done, and what."""
        return [(one.volume, one.server, one.cure) for one in self._cases or []]

    def round(self, now: float) -> float | None:
        """Look at everything that is left, and do what can be done.

        :param now: seconds of a clock that only goes forward
        :return: seconds until the next round; None when nothing is left
        """
        if self._cases is None:
            self._cases = _find()
        cases, left = self._cases, []
        for number, case in enumerate(cases):
            try:
                if not self._settled(case, now):
                    left.append(case)
            except Exception:
                LOG.exception(
                    "cannot see what an interrupted attach or detach has left of volume %s at "
                    "server %s; tried again in %.0f s",
                    case.volume,
                    case.server,
                    LONG_PAUSE_S,
                )
                # Cinder may be down: then it is the same for all.
                self._cases = [*cases[number + 1 :], *left, case]
                return LONG_PAUSE_S
        self._cases = left
        if not left:
            return None
        return LONG_PAUSE_S if all(one.cure is Cure.LATER for one in left) else PAUSE_S

    def _settled(self, case: _Case, now: float) -> bool:
        found = self._look(case).cure
        if found is Cure.NOTHING:
            return True
        if found is not case.cure:
            case.cure, case.since = found, now
        # Who completes has the lock until he has done it.
        certain = found is Cure.COMPLETE
        if found is Cure.LATER or not (certain or now - case.since >= STILL_S):
            return False

        @utils.synchronized(case.server)
        def act() -> bool:
            seen = self._look(case)
            return seen.cure is case.cure and self._act(case, seen, now)

        done: bool = act()
        return done

    def _act(self, case: _Case, seen: _Look, now: float) -> bool:
        """Do it; tell whether it is done. The server's lock is held."""
        again = case.asked is not None and now - case.asked < DETACH_S
        if seen.cure is Cure.DETACH and again:
            return False
        LOG.warning(
            "nova-compute was interrupted while it attached or detached volume %s: %s",
            case.volume,
            seen.cure.value,
            instance=seen.server,
        )
        context = nova_context.get_admin_context()
        attachment = seen.record.attachment_id
        if seen.cure is Cure.COMPLETE:
            _write_down(seen)
            self._volumes.attachment_complete(context, attachment)
        elif seen.cure is Cure.ROLL_BACK:
            self._volumes.roll_detaching(context, case.volume)
        elif seen.cure is Cure.GIVE_BACK:
            self._volumes.attachment_delete(context, attachment)
            seen.record.destroy()
        elif seen.cure is Cure.DETACH:
            # Users see it among what has happened to their server.
            objects.InstanceAction.action_start(
                context, case.server, instance_actions.DETACH_VOLUME, want_result=False
            )
            self._compute.detach_volume(
                context, instance=seen.server, volume_id=case.volume, attachment_id=attachment
            )
            case.asked = now
            return False
        return True

    def _look(self, case: _Case) -> _Look:
        context = nova_context.get_admin_context()
        nothing = _Look(Cure.NOTHING)
        try:
            record = objects.BlockDeviceMapping.get_by_volume_and_instance(
                context, case.volume, case.server
            )
            server = objects.Instance.get_by_uuid(context, case.server)
            if record.id != case.record or server.host != CONF.host:
                return nothing
            if server.vm_state not in _STATES:
                return nothing
            if server.task_state is not None:
                return _Look(Cure.LATER)
            volume = self._volumes.get(context, case.volume)
        except (
            exception.VolumeBDMNotFound,
            exception.InstanceNotFound,
            exception.VolumeNotFound,
        ):
            return nothing
        facts = self._facts(context, record, volume)
        found = Cure.NOTHING if facts is None else cure(facts)
        return _Look(found, record, server, volume["size"])

    def _facts(self, context: Any, record: Any, volume: dict[str, Any]) -> Facts | None:
        """None if there is certainly nothing to do, or it is none of ours."""
        known = volume.get("attachments", {}).get(record.instance_uuid, {})
        at_cinder = known.get("attachment_id") == record.attachment_id
        written = _connection(record)
        if written and volume["status"] == "in-use" and at_cinder:
            return None
        try:
            attachment = self._volumes.attachment_get(context, record.attachment_id)
        except exception.VolumeAttachmentNotFound:
            attachment = None
        connection = written or (attachment or {}).get("connection_info")
        if connection:
            if connection.get("driver_volume_type") != DRIVER_TYPE:
                return None
        elif not self._knows(record.volume_id):
            return None
        disks = self._disks(record.instance_uuid)
        if disks is None:
            return None
        return Facts(
            connected=bool(written),
            attachment=None if attachment is None else _state(attachment),
            volume=str(volume["status"]),
            in_guest=record.volume_id in disks,
            root=record.boot_index == 0,
        )

    def run(self) -> None:
        """Wait until nova-compute works, then look until nothing is left."""
        wait_until_up(_reports)
        end = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < end:
            try:
                pause = self.round(time.monotonic())
            except Exception:
                LOG.exception("cannot list the servers of this host; tried again")
                pause = LONG_PAUSE_S
            if pause is None:
                return
            time.sleep(pause)
        for volume, server, what in self.left:
            LOG.error(
                "an interrupted attach or detach of volume %s at server %s is not finished (%s): "
                "see the messages above, mend what they name and restart nova-compute",
                volume,
                server,
                what.value,
            )


def start() -> None:
    """Recover in a thread of this process, which is nova-compute, unless configured otherwise."""
    if not options.register(CONF).ovs.finish_interrupted:
        return
    if CONF.cinder.auth_type is None:
        LOG.warning(
            "what a killed nova-compute has left of attaching and detaching volumes is not "
            "finished, because nova.conf has no credentials for Cinder: set auth_type and so on in "
            "section [cinder], as doc/openstack.md says, or [ovs] finish_interrupted = false"
        )
        return
    recovery = Recovery(cinder.API(), rpcapi.ComputeAPI(), guest_disks, one_of_ours)
    threading.Thread(target=recovery.run, name=THREAD, daemon=True).start()


def guest_disks(server: str) -> set[str] | None:
    """Serial numbers of a guest's disks, as Nova gives them; None if there is no such guest."""
    # libvirt's Python modules are on hypervisors only.
    import libvirt

    connection = libvirt.openReadOnly(CONF.libvirt.connection_uri or "qemu:///system")
    try:
        guest = libvirt_guest.Guest(connection.lookupByUUIDString(server))
        return {str(disk.serial) for disk in guest.get_all_disks()}
    except libvirt.libvirtError as failure:
        if failure.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return None
    finally:
        connection.close()


def one_of_ours(volume: str) -> bool:
    """Tell whether a daemon of this host knows a volume of Cinder, whose names have its id."""
    for socket in daemons.nodes().values():
        client = Client(socket)
        try:
            if any(volume in one["name"] for one in client.list_volumes(everything=True)):
                return True
        finally:
            client.close()
    return False


def _find() -> list[_Case]:
    """The volumes of this host's servers that Nova has attached, or begun to."""
    context = nova_context.get_admin_context()
    servers = objects.InstanceList.get_by_host(context, CONF.host, expected_attrs=[])
    records = objects.BlockDeviceMappingList.bdms_by_instance_uuid(
        context, [server.uuid for server in servers]
    )
    return [
        _Case(record.id, record.volume_id, server)
        for server, mine in records.items()
        for record in mine
        # Without an attachment Nova has not asked Cinder yet, and gives up by itself.
        if record.is_volume and record.volume_id and record.attachment_id and _may_be_ours(record)
    ]


def _may_be_ours(record: Any) -> bool:
    written = _connection(record)
    return not written or written.get("driver_volume_type") == DRIVER_TYPE


def _connection(record: Any) -> dict[str, Any]:
    """How a volume is connected, as Nova has written it down; empty if it has not."""
    return (json.loads(record.connection_info) if record.connection_info else None) or {}


def _state(attachment: dict[str, Any]) -> str:
    # Nova moves it when there is connection info.
    return str(attachment.get("status") or attachment["connection_info"].get("status"))


def _write_down(seen: _Look) -> None:
    """What Nova writes down when a server has its disk; before that it knows less."""
    connection = _connection(seen.record)
    # It is attached already, so this only says where.
    LibvirtOvsVolumeDriver(None).connect_volume(connection, seen.server)
    seen.record.connection_info = json.dumps(connection)
    if seen.record.volume_size is None:
        seen.record.volume_size = seen.size
    seen.record.save()


def wait_until_up(reports: Callable[[], int | None], pause_s: float = 1.0) -> None:
    """Return when nova-compute has reported that it works, which it does when it takes requests.

    :param reports: how often it has, ever; None while it cannot be known
    """
    first: int | None = None
    while True:
        try:
            count = reports()
        except Exception as failure:
            LOG.debug("nova-conductor does not answer yet: %s", failure)
            count = None
        if first is not None and count is not None and count > first:
            return
        first = count if first is None else first
        time.sleep(pause_s)


def _reports() -> int | None:
    if NovaObject.indirection_api is None:
        # Set by nova-compute's start; before that, objects would ask a database.
        return None
    context = nova_context.get_admin_context()
    service = objects.Service.get_by_host_and_binary(context, CONF.host, "nova-compute")
    return int(service.report_count) if service else 0
