"""What a failure would do, found by letting the same policy decide about a cluster that has it.

Nothing here guesses: the takeovers and pairings are those that would be made.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from ovs_daemon.policy.model import Cluster, DtlMode
from ovs_daemon.policy.placement import keepers
from ovs_daemon.policy.takeover import Takeover, taken_over, takeovers


@dataclass(frozen=True)
class Outcome:
    """What becomes of the volumes when some nodes are lost.

    :param lost: the nodes that were alive before
    :param continuing: volumes with which another node goes on by itself
    :param stopped: volumes with which nobody goes on by itself, and why
    :param unprotected: volumes that go on, want a DTL and find no node for it
    :param outside: volumes whose DTL is outside the Recovery Domain afterwards
    """

    lost: tuple[str, ...]
    continuing: tuple[Takeover, ...]
    stopped: tuple[Takeover, ...]
    unprotected: tuple[str, ...]
    outside: tuple[str, ...]

    @property
    def harmless(self) -> bool:
        """Whether no volume stops and none is left without protection."""
        return not self.stopped and not self.unprotected


class What(enum.StrEnum):
    """What may be lost at once."""

    NODE = "node"
    DOMAIN = "domain"


@dataclass(frozen=True)
class Risk:
    """A failure that is still to come, and what it would do."""

    what: What
    name: str
    outcome: Outcome


def lose(cluster: Cluster, names: Sequence[str]) -> Outcome:
    """What happens when these nodes are lost at the same moment."""
    lost = tuple(sorted(name for name in set(names) if cluster.alive(name)))
    left = cluster.without(lost)
    fates: list[Takeover] = []
    for name in lost:
        decided = takeovers(left, name)
        left = taken_over(left, decided)
        fates += decided
    allowed = {name: keepers(left, name) for name in {one.owner for one in left.volumes}}
    unprotected, outside = [], []
    for volume in sorted(left.volumes, key=lambda one: one.uuid):
        if not left.alive(volume.owner) or volume.mode is DtlMode.NONE:
            continue
        who = allowed[volume.owner]
        if not who.names:
            unprotected.append(volume.uuid)
        elif who.fallback:
            outside.append(volume.uuid)
    return Outcome(
        lost,
        tuple(fate for fate in fates if fate.owner is not None),
        tuple(fate for fate in fates if fate.owner is None),
        tuple(unprotected),
        tuple(outside),
    )


def risks(cluster: Cluster) -> tuple[Risk, ...]:
    """What each single loss of a living node or of a Domain would do, worst first; harmless ones
    are left out."""
    found = []
    for node in sorted(cluster.nodes, key=lambda one: one.name):
        if node.alive:
            found.append(Risk(What.NODE, node.name, lose(cluster, [node.name])))
    for domain in cluster.domains():
        members = [node.name for node in cluster.members(domain) if node.alive]
        if len(members) > 1:
            found.append(Risk(What.DOMAIN, domain, lose(cluster, members)))
    harmful = [risk for risk in found if not risk.outcome.harmless]
    return tuple(sorted(harmful, key=_badness))


def _badness(risk: Risk) -> tuple[int, int, str, str]:
    outcome = risk.outcome
    return (-len(outcome.stopped), -len(outcome.unprotected), risk.what.value, risk.name)
