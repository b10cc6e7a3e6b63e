"""kill -9 of what takes part in an attach or detach, at its worst points.

Nobody repairs anything: when the victim is back, OpenStack comes to agree by itself on who has the
volume; then it can be detached, attached, detached and deleted by a user's verbs, and nothing of it
is left on the node.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest
from openstack import exceptions

from tests.openstack.conftest import Made, remove_all
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import ZONES
from tests.openstack.lab.services import daemon_of
from tests.openstack.nodes import NodeView, traces, traces_in_the_end
from tests.openstack.user import SECONDS_MAX, Unexpected, User

ZONE = ZONES[0]
#: of our daemons the one through which the server's host attaches; the death of the volume's owner
#: is another story (`test_takeover.py`)
DAEMON, COMPUTE = daemon_of(ZONE.hypervisor), f"nova-{ZONE.hypervisor}"
VICTIMS = (DAEMON, COMPUTE, "cinder-volume", "rabbitmq")
#: after a broker's end its clients take their time: not in CI
SLOW = ("rabbitmq",)
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

    def in_guest(self) -> bool:
        """Tell whether libvirt says that the server has the disk."""
        return self.volume in self._cloud.services.virsh(ZONE, "dumpxml", self._server)

    def attachments(self) -> list[str]:
        """The states of Cinder's attachments of the volume."""
        every = self._user.cloud.block_storage.attachments(details=True, all_projects=True)
        return [str(one.status) for one in every if one.volume_id == self.volume]

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

    def end(self) -> None:
        """Wait until Cinder and Nova agree on who has the volume, and take it from the server."""
        self._user.wait_agreed(self._server, self.volume, SECONDS_MAX)
        if self._user.listed(self._server, self.volume):
            self._user.detach(self._server, self.volume)
            self._user.wait_unlisted(self._server, self.volume)


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
    """When to kill: at once, and when somebody has just done his part."""
    found = {
        "asked": lambda: True,
        "done by the daemon": lambda: case.attached_on_node() == (verb == "attach"),
    }
    if verb == "attach":
        return found | {
            "answered by Cinder": lambda: case.attachments() == ["attaching"],
            "given to the guest": case.in_guest,
        }
    return found | {
        "taken from the guest": lambda: not case.in_guest(),
        "ended by Cinder": lambda: case.attachments() == [],
    }


#: nova-compute does one step after the other: it is killed after each
NOVA_MOMENTS = [
    ("attach", "answered by Cinder"),
    ("attach", "given to the guest"),
    ("detach", "taken from the guest"),
    ("detach", "ended by Cinder"),
]
CASES = [
    *itertools.product(("attach", "detach"), ("asked", "done by the daemon"), VICTIMS),
    *((verb, moment, COMPUTE) for verb, moment in NOVA_MOMENTS),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("verb", "moment", "victim"),
    [pytest.param(*case, marks=pytest.mark.slow if case[2] in SLOW else ()) for case in CASES],
)
def test_killed_meanwhile(
    verb: str,
    moment: str,
    victim: str,
    interruption: Interruption,
    user: User,
    server: str,
) -> None:
    volume = interruption.volume
    if verb == "detach":
        user.attach(server, volume)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(interruption.ask, verb)
        interruption.kill_at(moments(verb, interruption)[moment], victim, asked)
    interruption.end()
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
    # What Nova's end of the server has deleted at Cinder is over.
    user.wait_volume(volume, "available")
    user.remove([], [root, volume])
    assert traces_in_the_end(nodes, before) == before


def test_what_nova_does_not_know_yet_is_given_back(
    made: Made, cloud: Cloud, user: User, nodes: list[NodeView]
) -> None:
    """nova-compute has begun, and waits for Cinder to tell how the volume is connected: Nova's own
    detach cannot end that ("Could not find a handler for None volume"), whatever the driver."""
    root = made.bootable(availability_zone=ZONE.name)
    server = made.server(root, ZONE.name)
    volume = made.volume(availability_zone=ZONE.name)
    case = Interruption(cloud, user, nodes[0], server, volume)
    cloud.processes.stop("cinder-volume")
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(case.ask, "attach")
            case.kill_at(lambda: user.began(server, "compute_attach_volume"), COMPUTE, asked)
    finally:
        cloud.restart_and_wait(["cinder-volume"])
    case.end()
    user.attach(server, volume)
    user.detach(server, volume)
