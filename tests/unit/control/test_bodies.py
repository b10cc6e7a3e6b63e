"""Records that a node of a later release has written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ovs_daemon.control import attachments, snapshots, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.records import Mode
from ovs_daemon.registry import Registry, Update
from tests.support.house import House
from tests.unit.control.test_volumes import GIB

LATER = {"colour": "blue", "shape": {"corners": 4}}


def write_as_later_release(registry: Registry, kind: str, ident: str) -> dict[str, Any]:
    """Add fields to a record that this release does not know; what the registry has then."""
    found = registry.get(kind, ident)
    assert found is not None
    body = {**found.body, **LATER}
    if "attachments" in body:
        body["attachments"] = [{**one, **LATER} for one in body["attachments"]]
    registry.commit([Update(kind, ident, found.version, body)])
    return body


def body(registry: Registry, kind: str, ident: str) -> dict[str, Any]:
    """What the registry has."""
    found = registry.get(kind, ident)
    assert found is not None
    return dict(found.body)


def test_a_volume_keeps_what_this_release_does_not_know(house: House) -> None:
    registry = house.host.store.registry
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="vm"))
    later = write_as_later_release(registry, "volume", made.uuid)
    volumes.resize_volume(house.host, "web1", 2 * GIB)
    assert body(registry, "volume", made.uuid) == {**later, "size": 2 * GIB}


@pytest.mark.parametrize("preempt", [False, True])
def test_whoever_has_it_attaches_again_and_keeps_it(house: House, preempt: bool) -> None:
    registry = house.host.store.registry
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="vm"))
    later = write_as_later_release(registry, "volume", made.uuid)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="vm", preempt=preempt))
    assert house.edge.dropped == [], "its guest is connected as before"
    assert body(registry, "volume", made.uuid) == later


def test_what_its_holder_changes_is_all_that_changes(house: House) -> None:
    registry = house.host.store.registry
    made = volumes.create_volume(house.host, "web1", GIB, None)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="vm"))
    later = write_as_later_release(registry, "volume", made.uuid)
    attachments.attach(house.host, "web1", Wish(Mode.EDGE, holder="vm", reconnects=True))
    [attachment] = later["attachments"]
    changed = {**later, "attachments": [{**attachment, "reconnects": True}]}
    assert body(registry, "volume", made.uuid) == changed


def test_a_snapshot_keeps_it_as_well(house: House) -> None:
    registry = house.host.store.registry
    volumes.create_volume(house.host, "web1", GIB, None)
    made = snapshots.create_snapshot(house.host, "web1", "monday")
    later = write_as_later_release(registry, "snapshot", made.uuid)
    volumes.create_volume(house.host, "web2", None, volumes.Source("web1", "monday"))
    assert body(registry, "snapshot", made.uuid) == {**later, "clones": 1}


@pytest.mark.parametrize("kind", ["domain", "node"])
def test_the_topology_is_understood_and_kept(house: House, kind: str) -> None:
    store = house.host.store
    [ident] = [one.name for one in (store.nodes() if kind == "node" else store.domains())]
    later = write_as_later_release(store.registry, kind, ident)
    [found] = store.nodes() if kind == "node" else store.domains()
    assert json.loads(json.dumps(found.body())) == {"name": ident, **later}
