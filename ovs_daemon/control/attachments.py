"""Serving volumes to guests: through the Edge process, or from the engine's own process.

The registry says what is to be served, and to whom: a volume has one attachment for each holder
(a person, the Nova of a host, the Cinder of a host). Attaching stores that first and then makes it
so; a daemon that starts, or an Edge process that comes back, is brought to what the registry says.

A volume is exclusive unless it says otherwise: a second holder is refused, except to a volume of
multi-attach, or when the caller says that it knows (`shared`: OpenStack, whose Cinder has decided
who may attach, and whose live migration attaches at both ends), or that the others shall lose it
(`preempt`). What the Edge serves is the sum of the attachments: one NBD socket while any holder
uses it, one file while any holder uses that.

Who loses a volume that another node serves is shut out by the volume's owner, before the verb that
takes it away returns (`fencing.py`): the Edge there may never hear of it. Who loses it here, where
not all that was asked for is known to have ended, is shut out before anybody else attaches it.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ovs_daemon.control.checks import describe_holders, require_available
from ovs_daemon.control.fencing import change_to, shut_out
from ovs_daemon.control.host import Host
from ovs_daemon.control.records import LOCAL, Attachment, Mode, Volume
from ovs_daemon.control.remote import is_foreign, require_reachable, served_here, where
from ovs_daemon.edge import EdgeUnavailable, Serving
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.policy.fencing import Change
from ovs_daemon.registry import Conflict, retry

LOG = logging.getLogger(__name__)

_HOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9@:._/-]{0,254}")


@dataclass(frozen=True)
class Wish:
    """How somebody wants to have a volume attached.

    :param read_only: refuse the holder's writes
    :param shared: other holders are fine
    :param preempt: other holders lose it
    :param reconnects: the guest connects again by itself, so that a resize may close connections
    """

    mode: Mode
    read_only: bool = False
    holder: str = LOCAL
    shared: bool = False
    preempt: bool = False
    reconnects: bool = False


def attach(host: Host, reference: str, wish: Wish) -> Volume:
    """Serve a volume to a holder; repeating it is harmless.

    :raises VStorageError: ``unknown_volume``, ``bad_request`` for a holder that is no name,
        ``read_only`` for a template to be written, ``in_use`` when somebody else has it, or the
        holder has it in another way, ``busy`` when those who lost it cannot be shut out,
        ``edge_unavailable`` or an engine code
    """
    what = f"attach volume {reference!r}"
    _check_holder(what, wish.holder)
    found = host.require(what, reference)
    with host.locks.holding(found.uuid):
        # Opening may take long, and guests of other volumes may be waiting for the Edge to be told.
        _reachable(host, what, host.again(what, found), wish.mode)
        # Another node may attach it at the same time: whether both may is to be asked again.
        return retry(what, lambda: _attach(host, what, found, wish))


def _attach(host: Host, what: str, found: Volume, wish: Wish) -> Volume:
    with _edge_held(host, host.again(what, found)):
        held, intended = _intend(host, what, found, wish)
        if held is not None and held.mode is Mode.DIRECT:
            return intended
    asked = False
    try:
        # The owner may take its time, and guests of other volumes wait for the Edge to be told.
        settled = shut_out(host, what, intended)
        if settled.held_by(wish.holder) is None:
            fix = f"'vstorage volume show {settled.name}' says who has it"
            raise VStorageError(Code.IN_USE, what, "it was taken away meanwhile", fix)
        if held is None and not is_foreign(host, settled):
            # One that its process serves read-only is closed and opened again, which may take long.
            settled = host.open(settled)
        asked = True
        with host.edge_lock:
            return serve(host, settled)
    except (VStorageError, Conflict) as failure:
        # A failure leaves it attached to who had it: its guest may only be waiting for the Edge.
        if held is None:
            refused = isinstance(failure, VStorageError) and not isinstance(
                failure, EdgeUnavailable
            )
            with _edge_held(host, intended):
                _withdraw(host, intended, wish.holder, served=asked and not refused)
        raise


def _intend(host: Host, what: str, found: Volume, wish: Wish) -> tuple[Attachment | None, Volume]:
    """Record that a volume is attached; what its holder had before, and the record."""
    volume = _reachable(host, what, host.again(what, found), wish.mode)
    if volume.template and not wish.read_only:
        raise VStorageError(
            Code.READ_ONLY,
            what,
            "it is a template",
            f"clone it, or 'vstorage volume attach --read-only {volume.name}'",
        )
    before, confirmed = volume, True
    if wish.preempt and any(one != _wanted(host, volume, wish) for one in volume.attachments):
        # Not stored by itself: killed in between, the others have it still.
        confirmed = _stop_serving(host, volume, ())
        volume = replace(volume, attachments=())
    held = volume.held_by(wish.holder)
    _refuse_to_share(what, volume, wish, host.settings.node)
    if held is not None and held.mode is Mode.DIRECT:
        return held, volume
    wanted = _with(volume, _wanted(host, volume, wish))
    return held, _store(host, before, wanted, change_to(host, before, wanted, confirmed))


def detach(
    host: Host, reference: str, holder: str | None = None, everybody: bool = False
) -> Volume:
    """Stop serving a volume to a holder; one that does not have it attached is fine.

    :param holder: None for the person on this host, who must not believe that a volume is free
        which others have attached
    :param everybody: take it from all holders, whoever they are
    :raises VStorageError: ``unknown_volume``, ``in_use``, ``edge_unavailable``, ``not_here`` for
        one that its owner serves directly, or an engine code; it then still counts as attached.
        ``busy`` when it does not any more, but those on other nodes who lost it by this call
        cannot be shut out
    """
    what = f"detach volume {reference!r}"
    found = host.require(what, reference)

    def attempt() -> tuple[Volume, Change | None]:
        volume = host.again(what, found)
        remaining = () if everybody else volume.without(holder or LOCAL)
        if holder is None and remaining and remaining == volume.attachments:
            _refuse_others(what, volume)
        if remaining == volume.attachments:
            return volume, None
        if any(one.mode is Mode.DIRECT for one in volume.attachments):
            # Only the process that serves it can stop.
            host.require_own(what, volume)
        confirmed = _stop_serving(host, volume, remaining)
        change = change_to(host, volume, remaining, confirmed)
        return _store(host, volume, remaining, change), change

    with host.locks.holding(found.uuid):
        with _edge_held(host, host.again(what, found)):
            detached, change = retry(what, attempt)
        if change is not None and host.is_open(detached.uuid):
            # One that was open read-only for its guest is to be writable again; others do not wait
            # for that.
            detached = host.open(detached)
        if change is not None and change.takes_away:
            return shut_out(host, what, detached)
        # Its guest is gone from here, or was before: Nova and Cinder both let go of a volume. What
        # that left behind is for whoever attaches it next to wait for: a backend that stands still
        # for hours keeps nobody from letting go of its volumes.
        return detached


def reconnect(host: Host, reference: str) -> Volume:
    """Close the connections of a volume's guests, which see its new size when they come back.

    :raises VStorageError: ``unknown_volume`` or ``edge_unavailable``
    """
    what = f"have the guests of volume {reference!r} connect again"
    found = host.require(what, reference)
    with host.locks.holding(found.uuid), host.edge_lock:
        volume = host.again(what, found)
        if any(one.mode is Mode.EDGE for one in served_here(host, volume)):
            host.edge.drop_connections(volume.uuid)
        return volume


def set_multi_attach(host: Host, reference: str, multi_attach: bool) -> Volume:
    """Let several holders attach a volume, or one at a time again; who has it now keeps it.

    :raises VStorageError: ``unknown_volume``
    """
    what = f"change who may attach volume {reference!r}"
    found = host.require(what, reference)
    with host.locks.holding(found.uuid):
        volume = host.again(what, found)
        if volume.multi_attach == multi_attach:
            return volume
        return host.update(what, volume, multi_attach=multi_attach)


def serve(host: Host, volume: Volume) -> Volume:
    """Make true what the registry says about an open volume's attachments."""
    mine = served_here(host, volume)
    if not mine:
        return volume
    if mine[0].mode is not Mode.DIRECT:
        host.edge.attach(_serving(host, volume, mine))
        return volume
    socket = host.engine.export_nbd(volume.uuid, volume.name)
    what = f"store where volume {volume.name!r} is served"
    return host.update(what, volume, attachments=(replace(mine[0], socket=socket),))


def reconcile_edge(host: Host) -> None:
    """Bring an Edge process that has come (back) to what the registry says.

    :raises EdgeUnavailable: it went away again
    """
    with host.edge_lock:
        attached = host.edge.attached()
        wanted = {
            volume.uuid: volume
            for volume in host.store.volumes()
            if any(one.mode is not Mode.DIRECT for one in served_here(host, volume))
        }
        for uuid in sorted(attached - wanted.keys()):
            host.edge.detach(uuid)
            LOG.info("the Edge stopped serving volume %s, which is not attached", uuid)
        for uuid in sorted(wanted):
            try:
                # Also where it serves the volume: how, may have changed.
                serve(host, wanted[uuid])
                # Else what is wrong is that it is this node's and could not be opened.
                if host.is_open(uuid) or is_foreign(host, wanted[uuid]):
                    host.forget_failure(uuid)
            except EdgeUnavailable:
                raise
            except VStorageError as failure:
                host.remember_failure(uuid, failure)


@contextlib.contextmanager
def _edge_held(host: Host, volume: Volume) -> Iterator[None]:
    """Have the Edge to oneself, unless the engine's own process serves the volume: the Edge has no
    part in it, and all other volumes would wait for the requests of its guest. The caller holds the
    volume's lock, so that it does not become another one's of this node meanwhile."""
    if any(one.mode is Mode.DIRECT for one in volume.attachments):
        yield
        return
    with host.edge_lock:
        yield


def _reachable(host: Host, what: str, volume: Volume, mode: Mode) -> Volume:
    """The volume, open here or reachable where it is."""
    if is_foreign(host, volume):
        return require_reachable(host, what, volume, mode)
    return require_available(host, what, volume)


def _check_holder(what: str, holder: str) -> None:
    if _HOLDER.fullmatch(holder) is None:
        raise VStorageError(
            Code.BAD_REQUEST,
            what,
            f"{holder!r} is no name for a holder",
            "use up to 255 letters, digits, '@', ':', '.', '_', '/' and '-'",
        )


def _refuse_to_share(what: str, volume: Volume, wish: Wish, me: str) -> None:
    """Refuse what would give a volume to two at a time without anybody's wish, or in two ways that
    do not go together."""
    held, others = volume.held_by(wish.holder), volume.without(wish.holder)
    way = (wish.mode, wish.read_only)
    clash = held is not None and (held.mode, held.read_only) != way
    # Persons on two hosts have one name; others name their host, and may come by another daemon.
    clash |= wish.holder == LOCAL and held is not None and (held.node or volume.node) != me
    if others:
        clash |= not (wish.shared or volume.multi_attach)
        # The Edge serves everybody alike; a volume served in process is opened for one alone.
        clash |= any(one.read_only != wish.read_only for one in others)
        clash |= Mode.DIRECT in (wish.mode, *(one.mode for one in others))
    if clash:
        raise VStorageError(
            Code.IN_USE,
            what,
            f"it is attached: {describe_holders(volume.attachments)}",
            f"stop its user, then 'vstorage volume detach {volume.name} --holder "
            f"{volume.attachments[0].holder}'; to take it away, --preempt; for two users of one "
            "volume, --shared, both reading or both writing",
        )


def _refuse_others(what: str, volume: Volume) -> None:
    raise VStorageError(
        Code.IN_USE,
        what,
        f"it is attached: {describe_holders(volume.attachments)}",
        f"give --holder {volume.attachments[0].holder} if nobody uses it there, or --everybody",
    )


def _wanted(host: Host, volume: Volume, wish: Wish) -> Attachment:
    path = _path(host, volume, wish.mode)
    me, held = host.settings.node, volume.held_by(wish.holder)
    # What a later release has of it is no reason to take it away, and stays.
    rest = {} if held is None else held.rest
    return Attachment(wish.mode, wish.read_only, path, wish.holder, wish.reconnects, me, rest)


def _with(volume: Volume, attachment: Attachment) -> tuple[Attachment, ...]:
    together = (*volume.without(attachment.holder), attachment)
    return tuple(sorted(together, key=lambda one: one.holder))


def _serving(host: Host, volume: Volume, attachments: tuple[Attachment, ...]) -> Serving:
    """What the Edge is to do for a volume: the sum of its attachments."""
    by_mode = {one.mode: one.socket for one in attachments}
    guests = [one for one in attachments if one.mode is Mode.EDGE]
    read_only = all(one.read_only for one in attachments)
    return Serving(
        uuid=volume.uuid,
        name=volume.name,
        socket=by_mode.get(Mode.EDGE),
        file=by_mode.get(Mode.FILE),
        owner=host.settings.socket_owner,
        mode=host.settings.socket_mode,
        read_only=read_only,
        drop_on_resize=bool(guests) and all(one.reconnects for one in guests),
        where=where(host, volume, read_only),
    )


def _stop_serving(host: Host, volume: Volume, remaining: tuple[Attachment, ...]) -> bool:
    """Serve a volume to the remaining holders only.

    :returns: whether all has ended that was asked for by those who do not remain. Holders on one
        host have one session of its Edge, which ends with the last of them
    """
    mine = served_here(host, volume)
    remaining = served_here(host, replace(volume, attachments=remaining))
    if not mine and not remaining:
        # Whoever serves the others looks at the record.
        return True
    if any(one.mode is Mode.DIRECT for one in mine):
        # One that could not be opened is not served either.
        return not host.is_open(volume.uuid) or _stop_exporting(host, volume)
    try:
        if remaining:
            host.edge.attach(_serving(host, volume, remaining))
            return True
        if host.edge.detach(volume.uuid):
            return True
        LOG.warning("volume %s: its engine did not say that all writes have ended", volume.name)
    except EdgeUnavailable as failure:
        # Nobody listens: the guest's socket went with the Edge. One that only does not answer may
        # still serve it.
        if not failure.gone:
            raise
    return False


def _stop_exporting(host: Host, volume: Volume) -> bool:
    """End what the engine's own process serves; whether all has ended that was asked for there."""
    host.engine.unexport_nbd(volume.uuid)
    try:
        # That nobody new is shut out by it does not keep it from waiting.
        host.engine.shut_out(volume.uuid, volume.generation)
    except VStorageError as failure:
        LOG.warning("volume %s after its guest has left: %s", volume.name, failure)
        return False
    return True


def _withdraw(host: Host, volume: Volume, holder: str, served: bool) -> None:
    """An attachment that failed must not be made true later.

    :param served: a guest may have used it
    """
    remaining, confirmed = volume.without(holder), False
    try:
        confirmed = _stop_serving(host, volume, remaining)
    except VStorageError as failure:
        LOG.warning("volume %s after a failed attach: %s", volume.uuid, failure)

    def attempt() -> None:
        # Others may have attached it since.
        current = host.store.volume(volume.uuid)
        if current is not None:
            left = current.without(holder)
            change = change_to(host, current, left, confirmed or not served)
            _store(host, current, left, change)

    retry(f"take back the attachment of volume {volume.name!r}", attempt)


def _store(
    host: Host, volume: Volume, attachments: tuple[Attachment, ...], change: Change
) -> Volume:
    """:raises Conflict: somebody else attached or detached it meanwhile"""
    if volume.attachments == attachments:
        return volume
    generation = change.generation_after(volume.generation)
    if generation == volume.generation:
        return host.swap(volume, attachments=attachments)
    return host.swap(volume, attachments=attachments, generation=generation)


def _path(host: Host, volume: Volume, mode: Mode) -> str:
    run_dir = host.settings.run_dir
    if mode is Mode.FILE:
        return str(run_dir / "volumes" / volume.uuid)
    folder = "nbd" if mode is Mode.EDGE else "direct"
    return str(run_dir / folder / f"{volume.uuid}.sock")
