"""Tends this node's share of the cluster, each time something changes in the registry.

* lets go of volumes that the engine has stopped, because the lease was over or another owner has
  fenced them;
* registers this node's OSDs, and tells the engine of all;
* shuts out those from whom its volumes were taken away;
* opens what is this node's and not open: handed over, given back, or let go of;
* takes over volumes of dead nodes with which the policy has this node go on, and finishes what such
  nodes have begun;
* gives volumes to the owners of their relatives, where a family is found apart;
* has nodes that kept logs of its volumes before forget them;
* pairs its volumes with the nodes that should keep their logs;
* has the maps of its volumes followed by the nodes that should;
* removes write buffers of volumes that have left it (`sweep.py`);
* gives its volumes away while it is being drained.

Every pass looks at everything and can be cut anywhere; what fails is tried in the next, and keeps
nothing else from being done. Neither does what takes long with one volume, because the backend or
another node is slow: threads of their own do that (`crew.py`), and a pass goes on without them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ovs_daemon.control.attempts import Attempts
from ovs_daemon.control.crew import Crew
from ovs_daemon.control.dtl import DtlEvent, dtl_lock
from ovs_daemon.control.family import (
    by_family,
    give_closed,
    leaving,
    open_taken,
    reasons,
)
from ovs_daemon.control.fencing import enforce
from ovs_daemon.control.followers import Followers
from ovs_daemon.control.host import Host
from ovs_daemon.control.leftovers import finish, left_to
from ovs_daemon.control.moves import bring_together, move_volume
from ovs_daemon.control.opening import Taken
from ovs_daemon.control.osds import OsdLink
from ovs_daemon.control.purge import purge
from ovs_daemon.control.records import Dtl, State, Volume
from ovs_daemon.control.remote import served_here
from ovs_daemon.control.snapshots import abandon_snapshots
from ovs_daemon.control.store import put
from ovs_daemon.control.sweep import sweep
from ovs_daemon.control.upkeep import UpkeepLink
from ovs_daemon.control.view import View
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.drain import plan_drain
from ovs_daemon.policy.family import waiting
from ovs_daemon.policy.model import Cluster, DtlMode, DtlState
from ovs_daemon.policy.placement import pairings
from ovs_daemon.policy.takeover import takeovers
from ovs_daemon.registry import Conflict, Lapsed

LOG = logging.getLogger(__name__)

_WATCH_S = 1.0
_AGAIN_S = 0.5
# How long a pass waits for what it has begun with volumes; nearly always that is enough.
_PATIENCE_S = 2.0
# How many volumes are rid of former users beside each other: their requests may take seconds each.
_GUARDS = 16
# How long each of these stands behind a verb on its volume. What takes longer is left for the next
# pass, so that no number of volumes that are moved or opened keeps the others waiting.
_BEHIND_VERB_S = 0.2


class Steward:
    """The thread that tends.

    :param may_pair: whether this node's lease guards what it has open, so that logs may be kept
        elsewhere and others may take over
    :param tell: told what happens, and about what; see `ovs_daemon/rpc/events.py`
    :param changed: told that something has changed in the registry
    :param clock: seconds that never go back
    :param osds: what has to be done about OSDs; see `osds.py`
    :param upkeep: told who is alive; see `upkeep.py`
    :param at_once: how many volumes are opened or taken over beside each other
    :param patience_s: how long a pass waits for them, seconds
    """

    def __init__(
        self,
        host: Host,
        may_pair: Callable[[], bool],
        tell: Callable[[str, dict[str, Any]], None] | None = None,
        changed: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        osds: OsdLink | None = None,
        upkeep: UpkeepLink | None = None,
        at_once: int = 8,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._host = host
        self._osds = osds
        self._followers = Followers(host)
        self._upkeep = upkeep
        self._tell = tell or _tell_nobody
        self._changed = changed or _nobody_waits
        self._may_pair = may_pair
        self._guard = threading.Lock()
        self._stopped: set[str] = set()
        # Stopped volumes that were let go of, until it is known who goes on with them.
        self._parted: set[str] = set()
        self._alive: frozenset[str] = frozenset()
        # By volume: the nodes that kept its log before, and where they listen.
        self._former: dict[str, dict[str, str]] = {}
        self._attempts = Attempts(clock)
        # What dead nodes have begun, by volume, until that is finished.
        self._begun: dict[str, Volume] = {}
        # Open volumes whose engine has not heard yet who keeps their log; the epoch of each.
        self._unheard: dict[str, int] = {}
        # Something in the last pass failed that nothing else waited for, or was late.
        self._unfinished = False
        self._crew = Crew(at_once, patience_s, self._look_again)
        # Of their own: whoever takes a volume away waits for them, and what waits for the backend
        # for long must not be all that there is.
        self._guards = Crew(_GUARDS, patience_s, self._look_again)
        # Volumes that were not rid of them at the last try, because a backend or a disk stands
        # still, may be many and take long again: no other stands behind them, and no pass waits.
        self._unsettled: set[str] = set()
        self._guards_again = Crew(_GUARDS, 0.0, self._look_again)
        self._drainer = Crew(1, patience_s, self._look_again)
        self._asker = Crew(1, patience_s, self._look_again)
        self._sweeper = Crew(2, patience_s, self._look_again)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steward", daemon=True)

    def start(self) -> None:
        """Begin to tend."""
        self._thread.start()

    def stop(self) -> None:
        """Stop tending; returns when the thread has ended."""
        self._stopping.set()
        self._thread.join()
        self._crew.stop()
        self._guards.stop()
        self._guards_again.stop()
        self._drainer.stop()
        self._sweeper.stop()
        self._asker.stop()

    def fenced(self, uuid: str) -> None:
        """The engine has stopped a volume."""
        with self._guard:
            self._stopped.add(uuid)
        self._tell("volume.stopped", {"volume": uuid})

    def recorded(self, event: DtlEvent) -> None:
        """A DTL's state was recorded."""
        told = {"volume": event.uuid, "node": event.node, "before": event.before.value}
        self._tell(f"dtl.{event.after.value}", told)

    def tend(self) -> None:
        """One pass."""
        self._unfinished = False
        overdue = self._attempts.overdue()
        self._let_go()
        if self._osds is not None:
            # First: volumes that are opened may need them.
            self._asker.work({"asking for OSDs": self._osds.ask})
            self._beside(self._osds.tell)
        view = View.of(self._host.store)
        self._shut_out(view)
        if self._upkeep is not None:
            self._beside(partial(self._upkeep.tend, view))
        self._forget_failures(view)
        self._leave_to_others(view)
        self._open_own(view)
        self._take_over(view)
        view = View.of(self._host.store)
        self._bring_together(view)
        self._finish(view)
        if self._may_pair():
            # Before others become former ones.
            self._forget_former(view)
            self._say_pairs()
            self._pair(view)
            self._beside(self._followers.tend)
        self._sweeper.work({"sweeping": partial(sweep, self._host, view)})
        self._drain(view)
        # What stands behind something slow has not been tried, and is not done either.
        self._attempts.drop(overdue, self._crew.about() | self._drainer.about())

    def _run(self) -> None:
        revision, changed = 0, True
        while not self._stopping.is_set():
            try:
                if changed or self._due():
                    # Before it looks: what changes while it works shows in the next wait.
                    revision = self._host.store.registry.revision()
                    self.tend()
                changes = self._host.store.registry.watch(revision, _WATCH_S)
                changed, revision = bool(changes.keys), changes.revision
                if changed:
                    self._changed()
            except Lapsed:
                changed = True
            except VStorageError as failure:
                LOG.error("the cluster is tended again in a moment: %s", failure)
                changed = True
                self._stopping.wait(_AGAIN_S)
            except Exception:
                # Without this thread no volume is opened or taken over any more.
                LOG.exception("the cluster is tended again in a moment; report this")
                changed = True
                self._stopping.wait(_AGAIN_S)

    def _beside(self, act: Callable[[], None]) -> None:
        """Do what nothing else in a pass waits for."""
        try:
            act()
        except VStorageError as failure:
            LOG.warning("it is tried again in a moment: %s", failure)
            self._unfinished = True

    def _due(self) -> bool:
        """Whether something is to be tried again although nothing has changed."""
        if self._unfinished or self._host.unfinished():
            return True
        if self._osds is not None and self._osds.due():
            return True
        if self._upkeep is not None and self._upkeep.due():
            return True
        unpurged = {_purging(uuid) for uuid in self._host.unpurged()}
        with self._guard:
            stopped = bool(self._stopped)
        return stopped or bool(unpurged - self._attempts.failing()) or self._attempts.due()

    def _look_again(self) -> None:
        self._unfinished = True

    def _let_go(self) -> None:
        with self._guard:
            stopped = sorted(self._stopped)
        self._crew.work({f"letting go of {uuid}": partial(self._part, uuid) for uuid in stopped})

    def _part(self, uuid: str) -> None:
        try:
            with self._host.locks.holding(uuid):
                self._host.close(uuid)
                # Still under the lock: once it is open again, it may be stopped again.
                with self._guard:
                    self._stopped.discard(uuid)
                    self._parted.add(uuid)
        except VStorageError as failure:
            LOG.warning("stopped volume %s is let go of in a moment: %s", uuid, failure)
            return
        LOG.warning("let go of volume %s, which the engine has stopped", uuid)

    def _shut_out(self, view: View) -> None:
        """Somebody waits for it: before what may take long."""
        me = self._host.settings.node
        tasks = {
            one.uuid: partial(self._shut_out_of, one.uuid)
            for one in view.volumes
            if one.node == me and one.enforced < one.generation
        }
        with self._guard:
            self._unsettled &= tasks.keys()
            again = {uuid: tasks.pop(uuid) for uuid in sorted(self._unsettled)}
        self._guards_again.work(again)
        self._guards.work(tasks)

    def _shut_out_of(self, uuid: str) -> None:
        try:
            with self._host.locks.trying(uuid, _BEHIND_VERB_S) as held:
                if not held:
                    self._unfinished = True
                    return
                current = self._host.store.volume(uuid)
                if current is not None and current.node == self._host.settings.node:
                    enforce(self._host, f"shut out former users of {current.name!r}", current)
        except VStorageError as failure:
            LOG.warning("it is tried again in a moment: %s", failure)
            with self._guard:
                self._unsettled.add(uuid)
            self._unfinished = True

    def _forget_failures(self, view: View) -> None:
        """When a node is back: what failed may have waited for it, and is tried at once."""
        alive = frozenset(view.alive)
        if alive - self._alive:
            self._attempts.forget()
        self._alive = alive

    def _leave_to_others(self, view: View) -> None:
        """Forget what was wrong here with volumes that others own by now and look after."""
        me = self._host.settings.node
        failed = self._host.failures()
        with self._guard:
            self._parted &= failed.keys()
            parted = set(self._parted)
        for volume in view.volumes:
            uuid = volume.uuid
            elsewhere = volume.node != me and volume.node in view.alive
            # That this node's Edge cannot serve a volume of another one is wrong here.
            mine = uuid not in parted and served_here(self._host, volume)
            if uuid in failed and elsewhere and not mine:
                self._host.forget_failure(uuid)
                with self._guard:
                    self._parted.discard(uuid)
                LOG.info("volume %s goes on at node %s", volume.name, volume.node)

    def _open_own(self, view: View) -> None:
        me, later = self._host.settings.node, waiting(view.cluster())
        missing = [
            one
            for one in view.volumes
            if one.node == me and one.uuid not in later and self._is_missing(one)
        ]
        # Whoever reads through an ancestor needs it open.
        missing.sort(key=lambda one: len(one.ancestors))
        tasks = {
            root: partial(self._open_family, family) for root, family in by_family(missing).items()
        }
        self._crew.work(tasks)

    def _open_family(self, family: Sequence[Volume]) -> None:
        for volume in family:
            if self._try(volume, self._open):
                self._hurry(volume)

    def _hurry(self, opened: Volume) -> None:
        """Its clones may have waited for nothing else."""
        if self._attempts.forget(opened):
            self._unfinished = True

    def _is_missing(self, volume: Volume) -> bool:
        there = volume.state in (State.AVAILABLE, State.HIDDEN)
        # One whose revert could not be finished is opened for that.
        return there and (volume.reverting is not None or not self._host.is_open(volume.uuid))

    def _open(self, volume: Volume) -> None:
        # Read again under its lock: it may be about to be deleted by now.
        current = self._host.store.volume(volume.uuid)
        if current is not None and self._is_missing(current):
            self._host.open(current)

    def _take_over(self, view: View) -> None:
        me = self._host.settings.node
        volumes = {volume.uuid: volume for volume in view.volumes}
        for node in view.nodes:
            if node.name in view.alive:
                continue
            fates = takeovers(view.cluster(beside=node.name), node.name)
            mine = by_family(volumes[fate.volume] for fate in fates if fate.owner == me)
            self._crew.work(
                {root: partial(self._take_family, family) for root, family in mine.items()}
            )

    def _take_family(self, family: Sequence[Volume]) -> None:
        """Take a dead node's relatives from it, and then open them one after the other."""
        taken: list[Taken] = []
        if any(self._host.is_open(one.uuid) for one in family):
            # They were this node's before, and it has not let go of them yet.
            self._unfinished = True
        else:
            self._attempts.attempt(family[0], lambda _: taken.extend(self._take(family)))
        for one in taken:
            if self._attempts.attempt(one.volume, partial(self._open_taken, family[0].node, one)):
                self._hurry(one.volume)

    def _take(self, family: Sequence[Volume]) -> list[Taken]:
        names = ", ".join(one.name for one in family)
        LOG.warning("node %s is dead: taking over %s", family[0].node, names)
        try:
            return self._host.opener.take_over(family)
        except Conflict as conflict:
            # Somebody changed a record since it was planned; the next pass plans anew.
            LOG.info("volume %s is looked at again: %s", family[0].name, conflict)
            self._unfinished = True
            return []

    def _open_taken(self, before: str, taken: Taken, volume: Volume) -> None:
        opened = open_taken(self._host, taken)
        told = {"volume": volume.uuid, "name": volume.name, "from": before, "to": opened.node}
        self._tell("volume.taken_over", told)

    def _bring_together(self, view: View) -> None:
        """Give what belongs to relatives on other nodes to those."""
        volumes = {volume.uuid: volume for volume in view.volumes}
        plan = leaving(view, self._host.settings.node)
        giving: dict[str, Callable[[], None]] = {}
        handing: dict[str, Callable[[], None]] = {}
        for root, family in by_family(volumes[uuid] for uuid in plan).items():
            anchor = volumes[plan[family[0].uuid].anchor]
            still = reasons(view, anchor)
            closed = [one for one in family if not self._host.is_open(one.uuid)]
            if all(plan[one.uuid].apart for one in closed):
                serving = [one for one in family if one not in closed]
                ready = [one for one in serving if not plan[one.uuid].apart or plan[one.uuid].sure]
                if ready:
                    act = partial(bring_together, self._host, ready, anchor, *still)
                    handing[f"handing over {root}"] = self._later(act, ready[0], "hand over")
            given = [one for one in closed if plan[one.uuid].apart]
            if given:
                act = partial(give_closed, self._host, given, anchor, *still)
                giving[f"giving {root}"] = self._later(act, given[0], "give")
        self._crew.work(giving)
        # These may wait for the backend for long.
        self._drainer.work(handing)

    def _later(self, act: Callable[[], None], volume: Volume, verb: str) -> Callable[[], None]:
        """The same as a task; it is not tried again for a while when it has failed."""

        def task() -> None:
            self._attempts.attempt(volume, lambda _: act(), f"{verb} {volume.uuid}")

        return task

    def _finish(self, view: View) -> None:
        """What dead nodes, or this one in an earlier life, have begun; locks of volumes and of what
        they were cloned from are taken one after the other, so that none is held here.
        """
        self._begun |= {one.uuid: one for one in left_to(view, self._host.settings.node)}
        tasks = {
            f"finishing {volume.uuid}": partial(self._finish_one, volume)
            for volume in list(self._begun.values())
        }
        unfinished, me = self._host.unfinished(), self._host.settings.node
        for volume in (one for one in view.volumes if one.uuid in unfinished):
            if volume.node == me:
                tasks[f"finishing snapshots of {volume.uuid}"] = partial(self._abandon, volume)
            else:
                # Whoever opens it finds them.
                self._host.set_unfinished(volume.uuid, False)
        volumes = {one.uuid: one for one in view.volumes if one.node == me}
        for uuid in self._host.unpurged():
            if uuid in volumes:
                tasks[f"finishing deletions in {uuid}"] = partial(self._purge, volumes[uuid])
            else:
                # It is gone, or its new owner finds them.
                self._host.set_unpurged(uuid, False)
        self._crew.work(tasks)

    def _finish_one(self, volume: Volume) -> None:
        if self._attempts.attempt(volume, partial(finish, self._host)):
            self._begun.pop(volume.uuid, None)

    def _purge(self, volume: Volume) -> None:
        self._attempts.attempt(
            volume, lambda one: purge(self._host, one.uuid), _purging(volume.uuid)
        )

    def _abandon(self, volume: Volume) -> None:
        self._host.set_unfinished(volume.uuid, False)
        if not self._attempts.attempt(volume, partial(abandon_snapshots, self._host)):
            self._host.set_unfinished(volume.uuid, True)

    def _pair(self, view: View) -> None:
        """Have the logs of this node's open volumes kept where they should be."""
        me = self._host.settings.node
        cluster = _with_addresses(view)
        volumes = {volume.uuid: volume for volume in view.volumes}
        for pairing in pairings(cluster):
            volume = volumes[pairing.volume]
            mine = volume.node == me and self._host.is_open(volume.uuid)
            # With nobody else there the present one may come back, and then has most of it.
            waits = pairing.after is None and cluster.node(pairing.before) is not None
            if mine and not (waits and volume.dtl.mode is not DtlMode.NONE):
                self._pair_one(volume, pairing.after)

    def _pair_one(self, volume: Volume, keeper: str | None) -> None:
        if keeper is not None and self._sweeper.is_at(_forgetting(volume.uuid, keeper)):
            # What it is about to forget would be the new log.
            self._unfinished = True
            return
        with self._host.locks.holding(dtl_lock(volume.uuid)):
            self._pair_with(volume, keeper)

    def _pair_with(self, volume: Volume, keeper: str | None) -> None:
        state = DtlState.STANDALONE if keeper is None else DtlState.DEGRADED
        paired = replace(volume, dtl=Dtl(volume.dtl.mode, keeper, state))
        try:
            self._host.store.commit(put(paired))
        except Conflict:
            return
        before = self._host.opener.dtl_spec(volume)
        former = self._former.setdefault(volume.uuid, {})
        if before is not None:
            former[before.node] = before.address
        LOG.info("volume %s: node %s is to keep its log", volume.name, keeper)
        self._say_pair(paired)

    def _say_pairs(self) -> None:
        """Tell the engine what it did not take before: until then it goes on with the former pair,
        while the record lets nobody take the volume over."""
        for uuid, epoch in list(self._unheard.items()):
            with self._host.locks.holding(dtl_lock(uuid)):
                volume = self._host.store.volume(uuid)
                # An opening brings its own.
                opened = self._host.is_open(uuid) and volume is not None and volume.epoch == epoch
                if opened and volume is not None and volume.dtl.state is not DtlState.IN_SYNC:
                    self._say_pair(volume)
                else:
                    del self._unheard[uuid]

    def _say_pair(self, volume: Volume) -> None:
        try:
            self._host.engine.set_dtl(volume.uuid, self._host.opener.dtl_spec(volume))
        except VStorageError as failure:
            self._host.remember_failure(volume.uuid, failure)
            self._unheard[volume.uuid] = volume.epoch
            self._unfinished = True
            return
        if self._unheard.pop(volume.uuid, None) is not None:
            self._host.forget_failure(volume.uuid)

    def _forget_former(self, view: View) -> None:
        """Nodes that kept logs before may forget them when others have them complete.

        Those that are away are asked when they are back.
        """
        me = self._host.settings.node
        volumes = {one.uuid: one for one in view.volumes if one.node == me}
        self._former = {
            uuid: nodes for uuid, nodes in self._former.items() if nodes and uuid in volumes
        }
        tasks: dict[str, Callable[[], None]] = {}
        for uuid, nodes in self._former.items():
            volume = volumes[uuid]
            # It is no former one any more.
            nodes.pop(volume.dtl.node or "", None)
            if volume.dtl.state is not DtlState.IN_SYNC:
                continue
            for node, address in list(nodes.items()):
                if node in view.alive:
                    tasks[_forgetting(uuid, node)] = partial(self._forget, volume, node, address)
        self._sweeper.work(tasks)

    def _forget(self, volume: Volume, node: str, address: str) -> None:
        try:
            self._host.engine.drop_tail(volume.uuid, volume.epoch, address)
        except VStorageError as failure:
            LOG.warning("the former log of volume %s stays on %s: %s", volume.name, node, failure)
        else:
            self._former.get(volume.uuid, {}).pop(node, None)

    def _drain(self, view: View) -> None:
        me = self._host.settings.node
        if any(one.name == me and one.draining for one in view.nodes):
            plan = [(move.volume, move.after) for move in plan_drain(view.cluster(me), me).moves]
            # One after the other, so that guests wait for one hand-over at a time; and a backend
            # that is away holds up nothing but this.
            self._drainer.work({"draining": partial(self._give_away, plan)})

    def _is_draining(self) -> bool:
        node = self._host.store.node(self._host.settings.node)
        return node is not None and node.draining and not self._stopping.is_set()

    def _give_away(self, plan: Sequence[tuple[str, str]]) -> None:
        me = self._host.settings.node
        for uuid, target in plan:
            try:
                if not self._is_draining():
                    return
                current = self._host.store.volume(uuid)
                if current is not None and current.node == me:
                    move_volume(self._host, uuid, target)
            except VStorageError as failure:
                LOG.warning("volume %s stays for now: %s", uuid, failure)

    def _try(self, volume: Volume, act: Callable[[Volume], None]) -> bool:
        def locked(volume: Volume) -> None:
            with self._host.locks.holding(volume.uuid):
                act(volume)

        return self._attempts.attempt(volume, locked)


def _forgetting(uuid: str, node: str) -> str:
    """That a node is told to forget a log that it kept before."""
    return f"forgetting {uuid} at {node}"


def _purging(uuid: str) -> str:
    """What may have failed in a volume beside its opening."""
    return f"deletions in {uuid}"


def _tell_nobody(what: str, about: dict[str, Any]) -> None:
    """No bus is configured."""


def _nobody_waits() -> None:
    """Nobody is told."""


def _with_addresses(view: View) -> Cluster:
    """The cluster, with those that cannot keep a log made unusable for it."""
    keeping = {node.name for node in view.nodes if "dtl" in node.addresses}
    cluster = view.cluster()
    nodes = (replace(one, router=one.router and one.name in keeping) for one in cluster.nodes)
    return replace(cluster, nodes=tuple(nodes))
