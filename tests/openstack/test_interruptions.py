"""kill -9 of what takes part in an attach or detach, at its worst points.

Whatever OpenStack makes of it, no harm may remain: after the victim is back, and an operator has
reset what OpenStack itself says is stuck, the volume can be detached, attached, detached and
deleted, and nothing of it is left on the node.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from openstack import exceptions

from tests.openstack.conftest import OPERATOR, Made, remove_all
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import ZONES
from tests.openstack.lab.services import daemon_of
from tests.openstack.nodes import NodeView, traces, traces_in_the_end
from tests.openstack.user import Unexpected, User

ZONE = ZONES[0]
#: of our daemons the one through which the server's host attaches; the death of the volume's owner
#: is another story (`test_takeover.py`)
DAEMON, COMPUTE = daemon_of(ZONE.hypervisor), f"nova-{ZONE.hypervisor}"
#: after a broker's end its clients take their time: not in CI
VICTIMS = (DAEMON, COMPUTE, "cinder-volume", pytest.param("rabbitmq", marks=pytest.mark.slow))
#: how long OpenStack may try by itself before the operator steps in: its calls end after 60 s;
#: of what a killed compute service had begun nobody goes on with anything
_OTHERS_SETTLE_SECONDS = 75.0
_SETTLE_SECONDS = {COMPUTE: 30.0}
_MOMENT_SECONDS_MAX = 60.0
_LOOK_SECONDS = 0.01


@pytest.fixture(scope="module")
def server(user: User) -> Iterator[str]:
    """A running server in the zone that is interrupted."""
    remove_all(user)
    made = Made(user, "interrupted")
    root = made.bootable(availability_zone=ZONE.name)
    yield made.server(root, ZONE.name)
    remove_all(user)


class Interruption:
    """One verb on one volume, and a victim that is killed at a moment of it."""

    def __init__(self, cloud: Cloud, user: User, node: NodeView, server: str, volume: str) -> None:
        self._cloud = cloud
        self._user = user
        self._node = node
        self._server = server
        self.volume = volume

    def attached_on_node(self) -> bool:
        """Tell whether the host's daemon serves the volume."""
        return bool(self._node.volume(self.volume)["attachments"])

    def ask(self, verb: str) -> None:
        """Ask Nova to attach or detach; what becomes of it is seen later."""
        compute = self._user.cloud.compute
        # Nova cannot always answer when what it needs was killed.
        with suppress(exceptions.SDKException):
            if verb == "attach":
                compute.create_volume_attachment(self._server, volume_id=self.volume)
            else:
                compute.delete_volume_attachment(self.volume, self._server)

    def kill_at(self, moment: Callable[[], bool], victim: str, asked: Future[None]) -> None:
        """Kill the victim when the moment has come, and start it again."""
        deadline = time.monotonic() + _MOMENT_SECONDS_MAX
        while not moment():
            if time.monotonic() > deadline:
                raise Unexpected(f"the moment to kill {victim} never came")
            time.sleep(_LOOK_SECONDS)
        if victim == "rabbitmq":
            self._cloud.infrastructure.restart_rabbitmq()
        else:
            self._cloud.restart_and_wait([victim], signal.SIGKILL)
        asked.result()

    def listed_by_nova(self) -> bool:
        """Tell whether Nova counts the volume as the server's."""
        return self._user.listed(self._server, self.volume)

    def _known_to_cinder(self) -> list[Any]:
        """Cinder's attachments of the volume."""
        every = self._user.cloud.block_storage.attachments(details=True, all_projects=True)
        return [one for one in every if one.volume_id == self.volume]

    def settled(self, seconds_max: float) -> bool:
        """Wait until Cinder and Nova agree on who has the volume; tell whether they do."""
        try:
            self._user.wait_agreed(self._server, self.volume, seconds_max)
        except Unexpected:
            return False
        return True

    def detach_for_good(self, settle_seconds: float) -> list[str]:
        """What an operator does: reset what is stuck, and detach.

        :return: what it took beyond a user's verbs
        """
        storage = self._user.cloud.block_storage
        steps = []
        settled = self.settled(settle_seconds)
        if self.listed_by_nova():
            # Cinder may have finished what Nova has not written down: Nova then refuses to go on
            # until Cinder calls the volume attached again. No driver can change that.
            status = storage.get_volume(self.volume).status
            made = None
            if not self._known_to_cinder():
                # Cinder calls no volume in use that has no attachment.
                steps.append("volume attachment create, and delete when Nova is done")
                made = storage.create_attachment(self.volume, instance=self._server)
            if not settled:
                steps.append(f"volume set --state in-use (it was {status})")
                storage.reset_volume_status(
                    self.volume, "in-use", attach_status="attached", migration_status="none"
                )
            self._user.cloud.compute.delete_volume_attachment(self.volume, self._server)
            self._user.wait_unlisted(self._server, self.volume)
            if made is not None:
                storage.delete_attachment(made.id)
        else:
            for attachment in self._known_to_cinder():
                steps.append("volume attachment delete")
                storage.delete_attachment(attachment.id)
            if not settled:
                steps.append("volume set --state available")
                storage.reset_volume_status(
                    self.volume, "available", attach_status="detached", migration_status="none"
                )
        self._user.wait_volume(self.volume, "available")
        return steps


@pytest.fixture
def interruption(
    cloud: Cloud, user: User, nodes: list[NodeView], server: str
) -> Iterator[Interruption]:
    """A volume of its own for each case; afterwards nothing of it may be left."""
    before = traces(nodes)
    volume = Made(user, f"interrupted-{time.monotonic_ns()}").volume(availability_zone=ZONE.name)
    yield Interruption(cloud, user, nodes[0], server, volume)
    user.delete_volume(volume)
    assert traces_in_the_end(nodes, before) == before


def moments(verb: str, case: Interruption) -> dict[str, Callable[[], bool]]:
    """When to kill: at once, and when the daemon has just done its part."""
    served = verb == "attach"
    return {
        "asked": lambda: True,
        "done by the daemon": lambda: case.attached_on_node() == served,
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("moment", ["asked", "done by the daemon"])
@pytest.mark.parametrize("verb", ["attach", "detach"])
def test_killed_meanwhile(
    verb: str,
    moment: str,
    victim: str,
    interruption: Interruption,
    user: User,
    server: str,
    record_property: Callable[[str, object], None],
) -> None:
    volume = interruption.volume
    if verb == "detach":
        user.attach(server, volume)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(interruption.ask, verb)
        interruption.kill_at(moments(verb, interruption)[moment], victim, asked)
    for step in interruption.detach_for_good(_SETTLE_SECONDS.get(victim, _OTHERS_SETTLE_SECONDS)):
        record_property(OPERATOR, step)
    user.attach(server, volume)
    user.detach(server, volume)
    tick = user.tick(server)
    user.wait_tick_after(server, tick)


def test_a_server_whose_attach_was_killed_can_be_deleted(
    made: Made, cloud: Cloud, user: User, nodes: list[NodeView]
) -> None:
    before = traces(nodes)
    root = made.bootable(availability_zone=ZONE.name)
    server = made.server(root, ZONE.name)
    volume = made.volume(availability_zone=ZONE.name)
    case = Interruption(cloud, user, nodes[0], server, volume)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(case.ask, "attach")
        case.kill_at(case.attached_on_node, COMPUTE, asked)
    user.delete_server(server)
    # Nobody resets anything: what Nova's end of the server has deleted at Cinder is over.
    user.wait_volume(volume, "available")
    user.remove([], [root, volume])
    assert traces_in_the_end(nodes, before) == before


def test_what_nova_does_not_know_yet_goes_with_the_server(
    made: Made, cloud: Cloud, user: User, nodes: list[NodeView]
) -> None:
    """The one kill that only a server's end repairs, with any driver: nova-compute has begun, and
    waits for Cinder to tell how the volume is connected. Nova's record of it stays without that,
    and DriverVolumeBlockDevice.driver_detach gives {} to the libvirt driver, which finds no volume
    driver for it (VolumeDriverNotFound, "Could not find a handler for None volume")."""
    before = traces(nodes)
    compute, storage = user.cloud.compute, user.cloud.block_storage
    root = made.bootable(availability_zone=ZONE.name)
    server = made.server(root, ZONE.name)
    volume = made.volume(availability_zone=ZONE.name)
    case = Interruption(cloud, user, nodes[0], server, volume)
    cloud.processes.stop("cinder-volume")
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(case.ask, "attach")
            case.kill_at(lambda: user.event(server, "compute_attach_volume"), COMPUTE, asked)
    finally:
        cloud.restart_and_wait(["cinder-volume"])
    case.settled(_SETTLE_SECONDS[COMPUTE])
    assert storage.get_volume(volume).status in ("reserved", "attaching")
    storage.reset_volume_status(volume, "in-use", attach_status="attached", migration_status="none")
    compute.delete_volume_attachment(volume, server)
    assert user.wait_event(server, "compute_detach_volume")["result"] == "Error"
    user.delete_server(server)
    user.wait_volume(volume, "available")
    user.remove([], [root, volume])
    assert traces_in_the_end(nodes, before) == before
