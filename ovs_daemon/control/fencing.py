"""Shutting out the users of a volume from whom it was taken away (`policy/fencing.py`).

The order, and what a crash leaves behind:

1. one swap of the record takes the attachment away and raises the generation. From then on no
   daemon makes a token of the new generation for who lost it, whatever it does when it comes back,
   and every opening of the volume, here or elsewhere, lets in the new generation only;
2. the owner's engine, which has it open, is told: by this node if it is the owner, else by the
   owner's steward, which sees the record. It ends the sessions of earlier generations and waits for
   what they have on their way;
3. the owner records that (``enforced``), and whoever took it away goes on.

An attachment of this node that has ended, as its Edge or its engine confirm, is taken away without
all that: nothing of it can happen any more. One that they do not confirm goes the same way, but for
that nobody waits who only lets go of it: whoever attaches the volume next does.

Whoever takes a volume away and is killed after the first step has told nobody that it is done; the
owner goes on by itself. An owner that is killed is followed by one that reads the record. And a
token of the new generation proves to an engine that the record was raised: it shuts out earlier
ones itself before it lets in who brings that.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ovs_daemon.control.findings import finding
from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Attachment, Volume
from ovs_daemon.control.topology import Node
from ovs_daemon.control.view import View
from ovs_daemon.errors import Code, VStorageError, unknown_volume
from ovs_daemon.policy.fencing import Change, Seat, Standing, Step, next_step

LOG = logging.getLogger(__name__)

#: how long the owner may take to see the record, tell its engine and say so, seconds
_PATIENCE_S = 30.0
_LOOK_S = 1.0


def change_to(
    host: Host, volume: Volume, attachments: tuple[Attachment, ...], confirmed: bool
) -> Change:
    """These attachments in place of those that the record has.

    :param confirmed: see :class:`Change`
    """
    before, after = _seats(volume, volume.attachments), _seats(volume, attachments)
    return Change(before, after, host.settings.node, confirmed)


def _seats(volume: Volume, attachments: tuple[Attachment, ...]) -> set[Seat]:
    return {(one.holder, one.node or volume.node) for one in attachments}


def enforce(host: Host, what: str, volume: Volume) -> Volume:
    """Have this node, which owns the volume, shut out earlier generations. The caller holds the
    volume's lock.

    :param volume: as it was read under that lock: it is not being opened by an earlier record
    :raises VStorageError: the engine could not do it in time, or ``busy``
    """
    if volume.enforced >= volume.generation:
        return volume
    if host.is_open(volume.uuid):
        host.engine.shut_out(volume.uuid, volume.generation)
    enforced = host.update(what, volume, enforced=volume.generation)
    LOG.info(
        "volume %s: users of earlier generations than %d are shut out",
        volume.name,
        volume.generation,
    )
    return enforced


def shut_out(host: Host, what: str, volume: Volume) -> Volume:
    """Return when nobody from whom the volume was taken away can write to it any more: the record
    as it is then. The caller holds its lock.

    :raises VStorageError: ``busy``, its owner does not say so
    """
    deadline = time.monotonic() + _PATIENCE_S
    current = volume
    while True:
        standing = _standing(host, volume, current)
        match next_step(standing, host.settings.node):
            case Step.DONE | Step.NOBODY_SERVES:
                return current
            case Step.ENFORCE:
                return enforce(host, what, current)
            case Step.UNKNOWN:
                raise _unconfirmed(what, current, "is not alive, as far as the registry knows")
            case Step.WAIT:
                if time.monotonic() > deadline:
                    said = f"has not said within {_PATIENCE_S:g} s that it has shut them out"
                    raise _unconfirmed(what, current, said)
        # Before it is read: what changes in between is seen.
        revision = host.store.registry.revision()
        found = host.store.volume(volume.uuid)
        if found is None:
            raise unknown_volume(what, volume.name)
        if found == current:
            host.await_change(revision, _LOOK_S)
        current = found


def unconfirmed_findings(view: View) -> list[dict[str, Any]]:
    """Volumes that were taken away from users who may go on writing to them."""
    nodes = {node.name: node for node in view.nodes}
    found = []
    for volume in view.volumes:
        owner = volume.node
        alive = owner in view.alive
        standing = _standing_with(volume.generation, volume, nodes.get(owner), alive)
        # As nobody of the cluster sees it: what this node has to do itself is not done either.
        match next_step(standing, me=""):
            case Step.WAIT:
                found.append(
                    _unconfirmed_finding(
                        volume,
                        "warning",
                        f"node {owner}, which owns it, has not said yet that they are shut out",
                        "it does so within a second by itself; if it stays so, the log of the "
                        f"daemon on {owner} says why",
                    )
                )
            case Step.UNKNOWN:
                found.append(
                    _unconfirmed_finding(
                        volume,
                        "critical",
                        f"node {owner}, which owns it, gives no sign of life, and may serve it all "
                        "the same: it needs no lease",
                        f"start vstorage-daemon on {owner}, which shuts them out, or make sure "
                        "that the host is off",
                    )
                )
    return found


def _unconfirmed_finding(volume: Volume, severity: str, why: str, fix: str) -> dict[str, Any]:
    return finding(
        "shut_out_unconfirmed",
        severity,
        f"volume {volume.name}",
        f"it was taken away from former users, who may still write to it: {why}",
        fix,
    )


def _standing(host: Host, wanted: Volume, volume: Volume) -> Standing:
    owner = volume.node
    if volume.enforced >= wanted.generation or owner == host.settings.node:
        return Standing(wanted.generation, volume.enforced, owner, alive=True, leased=True)
    alive = owner in host.store.alive()
    return _standing_with(wanted.generation, volume, host.store.node(owner), alive)


def _standing_with(generation: int, volume: Volume, owner: Node | None, alive: bool) -> Standing:
    # A node that others may take volumes from serves no longer than its lease holds.
    leased = owner is None or "dtl" in owner.addresses
    return Standing(generation, volume.enforced, volume.node, alive, leased)


def _unconfirmed(what: str, volume: Volume, why: str) -> VStorageError:
    return VStorageError(
        Code.BUSY,
        what,
        f"it was taken away from its former users in the registry, but node {volume.node!r}, which "
        f"owns it, {why}: they may still write",
        f"look at 'vstorage node show {volume.node}' and the log of its daemon, which must be of "
        "this release and reach the registry, then try again; or stop vstorage-edge on their hosts",
    )
