"""Real daemons: a volume and its clone come together on one node, whatever has parted them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from ovs_daemon.control.store import Store, put
from ovs_daemon.registry import open_registry
from tests.functional.test_dtl import Cloud, attached, check, write

ALL = {"a1", "a2", "b1", "b2"}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """a1 has a volume and a clone of it; all that guests have written is in its write buffer, and
    in the logs."""
    with ExitStack() as stack:
        cloud = Cloud(stack, tmp_path)
        a1 = cloud["a1"]
        a1.cli("volume", "create", "base", "64MiB")
        cloud.until_in_sync("base", "a1")
        put_there(cloud, "a1", "base", 1000)
        a1.cli("volume", "create", "clone", "--from", "base")
        cloud.until_in_sync("clone", "a1")
        yield cloud


def put_there(cloud: Cloud, node: str, name: str, number: int) -> None:
    """Write something where a volume is, and leave it to nobody."""
    client = attached(cloud[node], name)
    write(client, number)
    client.shutdown()
    cloud[node].cli("volume", "detach", name)


def until_together(cloud: Cloud, by: str) -> str:
    """Both are open on one node; returns which."""

    def together() -> bool:
        return len({cloud.volume(name, by)["node"] for name in ("base", "clone")}) == 1

    cloud.until(by, "the family on one node", together)
    return str(cloud.volume("base", by)["node"])


def has(cloud: Cloud, node: str, name: str, number: int) -> None:
    client = attached(cloud[node], name)
    check(client, number)
    client.shutdown()
    cloud[node].cli("volume", "detach", name)


def test_a_parent_follows_a_clone_that_only_its_owner_has(cloud: Cloud) -> None:
    cloud["a1"].cli("volume", "dtl", "clone", "async")
    put_there(cloud, "a1", "clone", 2000)
    cloud["a1"].kill9_daemon()
    assert cloud.until_owned("base", "a2", ALL - {"a1"}) == "a2"
    put_there(cloud, "a2", "base", 3000)
    assert cloud.volume("clone", "a2")["node"] == "a1", "nobody else has its last writes"
    cloud["a1"].start_daemon()
    assert until_together(cloud, "a1") == "a1"
    has(cloud, "a1", "clone", 2000)
    has(cloud, "a1", "base", 3000)


def test_a_clone_goes_to_its_parent_when_both_nodes_are_alive(cloud: Cloud, tmp_path: Path) -> None:
    """As earlier releases left it, which took relatives over one by one."""
    put_there(cloud, "a1", "clone", 2000)
    cloud["a1"].kill9_daemon()
    with closing(open_registry(f"sqlite://{tmp_path}/registry.sqlite")) as registry:
        store = Store(registry)
        clone = store.find_volume("clone")
        assert clone is not None
        store.commit(put(replace(clone, node="a2", epoch=clone.epoch + 1)))
    cloud["a1"].start_daemon()
    owner = until_together(cloud, "a1")
    has(cloud, owner, "clone", 2000)
    has(cloud, owner, "base", 1000)
