"""A volume goes to another node, or a person takes it over whatever may be lost."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from ovs_daemon.control.family import open_taken, relatives
from ovs_daemon.control.host import Host
from ovs_daemon.control.opening import kept_by_edges, record_of, refuse_other_backend
from ovs_daemon.control.records import Attachment, Dtl, Mode, State, Volume
from ovs_daemon.control.remote import edge_address, served_here
from ovs_daemon.control.store import ALIVE, put
from ovs_daemon.control.tokens import issue
from ovs_daemon.control.view import View
from ovs_daemon.edge import Where
from ovs_daemon.errors import Code, VStorageError, unknown_node
from ovs_daemon.policy.family import left_behind
from ovs_daemon.policy.model import DtlMode, DtlState
from ovs_daemon.policy.ownership import Home, Loss, loss
from ovs_daemon.policy.takeover import takeovers
from ovs_daemon.registry import Absent, Conflict, Operation, Unchanged

LOG = logging.getLogger(__name__)

# Guests that write faster than the backend takes it never let a round be quick.
_SETTLE_ROUNDS = 5
_SETTLED_S = 0.05


def move_volume(host: Host, reference: str, target: str) -> Volume:
    """Give a volume, with its relatives, to another node; nothing is lost.

    What it has is brought to the backend while guests go on; then it is closed, the little that
    came since is brought there, and the record is swapped. Killed before that, this node has it
    still; killed afterwards, the other one has everything. Guests of an Edge wait from the closing
    on: the Edge is told where to look, and sends what was not answered.

    :raises VStorageError: ``unknown_volume``, ``unknown_node``, ``not_here``, ``in_use`` while it
        is attached in a way that cannot follow, ``bad_request`` for a node that cannot have it, or
        an engine code
    """
    what = f"move volume {reference!r} to node {target!r}"
    volume = host.require(what, reference)
    _check_target(host, what, volume, target)
    family = relatives(host.store, volume)
    for one in family:
        _check_movable(host, what, one, target)
    _hand_over_together(host, what, family, family, target)
    return host.again(what, volume)


def bring_together(host: Host, family: Sequence[Volume], anchor: Volume, *still: Unchanged) -> None:
    """Give open volumes to the node that owns a relative of them, as a move does.

    :param family: ancestors before their descendants
    :param anchor: the relative
    :param still: records because of which they go there; else nothing is given
    :raises VStorageError: ``in_use`` while one is attached in a way that cannot follow, ``busy``,
        or an engine code; what could not be given is open here as before
    """
    target = anchor.node
    what = f"bring volume {family[0].name!r} to its relative {anchor.name!r} on node {target!r}"
    refuse_other_backend(what, family[0], target, _backend_of(View.of(host.store), target))
    own = _own(host, family[0])
    for one in own:
        _refuse_unfinished(what, one)
    for one in family:
        _check_movable(host, what, one, target)
    _hand_over_together(host, what, family, own, target, *still)


def _hand_over_together(
    host: Host,
    what: str,
    family: Sequence[Volume],
    own: Sequence[Volume],
    target: str,
    *still: Unchanged,
) -> None:
    """Give volumes that are open here to another node.

    :param own: all relatives that this node owns, or is making
    :param still: what else must be as it was
    """
    # Before guests wait for what would be refused.
    _refuse_too_many(host, what, len(family) + len(still))
    _settle(host, family)
    with contextlib.ExitStack() as held:
        # Held until it is another's: nobody may open it here, and write, in between. In the order
        # in which a group of snapshots takes them, so that neither waits for the other.
        for uuid in sorted(one.uuid for one in own):
            held.enter_context(host.locks.holding(uuid))
        if [one.uuid for one in _own(host, family[0])] != [one.uuid for one in own]:
            why = "a clone of the family was made or deleted meanwhile"
            raise VStorageError(Code.BUSY, what, why, "try again")
        open_here = {one.uuid: one.ancestors for one in own if host.is_open(one.uuid)}
        clone = left_behind({one.uuid for one in family}, open_here)
        if clone is not None:
            why = f"a clone, {clone}, was opened here meanwhile"
            raise VStorageError(Code.BUSY, what, why, "try again")
        for one in family:
            _check_movable(host, what, host.store.volume(one.uuid) or one, target)
        if still:
            # It took a while, and guests need not wait for what cannot be.
            _commit(host, what, still)
        try:
            _prepare_edge(host, family, target)
            handed = _hand_over(host, what, family, target, still)
        except VStorageError:
            _go_on(host, family)
            raise
    _leave_nothing(host, handed)


def _refuse_too_many(host: Host, what: str, records: int) -> None:
    """Refuse a family that the registry cannot give away in one step, and so not at all."""
    if host.store.registry.has_room(records):
        return
    raise VStorageError(
        Code.REGISTRY,
        what,
        f"it goes with all its relatives in one transaction of {records} records, and etcd takes "
        "fewer operations in one (its --max-txn-ops, 128 unless told otherwise)",
        "start the members of etcd with --max-txn-ops=4096, one after the other, and try again",
    )


def _settle(host: Host, family: Sequence[Volume]) -> None:
    """Bring what there is to the backend while guests write, until that takes no time to speak of:
    so long, about, they will wait for the rest of it.
    """
    for _ in range(_SETTLE_ROUNDS):
        began = time.monotonic()
        for one in family:
            if host.is_open(one.uuid):
                host.engine.settle_volume(one.uuid)
        if time.monotonic() - began < _SETTLED_S:
            return


def _prepare_edge(host: Host, family: Sequence[Volume], target: str) -> None:
    """Give this node's Edge the leave to reach the new owner, before it is told to."""
    key, me = host.settings.cluster_key, host.settings.node
    address = edge_address(host, target)
    if key is None or address is None:
        return
    engine = str(host.settings.run_dir / "engine.sock")
    targets = (("shm", engine), ("tcp", address))
    with host.edge_lock:
        for one in family:
            # As it is now: the leave that goes with an earlier record may be worth nothing.
            current = host.store.volume(one.uuid)
            mine = () if current is None else served_here(host, current)
            if current is None or not mine:
                continue
            writes = not all(attachment.read_only for attachment in mine)
            token = issue(key, one.uuid, me, writes, time.time(), current.generation)
            try:
                host.edge.retarget(one.uuid, Where(targets, token, me, current.epoch))
            except VStorageError as failure:
                LOG.warning("the Edge follows volume %s later: %s", one.name, failure)


def _hand_over(
    host: Host, what: str, family: Sequence[Volume], target: str, still: Sequence[Unchanged]
) -> list[Volume]:
    """The records as they were before."""
    address = edge_address(host, target)
    # Descendants first: an ancestor's data is needed as long as they are open.
    for one in reversed(family):
        if not host.close(one.uuid, address):
            # Acknowledged writes may be in this node's write buffer alone.
            raise VStorageError(
                Code.BUSY,
                what,
                f"not all that {one.name!r} has is on the backend: the backend did not take it "
                f"while guests waited, or it is not open on node {host.settings.node!r}, or "
                "was stopped there (its lease was over)",
                "it goes on here; try again when 'vstorage status' is content with volume and "
                "backend",
            )
    current = [found for found in (host.store.volume(one.uuid) for one in family) if found]
    for found in current:
        # Another node may have attached it meanwhile.
        _refuse_bound(host, what, found, target)
    _commit(host, what, [*(put(_handed(one, target)) for one in current), *still])
    return current


def _commit(host: Host, what: str, operations: Sequence[Operation]) -> None:
    try:
        host.store.commit(*operations)
    except Conflict as conflict:
        raise VStorageError(
            Code.BUSY, what, f"its record changed meanwhile ({conflict})", "try again"
        ) from conflict


def _leave_nothing(host: Host, handed: Sequence[Volume]) -> None:
    """Have this node, and those that kept their logs, forget volumes that were handed over.

    :param handed: their records before that; with these epochs nothing can be dropped that the new
        owner has begun to keep there
    """
    silent: set[str] = set()
    for volume in handed:
        try:
            _clear(host, volume.uuid)
        except VStorageError as failure:
            LOG.warning("the former write buffer of volume %s stays: %s", volume.name, failure)
        try:
            dtl = host.opener.dtl_spec(volume)
            if dtl is None or dtl.node in silent or dtl.node not in host.store.alive():
                continue
            silent.add(dtl.node)
            host.engine.drop_tail(volume.uuid, volume.epoch, dtl.address)
            silent.discard(dtl.node)
        except VStorageError as failure:
            LOG.warning("the former log of volume %s stays: %s", volume.name, failure)


def _clear(host: Host, uuid: str) -> None:
    with host.locks.holding(uuid):
        current = host.store.volume(uuid)
        # It may have been given back by now.
        if current is None or host.settings.node not in (current.node, current.served):
            host.engine.clear_buffer(uuid)


def _go_on(host: Host, family: Sequence[Volume]) -> None:
    """Have what could not be moved open here again: guests may wait for it."""
    for one in family:
        try:
            current = host.store.volume(one.uuid)
            if current is not None and current.node == host.settings.node:
                host.open(current)
        except VStorageError as failure:
            LOG.error("volume %s is not open after a move that failed: %s", one.name, failure)


def take_over(host: Host, reference: str, accept_loss: bool) -> Volume:
    """Have this node go on with a volume whose owner is dead.

    Without ``accept_loss`` only where nothing can be lost. With it, the volume is as the backend
    has it, or, on the node that served it last, as that has it; the record keeps what may be
    missing.

    :raises VStorageError: ``unknown_volume``, ``in_use`` while its owner lives, ``not_in_sync``
        with what would be lost, or an engine code
    """
    what = f"take over volume {reference!r}"
    volume = host.require(what, reference)
    with host.locks.holding(volume.uuid):
        volume = host.again(what, volume)
        me = host.settings.node
        if volume.node == me:
            if accept_loss and volume.served not in (None, me):
                return host.acquire(_force(host, what, volume))
            return _take_own(host, what, volume, accept_loss)
        family = _takeable(host, what, volume)
        if volume.uuid not in {one.uuid for one in family}:
            if not accept_loss:
                raise VStorageError(
                    Code.NOT_IN_SYNC,
                    what,
                    _statement(volume, None),
                    f"bring node {volume.served or volume.node} back; if it is gone for good and "
                    "that loss is accepted, "
                    f"'vstorage volume takeover --accept-loss {volume.name}'",
                )
            return host.acquire(_force(host, what, volume))
    # Without the lock: others hold those of relatives and wait for this one.
    return _take_together(host, what, volume, family)


def _takeable(host: Host, what: str, volume: Volume) -> list[Volume]:
    """Those of a dead node's family with which another node can go on, ancestors first.

    :raises VStorageError: ``in_use``, that node lives
    """
    view = View.of(host.store)
    if volume.node in view.alive:
        raise VStorageError(
            Code.IN_USE,
            what,
            f"its owner, node {volume.node!r}, is alive",
            f"'vstorage volume move {volume.name} {host.settings.node}' on that node",
        )
    volumes = {one.uuid: one for one in view.volumes if one.root == volume.root}
    fates = takeovers(view.cluster(beside=volume.node), volume.node)
    taken = (fate.volume for fate in fates if fate.owner is not None)
    return [volumes[uuid] for uuid in taken if uuid in volumes]


def _take_together(host: Host, what: str, volume: Volume, family: list[Volume]) -> Volume:
    """Take relatives over, and open the volume with what it needs; the steward opens the rest."""
    try:
        taken = host.opener.take_over(family)
    except Conflict as conflict:
        raise VStorageError(
            Code.BUSY, what, f"a record changed meanwhile ({conflict})", "try again"
        ) from conflict
    for one in taken:
        if one.volume.uuid in volume.ancestors:
            open_taken(host, one)
        if one.volume.uuid == volume.uuid:
            return open_taken(host, one)
    raise VStorageError(
        Code.BUSY, what, f"node {volume.node!r}, which owns it, is back", "use it there"
    )


def _take_own(host: Host, what: str, volume: Volume, accept_loss: bool) -> Volume:
    """Open what this node owns; with what is here, if that must be."""
    try:
        return host.open(volume)
    except VStorageError as failure:
        if failure.code != Code.NOT_IN_SYNC:
            raise
        current = host.again(what, volume)
        if current.node != host.settings.node:
            raise
        if not accept_loss:
            raise VStorageError(
                failure.code,
                what,
                f"{failure.why}. {_statement(current, host.settings.home)}",
                f"{failure.fix.split(';')[0]}; if that can never be and that loss is accepted, "
                f"'vstorage volume takeover --accept-loss {current.name}'",
            ) from failure
    return host.acquire(_force(host, what, current))


def _force(host: Host, what: str, volume: Volume) -> Volume:
    """Make this node the owner of what the backend has, and of what it has itself if it served the
    volume last."""
    here = host.settings
    last = volume.served in (None, here.node) and volume.node == here.node
    refuse_other_backend(what, volume, here.node, here.membership.backend)
    forced = replace(
        kept_by_edges(volume),
        node=here.node,
        served=here.node,
        home=here.home if last else None,
        # What another owner's time may have left here must not come into force.
        saved=not last,
        epoch=volume.epoch + 1,
        dtl=Dtl(volume.dtl.mode),
        forced={
            "at": host.now(),
            "from": volume.node,
            "may_be_lost": _statement(volume, here.home if last else None),
        },
    )
    operations = [put(forced)]
    try:
        if volume.node == here.node:
            version = host.store.commit(*operations)
        else:
            version = host.store.commit(*operations, Absent(ALIVE, volume.node))
    except Conflict as conflict:
        raise VStorageError(
            Code.BUSY, what, f"its record or its owner changed meanwhile ({conflict})", "try again"
        ) from conflict
    return replace(forced, version=version)


def _statement(volume: Volume, here: Home | None) -> str:
    """What is lost if a node goes on with a volume now.

    :param here: what the owner's write buffers rest on; None where another node is asked
    """
    served = volume.served or volume.node
    if here is not None and served == volume.node:
        lost = loss(record_of(volume), here)
        if lost is not None:
            return _own_statement(volume, lost)
    if volume.dtl.mode is DtlMode.NONE or volume.dtl.node is None:
        return (
            f"no other node keeps its log: all that node {served} had in its write buffer and not "
            "on the backend would be lost, acknowledged and flushed writes among it"
        )
    if volume.dtl.state is DtlState.IN_SYNC and volume.dtl.mode is DtlMode.ASYNC:
        return (
            f"its DTL mode is 'async': the last acknowledged writes may be on node {served} only, "
            "and would be lost with all that the backend has not"
        )
    return (
        f"its log on node {volume.dtl.node} is {volume.dtl.state.value}: acknowledged writes are "
        f"on node {served} only, and would be lost with all that the backend has not"
    )


def _own_statement(volume: Volume, lost: Loss) -> str:
    keeper = volume.dtl.node
    log = "" if keeper is None else f", unless node {keeper}, which keeps its log, has them"
    if lost is Loss.FOLDER:
        return (
            "All that was acknowledged and is not on the backend would be lost, flushed writes "
            f"among it{log}"
        )
    return f"Writes that were acknowledged and not flushed would be lost{log}"


def _check_target(host: Host, what: str, volume: Volume, target: str) -> None:
    view = View.of(host.store)
    node = view.cluster().node(target)
    if node is None:
        raise unknown_node(what, target)
    if target == volume.node:
        raise VStorageError(
            Code.BAD_REQUEST, what, "that node owns it already", "name another node"
        )
    if not node.usable:
        raise VStorageError(
            Code.BAD_REQUEST,
            what,
            "that node is not alive, is in no Domain, is being drained, or has not the role router",
            f"'vstorage node show {target}' tells which",
        )
    refuse_other_backend(what, volume, target, _backend_of(view, target))


def _backend_of(view: View, name: str) -> str:
    return next((one.backend for one in view.nodes if one.name == name), "")


def _check_movable(host: Host, what: str, volume: Volume, target: str) -> None:
    if volume.node != host.settings.node:
        raise VStorageError(
            Code.NOT_HERE,
            what,
            f"node {volume.node!r} owns {volume.name!r}",
            "ask the daemon of that node; relatives that several nodes own come together on one by "
            "themselves first",
        )
    _refuse_unfinished(what, volume)
    _refuse_bound(host, what, volume, target)


def _refuse_unfinished(what: str, volume: Volume) -> None:
    if volume.state not in (State.AVAILABLE, State.HIDDEN):
        raise VStorageError(
            Code.BUSY, what, f"{volume.name!r} is {volume.state.value}", "try again later"
        )


def _refuse_bound(host: Host, what: str, volume: Volume, target: str) -> None:
    """Refuse while somebody uses it in a way that cannot follow it to that node."""
    for one in volume.attachments:
        missing = _missing(host, one, volume.node, target)
        if missing is not None:
            raise VStorageError(
                Code.IN_USE,
                what,
                f"{one.holder!r} has {volume.name!r} attached and cannot follow: {missing[0]}",
                f"{missing[1]}; or stop its user, then "
                f"'vstorage volume detach {volume.name} --holder {one.holder}'",
            )


def _missing(host: Host, one: Attachment, owner: str, target: str) -> tuple[str, str] | None:
    """What keeps an attachment from following, and what to do about it."""
    serving = one.node or owner
    if one.mode is Mode.DIRECT:
        return "its owner's own process serves it", "attach it without --direct"
    if serving == target:
        return None
    if edge_address(host, target) is None:
        return (
            f"node {target!r} says no address (edge_tcp) where Edges of other hosts reach it",
            f"set [edge] listen on node {target!r} and restart its daemon",
        )
    if serving == host.settings.node and host.settings.cluster_key is None:
        return (
            "this node has no cluster key to make an attach token with",
            "copy cluster_key_file from another node and restart the daemon",
        )
    return None


def _own(host: Host, volume: Volume) -> list[Volume]:
    """The volume's relatives that this node owns, ancestors first."""
    found = relatives(host.store, volume)
    return [one for one in found if one.node == host.settings.node]


def _handed(volume: Volume, target: str) -> Volume:
    """All of it is on the backend: whoever served it last has nothing more."""
    return replace(
        kept_by_edges(volume),
        node=target,
        served=target,
        home=None,
        saved=True,
        epoch=volume.epoch + 1,
        dtl=Dtl(volume.dtl.mode),
    )
