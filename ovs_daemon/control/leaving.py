"""OSDs that leave the cluster: emptied, or lost for good, and then forgotten.

The registry says how an OSD stands, and every node's engine is told. ``member`` becomes ``leaving``
by `vstorage osd decommission` and ``lost`` by `vstorage osd remove --lost`. The node that repairs
the OSD's Domain has its engine find out how far it is, and records what may come next: ``leaving``
-> ``sealed`` -> ``removed``, or ``lost`` -> ``removed``; the engine decides when
(`machines::alba::parting`). What is ``removed`` stays in the registry, so that nobody ever believes
that disk again.

That everybody has heard that an OSD is lost, each node says by a record of its own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ovs_daemon.control.host import Host
from ovs_daemon.control.preset_use import find_preset
from ovs_daemon.control.releases import refuse_mixed
from ovs_daemon.control.store import Store, put
from ovs_daemon.control.topology import CAPACITY, Heard, Node, Osd, Standing
from ovs_daemon.control.view import View
from ovs_daemon.errors import Code, VStorageError, unknown_osd
from ovs_daemon.registry import Conflict, retry

LOG = logging.getLogger(__name__)

PARTING = (Standing.LEAVING, Standing.SEALED, Standing.LOST)


def say_heard(store: Store, node: str, osds: Sequence[Osd]) -> None:
    """Record that this node's engine counts nothing that these answer which are lost."""
    lost = {osd.uuid: osd.version for osd in osds if osd.standing is Standing.LOST}

    def attempt() -> None:
        before = store.heard().get(node, Heard(node))
        if before.osds != lost:
            store.commit(put(replace(before, osds=lost)))

    retry(f"say what node {node!r} has heard", attempt)


def heard_by_all(view: View, store: Store, me: Node, osds: Sequence[Osd]) -> dict[str, int]:
    """Of the lost OSDs those of which every node has heard that puts objects, with the version of
    the record that it has heard of.

    A dead node counts as well, unless its lease guards what it has open: it may live where the
    registry cannot be reached.
    """
    said = store.heard()
    nodes = [
        node.name
        for node in view.nodes
        if node.shares_backend(me) and (node.name in view.alive or "dtl" not in node.addresses)
    ]

    def has_heard(node: str, osd: Osd) -> bool:
        return node in said and said[node].osds.get(osd.uuid) == osd.version

    return {
        osd.uuid: osd.version
        for osd in osds
        if osd.standing is Standing.LOST and all(has_heard(node, osd) for node in nodes)
    }


def next_of(osd: Osd, figures: Mapping[str, Any]) -> Standing | None:
    """How an OSD may stand next, by what the engine has found out; None: as it does."""
    told = figures.get("leaving", {}).get(osd.uuid)
    if told is None or told["next"] is None or told["standing"] != osd.standing:
        return None
    if osd.standing is Standing.LOST and told["heard"] != osd.version:
        return None
    return Standing(told["next"])


def advance(store: Store, osds: Sequence[Osd], figures: Mapping[str, Any]) -> bool:
    """Record what the engine has found out about OSDs that leave; whether there was something."""
    found = False
    for osd in osds:
        standing = next_of(osd, figures)
        if standing is None:
            continue
        found = True
        try:
            store.commit(put(replace(osd, standing=standing)))
        except Conflict:
            # Somebody has decided something else; it is looked at again.
            continue
        LOG.info("OSD %s of %s is %s now", osd.uuid, osd.domain, standing)
    return found


class LeavingVerbs:
    """The verbs on OSDs that leave. Each raises :class:`VStorageError`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def decommission(self, uuid: str) -> Osd:
        """Have what is on an OSD stored elsewhere, and the OSD removed when nothing is left."""
        what = f"decommission OSD {uuid!r}"

        def attempt() -> Osd:
            osd = self._find(what, uuid)
            if osd.standing in (Standing.LEAVING, Standing.SEALED):
                return osd
            if osd.standing is Standing.LOST:
                raise _refused(
                    what, "it was said to be lost", f"'vstorage osd resume {uuid}' if it is not"
                )
            if osd.role != CAPACITY:
                return self._stand(osd, Standing.REMOVED)
            if not self._reachable(osd):
                raise _refused(
                    what,
                    "this node cannot reach it, so that nothing on it can be moved",
                    f"start its server; or 'vstorage osd remove {uuid} --lost' if it will never "
                    "be back",
                )
            # A node of an earlier release may put objects there as before.
            refuse_mixed(what, View.of(self._host.store))
            self._refuse_needed(what, osd)
            return self._stand(osd, Standing.LEAVING)

        return retry(what, attempt)

    def remove(self, uuid: str, lost: bool) -> Osd:
        """Forget an OSD that will never be back, once what was on it is stored elsewhere.

        :param lost: that it will never be back
        """
        what = f"remove OSD {uuid!r}"

        def attempt() -> Osd:
            osd = self._find(what, uuid)
            if osd.standing is Standing.LOST:
                return osd
            if osd.role != CAPACITY:
                return self._stand(osd, Standing.REMOVED)
            if not lost:
                self._refuse_removal(what, osd)
            if self._reachable(osd):
                raise _refused(
                    what,
                    "it is not lost: it answers",
                    f"'vstorage osd decommission {uuid}' moves what is on it; if that must be "
                    "given up, stop its server first",
                )
            refuse_mixed(what, View.of(self._host.store))
            return self._stand(osd, Standing.LOST)

        return retry(what, attempt)

    def resume(self, uuid: str) -> Osd:
        """Make an OSD a member again that leaves, or was said to be lost."""
        what = f"resume OSD {uuid!r}"

        def attempt() -> Osd:
            osd = self._find(what, uuid)
            if osd.standing is Standing.SEALED:
                raise _refused(
                    what,
                    "it is empty and has noted that it stores nothing any more",
                    "let it be removed, empty its disk and claim it anew",
                )
            return self._stand(osd, Standing.MEMBER)

        return retry(what, attempt)

    def _find(self, what: str, uuid: str) -> Osd:
        osd = self._host.store.osd(uuid)
        if osd is None or osd.standing is Standing.REMOVED:
            raise unknown_osd(what, uuid)
        return osd

    def _stand(self, osd: Osd, standing: Standing) -> Osd:
        if osd.standing is standing:
            return osd
        changed = replace(osd, standing=standing)
        changed = replace(changed, version=self._host.store.commit(put(changed)))
        LOG.info("OSD %s of %s is %s now", osd.uuid, osd.domain, standing)
        return changed

    def _reachable(self, osd: Osd) -> bool:
        states = {state["osd"]: state for state in self._host.engine.osd_states()}
        return bool(states.get(osd.uuid, {}).get("reachable"))

    def _refuse_removal(self, what: str, osd: Osd) -> None:
        if osd.standing is Standing.MEMBER:
            raise _refused(
                what,
                "fragments on it may be nowhere else",
                f"'vstorage osd decommission {osd.uuid}' moves them, and removes it then; with "
                "--lost if it will never be back",
            )
        figures = self._host.engine.upkeep() or {}
        alone = figures.get("leaving", {}).get(osd.uuid, {}).get("alone")
        known = "how many is not known here" if alone is None else f"{alone} at the last look"
        raise _refused(
            what,
            f"it is {osd.standing}, and not yet empty: fragments that are nowhere else, {known}",
            "it is removed by itself when nothing is left; 'vstorage alba status' on a node of its "
            "Domain tells more",
        )

    def _refuse_needed(self, what: str, osd: Osd) -> None:
        """Refuse to empty an OSD for whose fragments there is no other place."""
        store = self._host.store
        named = {volume.preset for volume in store.volumes() if volume.preset is not None}
        for name in sorted(named | {self._host.settings.preset or "default"}):
            spec, _ = find_preset(store, self._host.engine, what, name)
            members = [
                one
                for one in store.osds()
                if one.role == CAPACITY and one.standing is Standing.MEMBER
            ]
            before = self._host.engine.judge_preset(spec, _shape(members))
            rest = [one for one in members if one.uuid != osd.uuid]
            after = self._host.engine.judge_preset(spec, _shape(rest))
            if before["policy"] is not None and after["policy"] != before["policy"]:
                raise _refused(
                    what,
                    f"without it the OSDs satisfy the policy of preset {name!r} no more by "
                    f"which objects are stored: {osd.domain} would have no place for what is on it",
                    f"add an OSD to {osd.domain} first, on this node or another: 'vstorage osd "
                    "claim', then 'vstorage osd add'",
                )


def _shape(osds: Sequence[Osd]) -> list[dict[str, Any]]:
    """Nodes with their disks, as presets are held against them."""
    disks = Counter((osd.domain, osd.node) for osd in osds)
    return [
        {"domain": domain, "node": node, "disks": count}
        for (domain, node), count in sorted(disks.items())
    ]


def _refused(what: str, why: str, fix: str) -> VStorageError:
    return VStorageError(Code.IN_USE, what, why, fix)
