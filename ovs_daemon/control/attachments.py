"""Serving volumes to guests: through the Edge process, or from the engine's own process.

The registry says what is to be served. Attaching stores that first and then makes it so; a daemon
that starts, or an Edge process that comes back, is brought to what the registry says.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ovs_daemon.control.checks import refuse_attached, require_available
from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Attachment, Mode, Volume
from ovs_daemon.control.store import put
from ovs_daemon.edge import EdgeUnavailable
from ovs_daemon.errors import Code, VStorageError

LOG = logging.getLogger(__name__)


def attach(host: Host, reference: str, mode: Mode, read_only: bool) -> Volume:
    """Serve a volume on a unix socket; repeating it is harmless.

    :param read_only: refuse the guest's writes
    :raises VStorageError: ``unknown_volume``, ``read_only`` for a template to be written,
        ``in_use`` when it is attached in another way, ``edge_unavailable`` or an engine code
    """
    what = f"attach volume {reference!r}"
    found = host.require(what, reference)
    with host.locks.holding(found.uuid), host.edge_lock:
        volume = require_available(host, what, host.again(what, found))
        if volume.template and not read_only:
            raise VStorageError(
                Code.READ_ONLY,
                what,
                "it is a template",
                f"clone it, or 'vstorage volume attach --read-only {volume.name}'",
            )
        if volume.attachment is not None:
            return _attach_again(host, what, volume, mode, read_only)
        wanted = Attachment(mode, read_only, _socket(host, volume, mode))
        intended = _store(host, volume, wanted)
        try:
            return serve(host, host.open(intended))
        except VStorageError:
            _withdraw(host, intended)
            raise


def detach(host: Host, reference: str) -> Volume:
    """Stop serving a volume; one that is not attached is fine.

    :raises VStorageError: ``unknown_volume``, ``edge_unavailable`` or an engine code; it then
        still counts as attached
    """
    what = f"detach volume {reference!r}"
    found = host.require(what, reference)
    with host.locks.holding(found.uuid), host.edge_lock:
        volume = host.again(what, found)
        if volume.attachment is None:
            return volume
        _stop_serving(host, volume)
        released = _store(host, volume, None)
        # One that was open read-only for its guest is to be writable again.
        return host.open(released) if host.is_open(volume.uuid) else released


def serve(host: Host, volume: Volume) -> Volume:
    """Make true what the registry says about an open volume's attachment."""
    attachment = volume.attachment
    if attachment is None:
        return volume
    if attachment.mode is Mode.EDGE:
        host.edge.attach(
            volume.uuid,
            volume.name,
            attachment.socket,
            host.settings.socket_owner,
            host.settings.socket_mode,
            attachment.read_only,
        )
        return volume
    socket = host.engine.export_nbd(volume.uuid, volume.name)
    return _store(host, volume, replace(attachment, socket=socket))


def reconcile_edge(host: Host) -> None:
    """Bring an Edge process that has come (back) to what the registry says.

    :raises EdgeUnavailable: it went away again
    """
    with host.edge_lock:
        attached = host.edge.attached()
        served = {uuid for uuid, state in attached.items() if state != "no_socket"}
        wanted = {
            volume.uuid: volume
            for volume in host.store.volumes()
            if volume.attachment is not None and volume.attachment.mode is Mode.EDGE
        }
        for uuid in sorted(attached.keys() - wanted.keys()):
            host.edge.detach(uuid)
            LOG.info("the Edge stopped serving volume %s, which is not attached", uuid)
        for uuid in sorted(wanted.keys() - served):
            try:
                serve(host, wanted[uuid])
                if host.is_open(uuid):
                    host.forget_failure(uuid)
                LOG.info("the Edge serves volume %s again", uuid)
            except EdgeUnavailable:
                raise
            except VStorageError as failure:
                host.remember_failure(uuid, failure)


def _attach_again(host: Host, what: str, volume: Volume, mode: Mode, read_only: bool) -> Volume:
    """Attaching once more in the same way makes sure that it is served; any other way is refused.

    A failure leaves it attached: its guest may only be waiting for the Edge to come back.
    """
    assert volume.attachment is not None
    if (volume.attachment.mode, volume.attachment.read_only) != (mode, read_only):
        refuse_attached(what, volume)
    return serve(host, volume) if mode is Mode.EDGE else volume


def _stop_serving(host: Host, volume: Volume) -> None:
    assert volume.attachment is not None
    if volume.attachment.mode is Mode.DIRECT:
        # One that could not be opened is not served either.
        if host.is_open(volume.uuid):
            host.engine.unexport_nbd(volume.uuid)
        return
    try:
        host.edge.detach(volume.uuid)
    except EdgeUnavailable as failure:
        # Nobody listens: the guest's socket went with the Edge. One that only does not answer may
        # still serve it.
        if not failure.gone:
            raise


def _withdraw(host: Host, volume: Volume) -> None:
    """An attachment that failed must not be made true later."""
    try:
        _stop_serving(host, volume)
    except VStorageError as failure:
        LOG.warning("volume %s after a failed attach: %s", volume.uuid, failure)
    current = host.store.volume(volume.uuid)
    if current is not None:
        _store(host, current, None)


def _store(host: Host, volume: Volume, attachment: Attachment | None) -> Volume:
    if volume.attachment == attachment:
        return volume
    changed = replace(volume, attachment=attachment)
    return replace(changed, version=host.store.commit(put(changed)))


def _socket(host: Host, volume: Volume, mode: Mode) -> str:
    folder = "nbd" if mode is Mode.EDGE else "direct"
    return str(host.settings.run_dir / folder / f"{volume.uuid}.sock")
