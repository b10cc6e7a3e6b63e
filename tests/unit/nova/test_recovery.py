"""A nova-compute that starts finds what a killed one has left: Nova's records, in Nova's database,
a daemon of twins, and Cinder and the guest as far as they are asked."""

from __future__ import annotations

import inspect
import json
import logging
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nova.conf
import pytest
from nova import context, exception, objects, utils
from nova.compute import rpcapi, task_states, vm_states
from nova.volume import cinder

from ovs_nova import options, recovery
from ovs_nova.interrupted import Cure
from ovs_nova.recovery import DETACH_S, LONG_PAUSE_S, PAUSE_S, STILL_S, Recovery
from tests.unit.nova.conftest import Compute

pytestmark = pytest.mark.usefixtures("nova_database")

ADMIN = context.get_admin_context()


class Cinder:
    """Cinder's volumes and attachments, as Nova's volume API shows them."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}
        self.attached: dict[str, dict[str, Any]] = {}
        self.fails = False

    def get(self, context: Any, volume_id: str) -> dict[str, Any]:
        if self.fails:
            raise exception.CinderConnectionFailed(reason="nobody listens")
        if volume_id not in self.status:
            raise exception.VolumeNotFound(volume_id=volume_id)
        known = {
            one["instance"]: {"attachment_id": key}
            for key, one in self.attached.items()
            if one["volume"] == volume_id and one["status"] == "attached"
        }
        found = {"status": self.status[volume_id], "size": 1}
        return found | ({"attachments": known} if known else {})

    def attachment_get(self, context: Any, attachment_id: str) -> dict[str, Any]:
        found = self._require(attachment_id)
        if found["connection"]:
            # Nova moves the state to where the connection info is.
            told = found["connection"] | {"status": found["status"]}
            return {"id": attachment_id, "connection_info": told}
        return {"id": attachment_id, "status": found["status"], "connection_info": {}}

    def attachment_complete(self, context: Any, attachment_id: str) -> None:
        found = self._require(attachment_id)
        found["status"] = "attached"
        self.status[found["volume"]] = "in-use"

    def attachment_delete(self, context: Any, attachment_id: str) -> None:
        if attachment_id in self.attached:
            self.status[self.attached.pop(attachment_id)["volume"]] = "available"

    def roll_detaching(self, context: Any, volume_id: str) -> None:
        if self.status[volume_id] == "detaching":
            self.status[volume_id] = "in-use"

    def _require(self, attachment_id: str) -> dict[str, Any]:
        if attachment_id not in self.attached:
            raise exception.VolumeAttachmentNotFound(attachment_id=attachment_id)
        return self.attached[attachment_id]


class Requests:
    """Nova's requests to this host, which are done when ``work`` is called."""

    def __init__(self, cloud: Cloud) -> None:
        self.waiting: list[tuple[str, str, str]] = []
        self._cloud = cloud

    def detach_volume(
        self, ctxt: Any, instance: Any, volume_id: str, attachment_id: str | None = None
    ) -> None:
        self.waiting.append((instance.uuid, volume_id, str(attachment_id)))

    def work(self) -> None:
        for server, volume, attachment in self.waiting:
            self._cloud.disks[server].discard(volume)
            self._cloud.cinder.attachment_delete(ADMIN, attachment)
            objects.BlockDeviceMapping.get_by_volume_and_instance(ADMIN, volume, server).destroy()
        self.waiting.clear()


class Cloud:
    """One server on this host."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self.cinder = Cinder()
        self.requests = Requests(self)
        self.disks: dict[str, set[str]] = {}
        self.server = self.boot()

    def boot(self, **options: Any) -> str:
        """A server, and its guest."""
        given = {"host": nova.conf.CONF.host, "vm_state": vm_states.ACTIVE} | options
        made = objects.Instance(ADMIN, uuid=str(uuid.uuid4()), project_id="p", user_id="u", **given)
        made.create()
        self.disks[str(made.uuid)] = set()
        return str(made.uuid)

    def volume(
        self, status: str, attachment: str | None, connected: bool, in_guest: bool, **record: Any
    ) -> str:
        """A volume of ours that is the server's, as far as the arguments say."""
        made, mark = str(uuid.uuid4()), str(uuid.uuid4())
        data = self._compute.volume(f"volume-{made}")
        info = {"driver_volume_type": "ovs", "data": data, "serial": made}
        server = record.pop("server", self.server)
        self.cinder.status[made] = status
        if attachment is not None:
            self.cinder.attached[mark] = {
                "volume": made,
                "instance": server,
                "status": attachment,
                "connection": {} if attachment == "reserved" else info,
            }
        given = {"connection_info": json.dumps(info) if connected else None} | record
        objects.BlockDeviceMapping(
            ADMIN, instance_uuid=server, volume_id=made, attachment_id=mark,
            source_type="volume", destination_type="volume", **given,
        ).create()  # fmt: skip
        if in_guest:
            self.disks[server].add(made)
        return made

    def record(self, volume: str, server: str | None = None) -> Any:
        """Nova's record; None if there is none."""
        try:
            return objects.BlockDeviceMapping.get_by_volume_and_instance(
                ADMIN, volume, server or self.server
            )
        except exception.VolumeBDMNotFound:
            return None

    def attachments_of(self, volume: str) -> list[str]:
        """The states of Cinder's attachments of a volume."""
        return [one["status"] for one in self.cinder.attached.values() if one["volume"] == volume]

    def recovery(self) -> Recovery:
        """That of a nova-compute which has just been started."""
        return Recovery(self.cinder, self.requests, self.disks.get, recovery.one_of_ours)

    def recover(self) -> None:
        """Do all that one nova-compute does after its start."""
        found = self.recovery()
        assert found.round(0.0) is None or found.round(STILL_S) is None


@pytest.fixture
def cloud(compute: Compute) -> Iterator[Cloud]:
    # The database is that of all tests; each has a host of its own.
    nova.conf.CONF.set_override("host", f"host-{uuid.uuid4()}")
    yield Cloud(compute)
    nova.conf.CONF.clear_override("host")


@pytest.mark.parametrize(
    ("ours", "upstream"), [(Cinder, cinder.API), (Requests, rpcapi.ComputeAPI)]
)
def test_upstream_is_asked_what_it_understands(ours: type[Any], upstream: type[Any]) -> None:
    verbs = [name for name in vars(ours) if not name.startswith("_") and name != "work"]
    assert verbs
    for name in verbs:
        mine = list(inspect.signature(getattr(ours, name)).parameters)
        # Decorators of Nova's hide names, so that it is asked by position, or by all names.
        theirs = inspect.signature(inspect.unwrap(getattr(upstream, name))).parameters
        if not any(one.kind is one.VAR_POSITIONAL for one in theirs.values()):
            assert list(theirs)[: len(mine)] == mine


def test_what_the_guest_has_is_attached(cloud: Cloud, compute: Compute) -> None:
    volume = cloud.volume("attaching", "attaching", connected=True, in_guest=True)
    assert cloud.recovery().round(0.0) is None
    assert (cloud.cinder.status[volume], cloud.attachments_of(volume)) == ("in-use", ["attached"])
    # What Nova knows when it has attached a volume: extending needs it.
    data = json.loads(cloud.record(volume).connection_info)["data"]
    assert data["socket"].endswith(f"/nbd/{data['volume_uuid']}.sock")
    assert cloud.record(volume).volume_size == 1
    assert [mode for _, mode in compute.holders(f"volume-{volume}")] == ["edge"]
    before = json.loads(cloud.record(volume).connection_info)
    cloud.recover()
    assert json.loads(cloud.record(volume).connection_info) == before


@pytest.mark.parametrize("state", ["reserved", "attaching"])
def test_what_was_only_reserved_is_given_back(cloud: Cloud, state: str) -> None:
    volume = cloud.volume(state, state, connected=False, in_guest=False)
    found = cloud.recovery()
    # It might be asked for just now.
    assert found.round(0.0) == PAUSE_S
    assert found.round(STILL_S / 2) == PAUSE_S
    assert cloud.record(volume) is not None
    assert found.round(STILL_S) is None
    assert (cloud.cinder.status[volume], cloud.attachments_of(volume)) == ("available", [])
    assert cloud.record(volume) is None
    cloud.recover()


def test_what_moves_on_by_itself_is_left_alone(cloud: Cloud) -> None:
    volume = cloud.volume("reserved", "reserved", connected=False, in_guest=False)
    found = cloud.recovery()
    assert found.round(0.0) == PAUSE_S
    record = cloud.record(volume)
    record.connection_info = json.dumps({"driver_volume_type": "ovs", "data": {}})
    record.save()
    cloud.cinder.attachment_complete(ADMIN, record.attachment_id)
    assert found.round(STILL_S) is None
    assert (cloud.cinder.status[volume], cloud.requests.waiting) == ("in-use", [])


@pytest.mark.parametrize(
    ("volume_state", "attachment", "in_guest"),
    [
        ("available", None, False),
        ("available", None, True),
        ("detaching", "attached", False),
        ("attaching", "attaching", False),
    ],
)
def test_nova_detaches_what_is_on_this_host_still(
    cloud: Cloud, volume_state: str, attachment: str | None, in_guest: bool
) -> None:
    volume = cloud.volume(volume_state, attachment, connected=True, in_guest=in_guest)
    mark = cloud.record(volume).attachment_id
    found = cloud.recovery()
    assert found.round(0.0) == PAUSE_S
    assert cloud.requests.waiting == []
    # Asked once, and again when it was lost.
    wanted = [(cloud.server, volume, mark)]
    for now in (STILL_S, STILL_S + PAUSE_S, STILL_S + DETACH_S - PAUSE_S):
        assert found.round(now) == PAUSE_S
        assert cloud.requests.waiting == wanted
    assert found.round(STILL_S + DETACH_S) == PAUSE_S
    assert cloud.requests.waiting == wanted * 2
    cloud.requests.waiting.pop()
    cloud.requests.work()
    assert found.round(STILL_S + DETACH_S + PAUSE_S) is None
    assert (cloud.cinder.status[volume], cloud.record(volume)) == ("available", None)
    actions = objects.InstanceActionList.get_by_instance_uuid(ADMIN, cloud.server)
    assert {one.action for one in actions} == {"detach_volume"}


def test_what_the_guest_did_not_let_go_may_be_detached_again(cloud: Cloud) -> None:
    volume = cloud.volume("detaching", "attached", connected=True, in_guest=True)
    cloud.recover()
    assert (cloud.cinder.status[volume], cloud.attachments_of(volume)) == ("in-use", ["attached"])
    assert cloud.record(volume) is not None
    assert cloud.requests.waiting == []


def test_what_is_in_order_is_left_alone(cloud: Cloud) -> None:
    volume = cloud.volume("in-use", "attached", connected=True, in_guest=True)
    root = cloud.volume("available", None, connected=True, in_guest=True, boot_index=0)
    gone = cloud.volume("in-use", "attached", connected=True, in_guest=True)
    del cloud.cinder.status[gone]
    assert cloud.recovery().round(0.0) is None
    assert all(cloud.record(one) is not None for one in (volume, root, gone))
    assert cloud.requests.waiting == []


def test_volumes_of_others_are_not_touched(cloud: Cloud) -> None:
    other = json.dumps({"driver_volume_type": "rbd", "data": {}})
    rbd = cloud.volume("available", None, connected=True, in_guest=False, connection_info=other)
    unknown = str(uuid.uuid4())
    cloud.cinder.status[unknown] = "reserved"
    mark = str(uuid.uuid4())
    cloud.cinder.attached[mark] = {
        "volume": unknown, "instance": cloud.server, "status": "reserved", "connection": {},
    }  # fmt: skip
    objects.BlockDeviceMapping(
        ADMIN, instance_uuid=cloud.server, volume_id=unknown, attachment_id=mark,
        source_type="volume", destination_type="volume",
    ).create()  # fmt: skip
    assert cloud.recovery().round(0.0) is None
    assert cloud.record(rbd) is not None
    assert cloud.attachments_of(unknown) == ["reserved"]


def test_servers_of_others_are_not_touched(cloud: Cloud) -> None:
    away = cloud.boot(host="elsewhere")
    resized = cloud.boot(vm_state=vm_states.RESIZED)
    kept = [
        (server, cloud.volume("attaching", "attaching", True, True, server=server))
        for server in (away, resized)
    ]
    lost = cloud.boot()
    del cloud.disks[lost]
    kept.append((lost, cloud.volume("available", None, True, False, server=lost)))
    assert cloud.recovery().round(0.0) is None
    assert all(cloud.record(volume, server) is not None for server, volume in kept)
    assert cloud.requests.waiting == []


def test_a_server_that_is_at_something_comes_later(cloud: Cloud) -> None:
    volume = cloud.volume("attaching", "attaching", connected=True, in_guest=True)
    server = objects.Instance.get_by_uuid(ADMIN, cloud.server)
    server.task_state = task_states.REBOOTING
    server.save()
    found = cloud.recovery()
    assert found.round(0.0) == LONG_PAUSE_S
    assert found.left == [(volume, cloud.server, Cure.LATER)]
    assert cloud.cinder.status[volume] == "attaching"
    server.task_state = None
    server.save()
    assert found.round(STILL_S) is None
    assert cloud.cinder.status[volume] == "in-use"


class Waiting(logging.Handler):
    """Sets ``seen`` when another thread is about to wait for a lock, which oslo's locks log."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.seen = threading.Event()
        self._name = name
        self._holder = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.thread != self._holder and f'Acquiring lock "{self._name}"' in text:
            self.seen.set()


def test_who_attaches_now_is_waited_for(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    """In the midst of an attach everything looks as if it was interrupted."""
    volume = cloud.volume("attaching", "attaching", connected=True, in_guest=True)
    mark = cloud.record(volume).attachment_id
    found = cloud.recovery()
    looking = threading.Thread(target=found.round, args=(0.0,))
    waiting = Waiting(cloud.server)
    locks = logging.getLogger("oslo_concurrency.lockutils")

    def attach() -> None:
        looking.start()
        assert waiting.seen.wait(60)
        assert cloud.cinder.status[volume] == "attaching"
        # The attach fails, and Nova undoes it.
        cloud.disks[cloud.server].discard(volume)
        cloud.cinder.attachment_delete(ADMIN, mark)
        cloud.record(volume).destroy()

    with caplog.at_level(logging.DEBUG, locks.name):
        locks.addHandler(waiting)
        try:
            utils.synchronized(cloud.server)(attach)()
        finally:
            looking.join(60)
            locks.removeHandler(waiting)
    assert (cloud.cinder.status[volume], cloud.attachments_of(volume)) == ("available", [])
    assert found.round(PAUSE_S) is None


def test_cinder_is_asked_again_when_it_is_back(
    cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    volumes = [
        cloud.volume("attaching", "attaching", connected=True, in_guest=True) for _ in range(3)
    ]
    found = cloud.recovery()
    cloud.cinder.fails = True
    assert found.round(0.0) == LONG_PAUSE_S
    # It is down for all: the first has shown that.
    assert caplog.text.count("cannot see what an interrupted") == 1
    assert {volume for volume, _, _ in found.left} == set(volumes)
    cloud.cinder.fails = False
    assert found.round(LONG_PAUSE_S) is None
    assert {cloud.cinder.status[volume] for volume in volumes} == {"in-use"}


def test_nova_compute_is_waited_for() -> None:
    """Its last run's reports count, and nova-conductor may start later."""
    said: list[int | Exception | None] = [None, TimeoutError("no answer"), 7, 7, None, 8, 9]

    def reports() -> int | None:
        found = said.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    recovery.wait_until_up(reports, pause_s=0)
    assert said == [9]


@pytest.mark.parametrize(
    ("group", "option", "value"),
    [("ovs", "finish_interrupted", False), ("cinder", "auth_type", None)],
)
def test_it_does_nothing_that_is_not_wanted_or_cannot_be_done(
    group: str, option: str, value: object
) -> None:
    conf = options.register(nova.conf.CONF)
    conf.set_override("auth_type", "password", group="cinder")
    conf.set_override(option, value, group=group)
    try:
        recovery.start()
    finally:
        conf.clear_override("auth_type", group="cinder")
        conf.clear_override("finish_interrupted", group="ovs")
    assert recovery.THREAD not in {one.name for one in threading.enumerate()}


def test_libvirt_says_which_disks_a_guest_has(compute: Compute, tmp_path: Path) -> None:
    """Asked of libvirt's own test driver, where libvirt's Python module is there."""
    pytest.importorskip("libvirt")
    server, volume = str(uuid.uuid4()), str(uuid.uuid4())
    (tmp_path / "guest.xml").write_text(f"""
<domain type='test'>
  <name>guest</name><uuid>{server}</uuid><memory>8192</memory><os><type>hvm</type></os>
  <devices>
    <disk type='network' device='disk'>
      <source protocol='nbd'><host transport='unix' socket='/run/x.sock'/></source>
      <target dev='vdb' bus='virtio'/>
      <serial>{volume}</serial>
    </disk>
  </devices>
</domain>""")
    (tmp_path / "host.xml").write_text("<node><domain file='guest.xml'/></node>")
    conf = nova.conf.CONF
    conf.set_override("connection_uri", f"test://{tmp_path}/host.xml", group="libvirt")
    try:
        assert recovery.guest_disks(server) == {volume}
        assert recovery.guest_disks(str(uuid.uuid4())) is None
    finally:
        conf.clear_override("connection_uri", group="libvirt")
