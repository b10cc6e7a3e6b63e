"""A zone's storage node dies under a server: the other zone's goes on, and nobody sees an error."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import pytest

from tests.openstack.conftest import Made
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import ZONES
from tests.openstack.lab.processes import wait_until
from tests.openstack.nodes import NodeView, traces, traces_in_the_end
from tests.openstack.user import User

_SECONDS_MAX = 120.0
_LOOK_SECONDS = 0.3
#: writes of the guest, four a second at most, for which the node stays dead after the takeover
_TICKS_WITHOUT = 20


class Watch:
    """Asks Nova for a server's status all the time, as `openstack server show` does."""

    def __init__(self, cloud: Cloud, server: str) -> None:
        # Connections are not for several threads.
        self._user = User(cloud.lab)
        self._server = server
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch")
        self._failure: Exception | None = None
        #: every status that was seen
        self.seen: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _look(self) -> None:
        try:
            while not self._stopping.wait(_LOOK_SECONDS):
                found = self._user.cloud.compute.get_server(self._server)
                self.seen.add(f"{found.status}{found.task_state or ''}")
        # Whatever it is, whoever watches hears of it.
        except Exception as failure:
            self._failure = failure


def wait_kept(node: NodeView, volume: str, owner: str, keeper: str) -> None:
    """Wait until a node owns a volume and another one has its complete log."""

    def kept() -> bool:
        found = node.record(volume)
        dtl = found["dtl"]
        return (found["node"], dtl["node"], dtl["state"]) == (owner, keeper, "in_sync")

    wait_until(kept, f"volume {volume} on {owner} with its log on {keeper}", _SECONDS_MAX)


@pytest.mark.timeout(1200)
def test_a_storage_node_dies_under_a_server_and_comes_back(
    made: Made, cloud: Cloud, user: User, nodes: list[NodeView]
) -> None:
    before = traces(nodes)
    node, (first, second) = nodes[0], ZONES
    root, data = made.bootable(), made.volume()
    server = made.server(root, first.name)
    user.attach(server, data)
    mark = user.wait_console(server, r"GUEST: marked vdb (\S+)\n").group(1)
    for volume in (root, data):
        wait_kept(node, volume, first.storage, second.storage)
    with Watch(cloud, server) as watch:
        tick = user.tick(server)
        cloud.processes.kill(node.storage_daemon)
        for volume in (root, data):
            wait_until(
                lambda volume=volume: node.record(volume)["node"] == second.storage,  # type: ignore[misc]
                f"volume {volume} to be taken over",
                _SECONDS_MAX,
            )
        user.wait_tick_after(server, user.tick(server) + _TICKS_WITHOUT)
        # Nobody of its zone is there: Cinder finds the volume all the same.
        early = user.create_snapshot(data, made.name())
        cloud.services.start([cloud.services.find(node.storage_daemon)])
        for volume in (root, data):
            wait_kept(node, volume, second.storage, first.storage)
        user.wait_tick_after(server, user.tick(server))
    assert watch.seen == {"ACTIVE"}
    assert user.tick(server) > tick + _TICKS_WITHOUT
    go_on_with(made, user, server, data, mark)
    user.delete_snapshot(early.id)
    user.check_console(user.console(server))
    user.remove([server], [root, data])
    assert traces_in_the_end(nodes, before) == before


def go_on_with(made: Made, user: User, server: str, data: str, mark: str) -> None:
    """Use a volume through Cinder's section of its zone, while another zone's node owns it."""
    snapshot = user.create_snapshot(data, made.name())
    clone = user.create_volume(made.name(), 1, snapshot_id=snapshot.id)
    user.attach(server, clone.id)
    user.wait_console(server, rf"GUEST: disk vdc 2097152 sectors, mark {mark}\n")
    user.detach(server, clone.id)
    user.cloud.block_storage.extend_volume(data, 2)
    user.wait_console(server, r"GUEST: disk vdb resized to 4194304 sectors\n")
    user.wait_volume(data, "in-use")
    user.detach(server, data)
    user.wait_console(server, r"GUEST: disk vdb gone\n")
    user.remove([], [clone.id])
    user.delete_snapshot(snapshot.id)
