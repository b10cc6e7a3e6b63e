"""The os-brick connector against os-brick itself and the control API of a daemon of twins."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from os_brick import exception
from os_brick.initiator import connector as brick
from os_brick.initiator import initiator_connector
from oslo_concurrency import processutils

from ovs_daemon.control import volumes
from ovs_nova import daemons
from ovs_nova.connector import OvsConnector, holder, this_program
from tests.unit.nova.conftest import GIB, Compute

CONTROL = "control.sock"


def make(**more: Any) -> Any:
    return brick.InitiatorConnector.factory("ovs", None, **more)


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "s390x", "ppc64le"])
def test_os_brick_makes_it_for_its_protocol(compute: Compute, arch: str) -> None:
    assert isinstance(make(arch=arch), OvsConnector)


def test_nothing_abstract_is_left() -> None:
    assert initiator_connector.InitiatorConnector.__abstractmethods__
    assert OvsConnector.__abstractmethods__ == frozenset()


def test_a_host_says_which_nodes_it_has(compute: Compute) -> None:
    said = OvsConnector.get_connector_properties(None, host="compute1")["ovs"]
    assert said["nodes"] == ["node1"]
    assert re.fullmatch(r"[^@]+@compute1", said["holder"])
    anywhere = OvsConnector.get_connector_properties(None, host=None)["ovs"]
    assert anywhere["holder"] == this_program()


def test_a_host_without_daemons_hinders_nobody(
    compute: Compute, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "control.sock").touch()
    monkeypatch.setenv("VSTORAGE_RUN_DIRS", f"/nowhere:{tmp_path}")
    assert OvsConnector.get_connector_properties(None)["ovs"]["nodes"] == []
    data = compute.volume("v")
    with pytest.raises(exception.BrickException, match="start vstorage-daemon, or correct"):
        make().connect_volume(data)


def test_a_copy_gets_a_file(compute: Compute) -> None:
    data = compute.volume("v")
    device = make().connect_volume(data)
    assert device["path"] == f"/run/vstorage/volumes/{data['volume_uuid']}"
    assert (device["type"], device["size"]) == ("file", GIB)
    assert compute.holders("v") == [(this_program(), "file")]
    assert make().get_volume_paths(data) == [device["path"]]
    make().disconnect_volume(data, device)
    assert compute.holders("v") == []
    assert make().get_volume_paths(data) == []


def test_a_program_that_copies_twice_keeps_it_until_both_are_done(compute: Compute) -> None:
    data = compute.volume("v")
    first, second = make(), make()
    first.connect_volume(data)
    device = second.connect_volume(data)
    first.disconnect_volume(data, device)
    assert compute.holders("v") == [(this_program(), "file")]
    second.disconnect_volume(data, device)
    assert compute.holders("v") == []


@pytest.mark.parametrize("glance", [True, False])
def test_glance_counts_readers_of_a_volume_of_multi_attach_by_itself(
    compute: Compute, monkeypatch: pytest.MonkeyPatch, glance: bool
) -> None:
    """It detaches once; Cinder, whose copies of such a volume may overlap too, does so for each."""
    store = "glance_store._drivers.cinder"
    monkeypatch.delitem(sys.modules, store, raising=False)
    if glance:
        monkeypatch.setitem(sys.modules, store, types.ModuleType(store))
    data = compute.volume("v") | {"multi_attach": True}
    make().connect_volume(data)
    make().connect_volume(data)
    make().disconnect_volume(data)
    assert compute.holders("v") == ([] if glance else [(this_program(), "file")])
    make().disconnect_volume(data)
    assert compute.holders("v") == []


def test_what_was_written_is_flushed_by_a_program(compute: Compute) -> None:
    """One that waits for the volume must not stop all of an eventlet service; nor wait for ever."""
    data = compute.volume("v")
    ran: list[tuple[Any, ...]] = []

    def execute(*command: Any, **more: Any) -> tuple[str, str]:
        ran.append((*command, more["timeout"] > 0))
        raise exception.ExecutionTimeout(stdout="", stderr="no answer", cmd="sync")

    device = make().connect_volume(data)
    with pytest.raises(exception.BrickException, match="no answer; detach with force"):
        make(execute=execute).disconnect_volume(data, device)
    assert ran == [("sync", device["path"], True)]
    assert compute.holders("v") != []
    make(execute=execute).disconnect_volume(data, device, force=True)
    assert compute.holders("v") == []


NO_SYNC = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "sync")


@pytest.mark.parametrize(
    "failure",
    [
        # As os-brick has it, and as the other programs that may be given to it do.
        processutils.ProcessExecutionError(cmd="sync", description=str(NO_SYNC)),
        NO_SYNC,
    ],
)
def test_a_host_without_the_program_is_no_reason_not_to_flush(
    compute: Compute, failure: Exception
) -> None:
    data = compute.volume("v")

    def execute(*command: Any, **more: Any) -> tuple[str, str]:
        raise failure

    device = make().connect_volume(data)
    with pytest.raises(exception.BrickException, match=r"No such file[\s\S]*detach with force"):
        make(execute=execute).disconnect_volume(data, device)
    assert compute.holders("v") != []
    make(execute=execute).disconnect_volume(data, device, force=True)
    assert compute.holders("v") == []


def test_who_may_not_open_the_file_has_nothing_to_flush(compute: Compute) -> None:
    data = compute.volume("v")

    def execute(*command: Any, **more: Any) -> tuple[str, str]:
        said = f"sync: error opening '{command[1]}': Permission denied"
        raise processutils.ProcessExecutionError(stderr=said, exit_code=1)

    device = make().connect_volume(data)
    make(execute=execute).disconnect_volume(data, device)
    assert compute.holders("v") == []


@pytest.mark.parametrize(
    ("started", "program"),
    [
        ("/usr/bin/nova-compute", "nova-compute"),
        ("/usr/lib/python3/dist-packages/nova/cmd/compute.py", "nova-compute"),
        ("/usr/lib/python3/dist-packages/cinder/cmd/backup.py", "cinder-backup"),
        ("/usr/local/bin/copy.py", "copy.py"),
    ],
)
def test_a_program_is_the_same_however_it_was_started(
    monkeypatch: pytest.MonkeyPatch, started: str, program: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started, "--config-file", "x"])
    assert this_program("h") == f"{program}@h"


def test_a_program_that_starts_anew_counts_anew(compute: Compute) -> None:
    data = compute.volume("v")
    host = compute.house.host
    make().connect_volume(data)
    make().disconnect_volume(data)
    # What a killed process left behind.
    from ovs_daemon.control.attachments import Wish, attach
    from ovs_daemon.control.records import Mode

    attach(host, "v", Wish(Mode.FILE, holder=this_program()))
    make().connect_volume(data)
    make().disconnect_volume(data)
    assert compute.holders("v") == []


def test_a_guest_and_a_copy_at_the_same_time(compute: Compute) -> None:
    data = compute.volume("v")
    nova = make(holder="nova-compute@h1", attach_as="nbd")
    assert nova.connect_volume(data)["type"] == "socket"
    make().connect_volume(data)
    make(holder="nova-compute@h2", attach_as="nbd").connect_volume(data)
    assert len(compute.holders("v")) == 3
    nova.disconnect_volume(data)
    nova.disconnect_volume(data)
    assert sorted(compute.holders("v")) == sorted(
        [("nova-compute@h2", "edge"), (this_program(), "file")]
    )
    make().disconnect_volume(data)
    make(holder="nova-compute@h2", attach_as="nbd").disconnect_volume(data, None, force=True)
    assert compute.holders("v") == []


@pytest.mark.parametrize("more", [{}, {"holder": "nova-compute@h1", "attach_as": "nbd"}])
def test_a_failed_attach_leaves_nothing(compute: Compute, more: dict[str, str]) -> None:
    data = compute.volume("v")
    compute.house.edge.up = False
    with pytest.raises(exception.BrickException, match="the Edge process does not answer"):
        make(**more).connect_volume(data)
    assert compute.holders("v") == []
    compute.house.edge.up = True
    device = make(**more).connect_volume(data)
    make(**more).disconnect_volume(data, device)
    assert compute.holders("v") == [], "the failure was not counted"


def test_a_detach_that_fails_can_be_repeated(compute: Compute) -> None:
    data = compute.volume("v")
    device = make().connect_volume(data)
    compute.house.edge.up = compute.house.edge.gone = False
    with pytest.raises(exception.BrickException):
        make().disconnect_volume(data, device)
    with pytest.raises(exception.BrickException):
        make().disconnect_volume(data, device, force=True)
    make().disconnect_volume(data, device, force=True, ignore_errors=True)
    assert compute.holders("v") != []
    compute.house.edge.up = True
    make().disconnect_volume(data, device)
    assert compute.holders("v") == []


def test_a_volume_that_is_gone_is_detached(compute: Compute) -> None:
    data = compute.volume("v")
    volumes.delete_volume(compute.house.host, "v", cascade=False)
    make().disconnect_volume(data)
    with pytest.raises(exception.BrickException, match="there is no volume"):
        make().connect_volume(data)


def test_a_host_detaches_itself_by_what_another_host_attaches_by(compute: Compute) -> None:
    """Nova cleans up after an evacuation with the new host's connection info, unguarded."""
    data = compute.volume("v")
    old = make(holder="nova-compute@old", attach_as="nbd")
    new = make(holder="nova-compute@new", attach_as="nbd")
    old.connect_volume(data)
    new.connect_volume(data)
    theirs = data | {"node": "node-of-the-new-host"}
    for _ in range(2):
        old.disconnect_volume(theirs, None, force=True)
        assert compute.holders("v") == [("nova-compute@new", "edge")]
    new.disconnect_volume(data)
    volumes.delete_volume(compute.house.host, "v", cascade=False)
    old.disconnect_volume(theirs, None, force=True)


def test_the_daemon_that_serves_it_detaches(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several on a machine that plays several hosts."""
    data = compute.volume("v")
    theirs = data | {"node": "node-of-the-new-host"}
    nova = make(holder="nova-compute@old", attach_as="nbd")
    nova.connect_volume(data)
    monkeypatch.setattr(
        daemons, "nodes", lambda: dict.fromkeys(("a", "node1", "z"), compute.run_dir / CONTROL)
    )
    chosen: list[str] = []
    client = daemons.client

    def noted(node: str, what: str) -> Any:
        chosen.append(node)
        return client(node, what)

    monkeypatch.setattr(daemons, "client", noted)
    nova.disconnect_volume(theirs)
    assert (chosen, compute.holders("v")) == (["a", "node1"], [])


def test_a_read_only_volume_is_attached_so(compute: Compute) -> None:
    data = compute.volume("v") | {"access_mode": "ro"}
    make().connect_volume(data)
    (attachment,) = compute.house.host.require("look", "v").attachments
    assert attachment.read_only
    make().disconnect_volume(data)


def test_a_larger_size_is_seen(compute: Compute) -> None:
    data = compute.volume("v")
    make().connect_volume(data)
    volumes.resize_volume(compute.house.host, "v", 2 * GIB)
    assert make().extend_volume(data) == 2 * GIB
    make().disconnect_volume(data)


def test_many_at_once_leave_nothing(compute: Compute) -> None:
    every = [compute.volume(f"v{number}") for number in range(10)]
    failures: list[BaseException] = []

    def attach_and_detach(data: dict[str, Any], name: str) -> None:
        try:
            mine = make(holder=name, attach_as="nbd") if name else make()
            for _ in range(3):
                device = mine.connect_volume(data)
                mine.disconnect_volume(data, device)
        except BaseException as failure:
            failures.append(failure)

    names = ["", "", "nova-compute@h1", "nova-compute@h2", "nova-compute@h3"]
    workers = [
        threading.Thread(target=attach_and_detach, args=(data, name))
        for data in every
        for name in names
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert [compute.holders(f"v{number}") for number in range(10)] == [[]] * 10
    assert compute.house.edge.served == {}


def test_what_can_be_read_is_valid(compute: Compute, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x" * 4096)
    assert make().check_valid_device(str(tmp_path / "disk"))
    assert not make().check_valid_device(str(tmp_path / "missing"))
    assert not make().check_valid_device(str(tmp_path))


def test_names_of_holders_are_names_for_the_daemon() -> None:
    assert holder("nova-compute", "host 1") == "nova-compute@host_1"
    assert holder("-c", "h") == "c@h"
