"""Families with more volumes than the registry changes in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ovs_daemon.control import attachments, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.moves import move_volume
from ovs_daemon.control.opening import RELATIVES_AT_ONCE
from ovs_daemon.control.records import Mode
from ovs_daemon.control.status import status
from ovs_daemon.control.volumes import Source
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.registry import Operation
from ovs_daemon.registry.memory import MemoryRegistry
from tests.support.refusal import refused
from tests.support.town import MIB, Town

CLONES = RELATIVES_AT_ONCE + 5


class SmallRegistry(MemoryRegistry):
    """Refuses what an etcd with its own limit refuses."""

    room = 4096

    def has_room(self, operations: int) -> bool:
        return operations <= self.room

    def commit(self, operations: Sequence[Operation]) -> int:
        if not self.has_room(len(operations)):
            raise VStorageError(Code.REGISTRY, "write", "too many operations", "")
        return super().commit(operations)


@pytest.fixture
def registry() -> SmallRegistry:
    # Nobody's lease is over, however long this takes.
    return SmallRegistry(clock=lambda: 0.0)


@pytest.fixture
def town(registry: SmallRegistry) -> Town:
    """Two nodes; the first one has a volume with many clones, and serves one to a guest."""
    made = Town({"one": ("rack1", None), "two": ("rack1", None)}, registry)
    host = made["one"].host
    volumes.create_volume(host, "gold", 64 * MIB, None)
    for number in range(CLONES):
        volumes.create_volume(host, f"clone{number}", None, Source("gold", None))
    attachments.attach(host, "clone0", Wish(Mode.EDGE))
    return made


def large_families(town: Town) -> list[str]:
    found = status(town["one"].host, True)["findings"]
    return [one["object"] for one in found if one["code"] == "family_too_large"]


def test_guests_wait_for_no_move_that_would_be_refused(
    town: Town, registry: SmallRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.room = CLONES
    asked: list[str] = []
    for name in ("settle_volume", "close_volume"):
        monkeypatch.setattr(town["one"].engine, name, lambda *_, name=name: asked.append(name))
    refused(
        lambda: move_volume(town["one"].host, "clone0", "two"),
        Code.REGISTRY,
        f"transaction of {CLONES + 1} records",
    )
    assert asked == []
    assert len(town["one"].engine.open) == CLONES + 1


def test_status_says_so_before_anybody_wants_to_move_them(
    town: Town, registry: SmallRegistry
) -> None:
    assert large_families(town) == []
    registry.room = CLONES
    assert large_families(town) == ["volume gold"]
    registry.room = 4096
    move_volume(town["one"].host, "clone0", "two")
    assert {one.node for one in town["one"].host.store.volumes()} == {"two"}
