"""Long sequences of failures, repairs, drains and new volumes: the promises hold all the way."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ovs_daemon.policy.drain import carried_out, plan_drain
from ovs_daemon.policy.model import Cluster, DtlMode, DtlState, Node, Volume
from ovs_daemon.policy.placement import paired, pairings, place_mds
from ovs_daemon.policy.takeover import settled, takeovers

NODES = tuple(
    Node(f"{domain}{number}", domain, recovery)
    for domain, recovery in (("a", "b"), ("b", "a"), ("c", None))
    for number in range(3)
)
NAMES = st.sampled_from([node.name for node in NODES])


class Life(RuleBasedStateMachine):
    """A cluster whose daemons do what the policy says, and whose volumes remember where every
    acknowledged write is: ``complete`` holds the nodes that have them all."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(NODES)
        self.complete: dict[str, set[str]] = {}
        self.number = 0

    @rule(owner=NAMES, mode=st.sampled_from([DtlMode.SYNC, DtlMode.SYNC, DtlMode.NONE]))
    def create(self, owner: str, mode: DtlMode) -> None:
        if not self.cluster.alive(owner):
            return
        self.number += 1
        volume = Volume(f"v{self.number:03}", owner, mode)
        self.cluster = replace(self.cluster, volumes=(*self.cluster.volumes, volume))
        volume = settled(self.cluster, volume)
        self.cluster = self.cluster.with_volume(volume)
        self.written(volume)

    def written(self, volume: Volume) -> None:
        """The owner acknowledges a write: all that it waits for have everything, others do not."""
        have = {volume.owner}
        if volume.mode is DtlMode.SYNC and volume.dtl_state is DtlState.IN_SYNC:
            assert volume.dtl_node is not None
            have.add(volume.dtl_node)
        self.complete[volume.uuid] = have

    @rule(name=NAMES)
    def fail(self, name: str) -> None:
        self.cluster = self.cluster.without([name])
        # Degrade before acknowledge: owners notice, and say so, before they go on alone.
        for volume in self.cluster.volumes:
            noticed = volume.dtl_node == name and self.cluster.alive(volume.owner)
            if noticed and volume.dtl_state is DtlState.IN_SYNC:
                alone = replace(volume, dtl_state=DtlState.DEGRADED)
                self.cluster = self.cluster.with_volume(alone)
                self.written(alone)

    @rule(name=NAMES)
    def repair(self, name: str) -> None:
        nodes = (replace(one, alive=one.alive or one.name == name) for one in self.cluster.nodes)
        self.cluster = replace(self.cluster, nodes=tuple(nodes))

    @rule()
    def pair_again(self) -> None:
        for pairing in pairings(self.cluster):
            volume = next(one for one in self.cluster.volumes if one.uuid == pairing.volume)
            volume = paired(volume, pairing.after)
            followers = place_mds(self.cluster, volume.owner, volume.dtl_node)
            volume = replace(volume, mds=followers)
            self.cluster = self.cluster.with_volume(volume)
            self.written(volume)

    @rule()
    def take_over(self) -> None:
        for node in self.cluster.nodes:
            if node.alive:
                continue
            for fate in takeovers(self.cluster, node.name):
                if fate.owner is None:
                    continue
                volume = next(one for one in self.cluster.volumes if one.uuid == fate.volume)
                # What the new owner does: it reads the log's tail, and then has everything, too.
                assert volume.dtl_node in self.complete[volume.uuid]
                assert self.cluster.alive(volume.dtl_node)
                others = tuple(name for name in volume.mds if name != fate.owner)
                changed = replace(volume, owner=fate.owner, mds=others)
                if changed.dtl_node == changed.owner:
                    changed = replace(changed, dtl_node=None, dtl_state=DtlState.STANDALONE)
                self.cluster = self.cluster.with_volume(changed)
                self.written(changed)

    @precondition(lambda self: sum(node.alive for node in self.cluster.nodes) > 1)
    @rule(name=NAMES)
    def drain(self, name: str) -> None:
        if not self.cluster.alive(name):
            return
        plan = plan_drain(self.cluster, name)
        done = carried_out(self.cluster, plan)
        assert done.owned(name) == ()
        nodes = self.cluster.nodes
        for volume in done.volumes:
            if not done.alive(volume.owner):
                continue
            again = paired(volume, volume.dtl_node)
            done = done.with_volume(again)
            self.written(again)
        self.cluster = replace(done, nodes=nodes)

    @invariant()
    def no_acknowledged_write_is_only_in_a_log_that_says_otherwise(self) -> None:
        for volume in self.cluster.volumes:
            if volume.mode is DtlMode.SYNC and volume.dtl_state is DtlState.IN_SYNC:
                assert volume.dtl_node in self.complete[volume.uuid]

    @invariant()
    def no_volume_keeps_its_own_log(self) -> None:
        for volume in self.cluster.volumes:
            assert volume.dtl_node != volume.owner
            assert volume.owner not in volume.mds


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
