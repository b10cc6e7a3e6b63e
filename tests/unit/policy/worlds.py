"""Every small cluster: up to three Domains of up to three nodes, every choice of Recovery Domains,
every set of lost nodes, volumes in every state of their DTL, nodes that are being drained.

Nodes of a Domain are alike, and so are Domains; of clusters that differ only in that, one is taken
(Domains by falling size; owners are the first nodes of their Domains).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

# In all Domains together. `make exhaust-policy` takes more than the unit tests have time for.
NODES_MAX = int(os.environ.get("POLICY_NODES", "5"))
DRAINED_NODES_MAX = 4
DOMAINS = "abc"


def topologies() -> Iterator[tuple[tuple[int, ...], tuple[int | None, ...]]]:
    """Sizes of the Domains, and which Domain (index) is the Recovery Domain of each."""
    for count in (1, 2, 3):
        for sizes in itertools.product((3, 2, 1), repeat=count):
            if list(sizes) != sorted(sizes, reverse=True) or sum(sizes) > NODES_MAX:
                continue
            choices = [[None, *(j for j in range(count) if j != i)] for i in range(count)]
            for recovery in itertools.product(*choices):
                yield sizes, recovery


def healthy(
    policy: SimpleNamespace, sizes: tuple[int, ...], recovery: tuple[int | None, ...]
) -> Any:
    """A cluster in which everybody lives and every volume is where it should be."""
    model = policy.model
    nodes = []
    for place, size in enumerate(sizes):
        other = recovery[place]
        wanted = None if other is None else DOMAINS[other]
        nodes += [
            model.Node(f"{DOMAINS[place]}{number}", DOMAINS[place], wanted)
            for number in range(size)
        ]
    cluster = model.Cluster(tuple(nodes))
    for place in range(min(2, len(sizes))):
        owner = f"{DOMAINS[place]}0"
        for volume in _volumes(model, owner):
            cluster = replace(cluster, volumes=(*cluster.volumes, volume))
            settled = policy.takeover.settled(cluster, volume)
            state = settled.dtl_state if volume.dtl_state is None else volume.dtl_state
            if settled.dtl_node is None:
                state = model.DtlState.STANDALONE
            followers = () if volume.uuid.endswith("cold") else settled.mds
            cluster = cluster.with_volume(replace(settled, dtl_state=state, mds=followers))
    return cluster


def _volumes(model: Any, owner: str) -> list[Any]:
    """One volume of each kind; the state None becomes the one that it has when all is well."""

    def volume(
        name: str, mode: Any, state: Any = None, *ancestors: str, handed: bool = False
    ) -> Any:
        uuids = tuple(f"{owner}-{one}" for one in ancestors)
        return model.Volume(f"{owner}-{name}", owner, mode, None, state, (), uuids, handed)

    sync = model.DtlMode.SYNC
    return [
        volume("root", sync),
        volume("clone", sync, None, "root"),
        volume("degraded", sync, model.DtlState.DEGRADED),
        volume("child", sync, None, "degraded"),
        volume("catching", sync, model.DtlState.CATCHING_UP),
        volume("async", model.DtlMode.ASYNC),
        volume("none", model.DtlMode.NONE),
        volume("handed", model.DtlMode.NONE, handed=True),
        volume("cold", sync),
    ]


def damaged(cluster: Any) -> Iterator[tuple[str, Any]]:
    """The cluster with every set of nodes lost, none to all, and (in the smaller ones) with every
    living node being drained; each with words that say so. Few losses come first."""
    names = [node.name for node in cluster.nodes]
    for count in range(len(names) + 1):
        for lost in itertools.combinations(names, count):
            world = cluster.without(lost)
            yield f"lost {lost}", world
            if len(names) <= DRAINED_NODES_MAX:
                for name in sorted(set(names) - set(lost)):
                    yield f"lost {lost}, {name} drained", world.draining(name)
