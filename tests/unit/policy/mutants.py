"""Deliberate faults, each of which the invariant named must notice."""

from __future__ import annotations

from tests.unit.policy import family_world
from tests.unit.policy.invariants import (
    draining_empties,
    log_is_where_it_should_be,
    logs_are_spread,
    maps_are_followed,
    one_failure_is_survived,
    order_does_not_matter,
    pairings_settle,
    risks_are_complete,
    successors_are_the_best,
    takeover_happens,
    takeover_needs_the_log,
    what_if_is_what_happens,
)
from tests.unit.policy.loading import Mutant
from tests.unit.policy.ownership_world import Bounds

MUTANTS = (
    Mutant(
        "an owner keeps its own log",
        "placement",
        "return tuple(node.name for node in nodes if node.usable and node.name != owner)",
        "return tuple(node.name for node in nodes if node.usable)",
        log_is_where_it_should_be.__name__,
    ),
    Mutant(
        "a Recovery Domain is not looked at",
        "placement",
        "if node.recovery_domain is not None:\n        chosen",
        "if False:\n        chosen",
        log_is_where_it_should_be.__name__,
    ),
    Mutant(
        "dead nodes are given logs",
        "model",
        "return self.router and self.alive and self.domain is not None",
        "return self.router and self.domain is not None",
        log_is_where_it_should_be.__name__,
    ),
    Mutant(
        "the first node by name keeps all logs",
        "placement",
        "key=lambda name: (logs[name], name)",
        "key=lambda name: name",
        logs_are_spread.__name__,
    ),
    Mutant(
        "a log is copied although it is in the right Domain",
        "placement",
        "return volume.dtl_node in allowed.names",
        "return volume.dtl_node == allowed.names[0]",
        pairings_settle.__name__,
    ),
    Mutant(
        "a dead keeper is not replaced",
        "placement",
        "return volume.dtl_node in allowed.names",
        "return volume.dtl_node is not None",
        pairings_settle.__name__,
    ),
    Mutant(
        "nobody of the Recovery Domain follows the map",
        "placement",
        "for domain in (node.domain, node.recovery_domain):",
        "for domain in (node.domain,):",
        maps_are_followed.__name__,
    ),
    Mutant(
        "the keeper of the log follows the map although another node could",
        "placement",
        "key=lambda name: (name == dtl_node, maps[name], name)",
        "key=lambda name: (name != dtl_node, maps[name], name)",
        maps_are_followed.__name__,
    ),
    Mutant(
        "a degraded volume is taken over",
        "takeover",
        "if volume.dtl_state is not DtlState.IN_SYNC:",
        "if volume.dtl_state is DtlState.CATCHING_UP:",
        takeover_needs_the_log.__name__,
    ),
    Mutant(
        "an asynchronous log is believed to be complete",
        "takeover",
        "if volume.mode is not DtlMode.SYNC:",
        "if volume.mode is DtlMode.NONE:",
        takeover_needs_the_log.__name__,
    ),
    Mutant(
        "a log on a dead node is believed to be readable",
        "takeover",
        "if not cluster.alive(volume.dtl_node):",
        "if cluster.node(volume.dtl_node) is None:",
        takeover_needs_the_log.__name__,
    ),
    Mutant(
        "every volume is believed to be on the backend",
        "takeover",
        "None if volume.handed else",
        "None if True else",
        takeover_needs_the_log.__name__,
    ),
    Mutant(
        "what was given to a node that died before it opened it waits for that node",
        "takeover",
        "None if volume.handed else",
        "None if False else",
        takeover_happens.__name__,
    ),
    Mutant(
        "a clone goes elsewhere than its ancestors",
        "takeover",
        "        if owner in names:",
        "        if False:",
        takeover_happens.__name__,
    ),
    Mutant(
        "a clone is taken over although its ancestor must stay",
        "takeover",
        "if any(one is not None and not cluster.alive(one) for one in found):",
        "if any(one is None for one in found):",
        takeover_happens.__name__,
    ),
    Mutant(
        "clones are taken over before their ancestors",
        "model",
        "key=lambda volume: (len(volume.ancestors), volume.uuid)",
        "key=lambda volume: (-len(volume.ancestors), volume.uuid)",
        takeover_happens.__name__,
    ),
    Mutant(
        "a warm map is not preferred",
        "takeover",
        "node.name not in volume.mds,",
        "False,",
        successors_are_the_best.__name__,
    ),
    Mutant(
        "whoever keeps the log goes on, so that one copy is left",
        "takeover",
        "node.name == volume.dtl_node,",
        "node.name != volume.dtl_node,",
        successors_are_the_best.__name__,
    ),
    Mutant(
        "ties are settled by the order in which nodes are listed",
        "takeover",
        "owners.count(node.name),\n            node.name,",
        "owners.count(node.name),",
        order_does_not_matter.__name__,
    ),
    Mutant(
        "a drained node keeps the logs it has",
        "drain",
        "paired = pairings(cluster)",
        "paired: tuple[Pairing, ...] = ()",
        draining_empties.__name__,
    ),
    Mutant(
        "a drained node is given volumes",
        "model",
        "draining=node.draining or node.name == name",
        "draining=node.draining",
        draining_empties.__name__,
    ),
    Mutant(
        "a drained node goes on following maps",
        "drain",
        "if not cluster.alive(volume.owner) or mds_belongs(cluster, volume):",
        "if True:",
        draining_empties.__name__,
    ),
    Mutant(
        "what-if forgets the takeovers when it looks for logs",
        "what_if",
        "left = taken_over(left, decided)",
        "left = left.without([name])",
        what_if_is_what_happens.__name__,
    ),
    Mutant(
        "what-if does not see who is left without a log",
        "what_if",
        "if not who.names:",
        "if False:",
        what_if_is_what_happens.__name__,
    ),
    Mutant(
        "Domains are not asked about",
        "what_if",
        "if len(members) > 1:",
        "if len(members) > 9:",
        risks_are_complete.__name__,
    ),
    Mutant(
        "the mildest failure comes first",
        "what_if",
        "(-len(outcome.stopped), -len(outcome.unprotected)",
        "(len(outcome.stopped), len(outcome.unprotected)",
        risks_are_complete.__name__,
    ),
    Mutant(
        "nobody goes on with a volume whose log is in another Domain",
        "takeover",
        "if volume.mode is DtlMode.NONE or volume.dtl_node is None:",
        "if volume.dtl_node is None or volume.dtl_node[0] != volume.owner[0]:",
        one_failure_is_survived.__name__,
    ),
)

# Which world shows what; each is explored in about a second.
OWNERSHIP_WORLDS = {
    "owners": Bounds(writes=1, crashes=1, pauses=1, cuts=1),
    "owners-power": Bounds(writes=1, crashes=2, pauses=0, cuts=1, power=1),
    "owners-clock": Bounds(writes=1, crashes=1, pauses=1, cuts=1, aware=False),
    "owners-answers": Bounds(writes=1, crashes=1, pauses=0, cuts=1, lost_answers=1),
    "owners-outage": Bounds(writes=1, crashes=1, pauses=0, cuts=1, outages=1),
    "owners-disk": Bounds(writes=1, crashes=1, pauses=0, cuts=1, disks=1),
    "owners-moves": Bounds(writes=2, crashes=1, pauses=0, cuts=0, moves=1),
    "owners-gives": Bounds(writes=1, crashes=1, pauses=0, cuts=1, power=1, gives=1),
}

OWNERSHIP_MUTANTS = (
    (
        "owners",
        Mutant(
            "a new owner does not fetch the log",
            "ownership",
            "return Decision(Step.FETCH, keep_local=last)",
            "return Decision(Step.OPEN)",
            "who serves has every acknowledged write",
        ),
    ),
    (
        "owners-power",
        Mutant(
            "what is here counts more than the log, whoever served last",
            "ownership",
            "return Decision(Step.FETCH, keep_local=last)",
            "return Decision(Step.FETCH, keep_local=True)",
            "who serves has every acknowledged write",
        ),
    ),
    (
        "owners",
        Mutant(
            "nobody records who served last",
            "ownership",
            "    if outcome is Fetch.DONE:\n        return _open(me, record, here)",
            "    if outcome is Fetch.DONE:\n        return Decision(Step.OPEN)",
            "who serves has every acknowledged write",
        ),
    ),
    (
        "owners-clock",
        Mutant(
            "a former owner may record that its log is degraded",
            "ownership",
            "if (record.owner, record.epoch, record.keeper) != (me, epoch, keeper):",
            "if record.keeper != keeper:",
            "who serves has every acknowledged write",
        ),
    ),
    (
        "owners",
        Mutant(
            "a node opens what another one owns",
            "ownership",
            "    if record.owner != me:\n        if not chosen",
            "    if False:\n        if not chosen",
            "one node serves",
        ),
    ),
    (
        "owners-outage",
        Mutant(
            "an owner that lost power goes on without its keeper",
            "ownership",
            "if served and lost is not None:",
            "if served and lost is Loss.FOLDER:",
            "who serves has every acknowledged write",
        ),
    ),
    (
        "owners-outage",
        Mutant(
            "that power was lost is forgotten before the log is there",
            "ownership",
            "return Decision(Step.RAISE_EPOCH, replace(record, epoch=record.epoch + 1))",
            "return Decision(Step.RAISE_EPOCH, replace(record, epoch=record.epoch + 1, home=here))",
            "who serves has every acknowledged write",
        ),
    ),
    (
        "owners-outage",
        Mutant(
            "a volume is given back to an owner that lost power, without its log",
            "ownership",
            "Step.GIVE_BACK, replace(record, owner=record.served, epoch=record.epoch + 1)",
            "Step.GIVE_BACK, replace(record, owner=record.served, epoch=record.epoch + 1, "
            "state=DtlState.DEGRADED)",
            "who serves has every acknowledged write",
        ),
    ),
    (
        "owners-disk",
        Mutant(
            "a node with an empty disk opens what only it had",
            "ownership",
            "if loss(record, here) is Loss.FOLDER:",
            "if loss(record, here) is Loss.POWER:",
            "who serves has every acknowledged write",
        ),
    ),
    (
        "owners-moves",
        Mutant(
            "leftovers are opened with what the backend has",
            "ownership",
            "            return Decision(Step.CLEAR)",
            "            return Decision(Step.ADOPT, replace(record, home=here, saved=False))",
            "what was given up does not come back",
        ),
    ),
    (
        "owners-gives",
        Mutant(
            "a volume that is given away is believed to be whole where it goes",
            "ownership",
            "return Decision(Step.GIVE, replace(record, owner=to, epoch=record.epoch + 1))",
            "return Decision(Step.GIVE, replace(record, owner=to, served=to, "
            "epoch=record.epoch + 1))",
            "who serves has every acknowledged write",
        ),
    ),
    (
        "owners-gives",
        Mutant(
            "a volume that is open is given away",
            "ownership",
            "if record.owner != me or known.opened is not None:",
            "if record.owner != me:",
            "one node serves",
        ),
    ),
)

_CLONE, _TWO_CLONES, _CHAIN = ((), (0,)), ((), (0,), (0,)), ((), (0,), (0, 1))
# Which world shows what; each is explored in about a second.
FAMILY_WORLDS = {
    "family": family_world.Bounds(_CLONE, deaths=2, degrades=1, at_once=1),
    "family-keeper": family_world.Bounds(_CLONE, deaths=2, keeper_deaths=1, at_once=1),
    "family-large": family_world.Bounds(_TWO_CLONES, deaths=2, at_once=1),
    "family-logs": family_world.Bounds(_TWO_CLONES, degrades=1, bad_logs=1, at_once=2),
    "family-chain": family_world.Bounds(_CHAIN, degrades=2, at_once=2),
}

FAMILY_MUTANTS = (
    (
        "family",
        Mutant(
            "what only its node has is not followed by its relatives",
            "family",
            "anchor = next(needed, self._oldest)",
            "anchor = self._oldest",
            family_world.TOGETHER,
        ),
    ),
    (
        "family",
        Mutant(
            "what only its node has is given away",
            "family",
            "return volume.handed or missing_log(cluster, volume) is None",
            "return True",
            family_world.TOGETHER,
        ),
    ),
    (
        "family-keeper",
        Mutant(
            "what a node has not, and cannot get, waits there for its relatives",
            "family",
            "if one.uuid not in self._stays or _has_it(one):",
            "if True:",
            family_world.TOGETHER,
        ),
    ),
    (
        "family-large",
        Mutant(
            "what a takeover has left is nobody's business",
            "family",
            "if one.owner != anchor.owner and one.uuid not in self._stays:",
            "if one.owner != anchor.owner and one.uuid not in self._apart:",
            family_world.TOGETHER,
        ),
    ),
    (
        "family-logs",
        Mutant(
            "a parent is handed over without a clone that has just been opened",
            "family",
            "if uuid not in going and any(one in going for one in ancestors):",
            "if False:",
            family_world.ALONE,
        ),
    ),
)
