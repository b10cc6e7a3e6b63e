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

import pytest
from openstack import exceptions

from tests.openstack.conftest import Made, remove_all
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import ZONES
from tests.openstack.nodes import NodeView, traces
from tests.openstack.user import Unexpected, User

ZONE = ZONES[0]
DAEMON, COMPUTE = f"vstorage-daemon-{ZONE.name}", f"nova-{ZONE.hypervisor}"
#: after a broker's end its clients take their time: not in CI
VICTIMS = (DAEMON, COMPUTE, "cinder-volume", pytest.param("rabbitmq", marks=pytest.mark.slow))
#: how long OpenStack may try by itself before the operator steps in: its calls end after 60 s
_SETTLE_SECONDS = 75.0
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
        """Tell whether the daemon serves the volume."""
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
        attachments = self._user.cloud.compute.volume_attachments(self._server)
        return any(one.volume_id == self.volume for one in attachments)

    def settled(self) -> bool:
        """Wait until OpenStack calls the volume attached or not; tell whether it does."""
        try:
            self._user.wait_volume(self.volume, "available", "in-use", seconds_max=_SETTLE_SECONDS)
        except Unexpected:
            return False
        return True

    def detach_for_good(self) -> None:
        """What an operator does: reset what is stuck, and detach."""
        storage = self._user.cloud.block_storage
        settled = self.settled()
        if self.listed_by_nova():
            # Cinder may have finished what Nova has not written down: Nova then refuses to go on
            # until Cinder calls the volume attached again. No driver can change that.
            status = storage.get_volume(self.volume).status
            if not settled or status != "in-use":
                storage.reset_volume_status(
                    self.volume, "in-use", attach_status="attached", migration_status="none"
                )
            self._user.detach(self._server, self.volume)
        else:
            for attachment in storage.attachments(details=True, all_projects=True):
                if attachment.volume_id == self.volume:
                    storage.delete_attachment(attachment.id)
            if not settled:
                storage.reset_volume_status(
                    self.volume, "available", attach_status="detached", migration_status="none"
                )
            self._user.wait_volume(self.volume, "available")


@pytest.fixture
def interruption(
    cloud: Cloud, user: User, nodes: list[NodeView], server: str
) -> Iterator[Interruption]:
    """A volume of its own for each case; afterwards nothing of it may be left."""
    before = traces(nodes)
    volume = Made(user, f"interrupted-{time.monotonic_ns()}").volume(availability_zone=ZONE.name)
    yield Interruption(cloud, user, nodes[0], server, volume)
    user.delete_volume(volume)
    assert traces(nodes) == before


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
    verb: str, moment: str, victim: str, interruption: Interruption, user: User, server: str
) -> None:
    if (verb, moment, victim) == ("attach", "done by the daemon", COMPUTE):
        # Nova then has a record without connection information, which none of its verbs can
        # remove ("Could not find a handler for None volume"), whichever the driver.
        pytest.skip("Nova 34 cannot detach what nova-compute did not write down")
    volume = interruption.volume
    if verb == "detach":
        user.attach(server, volume)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(interruption.ask, verb)
        interruption.kill_at(moments(verb, interruption)[moment], victim, asked)
    interruption.detach_for_good()
    user.attach(server, volume)
    user.detach(server, volume)
    tick = user.tick(server)
    user.wait_tick_after(server, tick)
