"""Every verb is killed at every step, before and after it, and so is the recovery from that.

A step is one registry transaction or one engine call that changes something. After the restart
registry and engine must agree, nothing may be half done or leaked, and users must see the verb
either not begun or finished. Exhaustive for one kill in the verb and one more in the recovery.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ovs_daemon.control import attachments, qos, snapshots, volumes
from ovs_daemon.control.attachments import Wish
from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Mode
from ovs_daemon.control.recovery import recover
from ovs_daemon.control.volumes import Source
from ovs_daemon.registry import Changes, Lease, Operation, Record, Registry
from tests.support.fake_engine import FakeEngine
from tests.support.house import House

GIB = 1 << 30


class Killed(BaseException):
    """The process is dead; whatever it does afterwards does not happen."""


class Fuse:
    """Kills at step ``at`` (counted from 0), before or after it takes effect."""

    def __init__(self, at: int | None, after: bool) -> None:
        self.steps = 0
        self._at = at
        self._after = after
        self._dead = False

    def step(self, act: Callable[[], Any]) -> Any:
        self.alive()
        fatal = self.steps == self._at
        self.steps += 1
        if fatal and not self._after:
            self._dead = True
            raise Killed
        result = act()
        if fatal:
            self._dead = True
            raise Killed
        return result

    def alive(self) -> None:
        if self._dead:
            raise Killed


class FusedRegistry(Registry):
    """A registry whose every transaction is a step."""

    def __init__(self, registry: Registry, fuse: Fuse) -> None:
        self._registry = registry
        self._fuse = fuse

    def get(self, kind: str, ident: str) -> Record | None:
        self._fuse.alive()
        return self._registry.get(kind, ident)

    def list(self, kind: str) -> list[Record]:
        self._fuse.alive()
        return self._registry.list(kind)

    def commit(self, operations: Sequence[Operation]) -> int:
        revision: int = self._fuse.step(lambda: self._registry.commit(operations))
        return revision

    def grant(self, ttl_s: float) -> Lease:
        lease: Lease = self._fuse.step(lambda: self._registry.grant(ttl_s))
        return lease

    def keep_alive(self, lease: Lease) -> bool:
        self._fuse.alive()
        return self._registry.keep_alive(lease)

    def revoke(self, lease: Lease) -> None:
        self._fuse.step(lambda: self._registry.revoke(lease))

    def revision(self) -> int:
        self._fuse.alive()
        return self._registry.revision()

    def watch(self, after: int, timeout_s: float) -> Changes:
        self._fuse.alive()
        return self._registry.watch(after, timeout_s)

    def close(self) -> None:
        self._registry.close()


class FusedEngine(FakeEngine):
    """An engine whose every call is a step."""

    def __init__(self, house: House, fuse: Fuse) -> None:
        super().__init__(house.disk)
        self._fuse = fuse

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        return lambda *arguments: self._fuse.step(lambda: found(*arguments))


@functools.cache
def prepared() -> House:
    """The world in which every verb has something to do; for forks only."""
    house = House()
    host = house.host
    base = volumes.create_volume(host, "base", GIB, None)
    house.disk.volumes[base.uuid].content = 7
    snapshots.create_snapshot(host, "base", "s1")
    house.disk.volumes[base.uuid].content = 8
    snapshots.create_snapshot(host, "base", "s2")
    volumes.create_volume(host, "clone", None, Source("base", "s1"))
    volumes.create_volume(host, "grandchild", None, Source("clone", None))
    volumes.create_volume(host, "gold", GIB, None)
    volumes.set_template(host, "gold", True)
    volumes.create_volume(host, "minted", None, Source("gold", None))
    volumes.create_volume(host, "lone", GIB, None)
    volumes.create_volume(host, "limited", GIB, None, limits={"total_iops": 9})
    volumes.create_volume(host, "served", GIB, None)
    attachments.attach(host, "served", Wish(Mode.DIRECT, read_only=True))
    volumes.create_volume(host, "guest", GIB, None)
    attachments.attach(host, "guest", Wish(Mode.EDGE))
    volumes.create_volume(host, "moving", GIB, None)
    attachments.attach(host, "moving", Wish(Mode.EDGE, holder="nova@a"))
    attachments.attach(host, "moving", Wish(Mode.EDGE, holder="nova@b", shared=True))
    attachments.attach(host, "moving", Wish(Mode.FILE, holder="cinder", shared=True))
    return house


Verb = Callable[[Host], object]


def attach(name: str, wish: Wish) -> Verb:
    return lambda host: attachments.attach(host, name, wish)


def detach(name: str, holder: str | None = None, everybody: bool = False) -> Verb:
    return lambda host: attachments.detach(host, name, holder, everybody)


def delete(name: str) -> Verb:
    return lambda host: volumes.delete_volume(host, name, cascade=True)


def clone(source: str, snapshot: str | None) -> Verb:
    return lambda host: volumes.create_volume(host, "new", None, Source(source, snapshot))


VERBS: dict[str, Verb] = {
    "create": lambda host: volumes.create_volume(host, "new", GIB, None),
    "clone a volume": clone("base", None),
    "clone a snapshot": clone("base", "s2"),
    "clone a template": clone("gold", None),
    "clone a clone": clone("grandchild", None),
    "create with limits": lambda host: volumes.create_volume(
        host, "new", GIB, None, limits={"total_iops": 9}
    ),
    "rename": lambda host: volumes.rename_volume(host, "base", "new"),
    "rename a snapshot": lambda host: snapshots.rename_snapshot(host, "base", "s1", "new"),
    "limit": lambda host: qos.set_limits(host, "lone", {"read_iops": 5}),
    "limit no more": lambda host: qos.set_limits(host, "limited", None),
    "snapshot a group": lambda host: snapshots.create_snapshots(
        host, [("lone", "s"), ("guest", "s"), ("base", "s")]
    ),
    "resize": lambda host: volumes.resize_volume(host, "lone", 2 * GIB),
    "snapshot": lambda host: snapshots.create_snapshot(host, "lone", "s"),
    "revert": lambda host: volumes.revert_volume(host, "base", "s1"),
    "set template": lambda host: volumes.set_template(host, "lone", True),
    "set no template": lambda host: volumes.set_template(host, "gold", False),
    "delete": delete("lone"),
    "delete one with clones": delete("base"),
    "delete a clone with a clone": delete("clone"),
    "delete a last clone": delete("grandchild"),
    "delete a template": delete("gold"),
    "delete a template's clone": delete("minted"),
    "delete a snapshot": lambda host: snapshots.delete_snapshot(host, "base", "s2"),
    "delete a cloned snapshot": lambda host: snapshots.delete_snapshot(host, "base", "s1"),
    "attach to the Edge": attach("lone", Wish(Mode.EDGE)),
    "attach as a file": attach("lone", Wish(Mode.FILE)),
    "attach directly": attach("lone", Wish(Mode.DIRECT)),
    "attach directly to read": attach("lone", Wish(Mode.DIRECT, read_only=True)),
    "attach another holder": attach("guest", Wish(Mode.EDGE, holder="nova@b", shared=True)),
    "attach another holder as a file": attach("guest", Wish(Mode.FILE, holder="c", shared=True)),
    "take from others": attach("moving", Wish(Mode.EDGE, preempt=True)),
    "take from one served directly": attach("served", Wish(Mode.FILE, holder="c", preempt=True)),
    "detach from the Edge": detach("guest"),
    "detach directly": detach("served"),
    "detach one of several": detach("moving", "nova@a"),
    "detach the only file": detach("moving", "cinder"),
    "detach everybody": detach("moving", everybody=True),
    "set multi-attach": lambda host: attachments.set_multi_attach(host, "lone", True),
}


def live(house: House, fuse: Fuse, verb: Verb | None) -> bool:
    """One life: recovery, then the verb; returns whether it came to its end."""
    engine = FusedEngine(house, fuse)
    host = house.make_host(FusedRegistry(house.registry, fuse), engine)
    try:
        recover(host)
        if verb is not None:
            verb(host)
    except Killed:
        return False
    assert host.failures() == {}
    return True


def steps_of(verb: Verb | None) -> tuple[int, list[object]]:
    """How many steps a life takes with this verb, and what users see after it."""
    house = prepared().fork()
    fuse = Fuse(None, after=False)
    assert live(house, fuse, verb)
    house.start()
    house.check()
    return fuse.steps, house.picture()


@pytest.mark.parametrize("name", VERBS)
def test_killed_anywhere(name: str) -> None:
    verb = VERBS[name]
    recovery, before = steps_of(None)
    total, finished = steps_of(verb)
    assert before != finished, "the verb does something"
    seen: set[bool] = set()
    for at in range(recovery, total):
        for after in (False, True):
            seen |= kill_twice(verb, at, after, before, finished)
    # The first step's eve is "not begun", the last step's morrow is "finished".
    assert seen == {False, True}


def kill_twice(
    verb: Verb, at: int, after: bool, before: list[object], finished: list[object]
) -> set[bool]:
    """Kill the verb at one step; then its recovery at every step. Returns what came out."""
    outcomes: set[bool] = set()
    killed = prepared().fork()
    assert not live(killed, Fuse(at, after), verb)
    again = 0
    while True:
        house = killed.fork()
        ended = live(house, Fuse(again, after), None)
        house.start()
        house.check()
        assert house.host.failures() == {}
        picture = house.picture()
        assert picture in (before, finished), f"killed at step {at}, then at step {again}"
        outcomes.add(picture == finished)
        if ended:
            return outcomes
        again += 1
