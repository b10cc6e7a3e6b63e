"""Verbs on volumes.

Each verb follows one order, so that a crash at any point leaves nothing half-known: record the
intent in the registry, let the engine act, record the outcome. `recovery` finishes or undoes what
a crash left; tests/unit/control/test_crash_points.py kills every verb at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ovs_daemon.control.checks import (
    check_name,
    is_uuid,
    refuse_attached,
    refuse_template,
    require_available,
)
from ovs_daemon.control.host import Host
from ovs_daemon.control.nodes import require_assigned
from ovs_daemon.control.preset_use import claim_preset, find_preset
from ovs_daemon.control.purge import purge
from ovs_daemon.control.records import Dtl, Snapshot, State, Volume
from ovs_daemon.control.snapshots import (
    abandon_snapshots,
    letting_go,
    require_snapshot,
    take_snapshot,
)
from ovs_daemon.control.store import claim_name, lost_name, put
from ovs_daemon.engine import CreateSpec, Parent
from ovs_daemon.errors import Code, VStorageError, unknown_volume
from ovs_daemon.registry import Conflict, Operation, retry
from ovs_daemon.units import SCO_BYTES_MAX, SCO_BYTES_MIN, check_volume_size, format_size


@dataclass(frozen=True)
class Source:
    """What a new volume is cloned from: a volume as it is now, or one of its snapshots."""

    volume: str
    snapshot: str | None


def create_volume(
    host: Host,
    name: str,
    size: int | None,
    source: Source | None,
    sco_size: int | None = None,
    limits: dict[str, float] | None = None,
    preset: str | None = None,
) -> Volume:
    """Create an empty volume or a clone.

    :param size: bytes; None takes the source's
    :param sco_size: bytes of data in one SCO of an empty volume; None takes the preset's, or the
        host's
    :param limits: what its users may ask of it
    :param preset: name of the preset by which its objects are kept; None takes the source's, or
        the host's
    :raises VStorageError: ``bad_request``, ``bad_size``, ``duplicate_name``, ``unknown_volume``,
        ``unknown_snapshot``, ``unknown_preset``, ``bad_preset``, ``in_use`` or an engine code;
        nothing is left behind
    """
    what = f"create volume {name!r}"
    check_name(what, name)
    if size is not None:
        check_volume_size(what, size)
    elif source is None:
        raise VStorageError(Code.BAD_SIZE, what, "no size was given", "give a size, such as 10GiB")
    if sco_size is not None:
        _check_sco_size(what, sco_size, source)
    require_assigned(host, what)
    if host.store.find_volume(name) is not None:
        raise _duplicate(what, name)
    uuid = host.new_uuid()
    blank = _blank(host, uuid, name, size or 0)
    if preset is not None and sco_size is None:
        sco_size = int(find_preset(host.store, host.engine, what, preset)[0]["sco_size"])
    size_of_scos = sco_size or blank.sco_size
    blank = replace(blank, sco_size=size_of_scos, limits=limits, preset=preset)
    undone = False
    try:
        with host.locks.holding(uuid):
            if source is None:
                volume = retry(what, lambda: _claim(host, what, blank))
            else:
                volume = _claim_clone(host, what, blank, source)
            try:
                return _make(host, volume)
            except VStorageError:
                undone = _undo(host, volume)
                raise
    finally:
        if undone:
            # Takes its parent's lock as well, which who moves both may hold, and wait for its own.
            _purge_undone(host, uuid)


def delete_volume(host: Host, reference: str, cascade: bool) -> bool:
    """Delete a volume; one that has clones is hidden until the last of them goes.

    :param reference: name or UUID; a UUID that is not there counts as deleted
    :param cascade: delete its snapshots as well
    :returns: whether there was something to delete
    :raises VStorageError: ``unknown_volume`` for a name, ``in_use``, or an engine code (the
        deletion then stays decided: repeat it)
    """
    what = f"delete volume {reference!r}"
    found = host.store.find_volume(reference)
    if found is None or found.state is State.HIDDEN:
        if is_uuid(reference):
            return False
        raise unknown_volume(what, reference)
    with host.locks.holding(found.uuid):
        if not retry(what, lambda: _decide_delete(host, what, found.uuid, cascade)):
            return False
    purge(host, found.uuid)
    return True


def resize_volume(host: Host, reference: str, size: int) -> Volume:
    """Grow a volume; a guest that has it attached sees the new size.

    :param size: bytes, at least the present size
    :raises VStorageError: ``unknown_volume``, ``bad_size``, ``read_only`` or an engine code
    """
    what = f"resize volume {reference!r}"
    check_volume_size(what, size)
    found = host.require(what, reference)
    with host.locks.holding(found.uuid):
        volume = require_available(host, what, host.again(what, found))
        refuse_template(what, volume)
        if size < volume.size:
            raise VStorageError(
                Code.BAD_SIZE,
                what,
                f"{format_size(size)} is less than its {format_size(volume.size)}, "
                "and volumes do not shrink",
                "give a larger size, or copy its data into a smaller volume",
            )
        if size == volume.size:
            return volume
        # The registry first: whoever opens it after a crash opens it with the new size.
        grown = host.update(what, volume, size=size)
        try:
            host.engine.resize_volume(volume.uuid, size)
        except VStorageError:
            host.update(what, grown, size=volume.size)
            raise
        return grown


def revert_volume(host: Host, reference: str, snapshot: str) -> Volume:
    """Make a volume's content that of one of its snapshots; its size stays.

    :raises VStorageError: ``unknown_volume``, ``unknown_snapshot``, ``in_use``, ``read_only`` or
        an engine code
    """
    what = f"revert volume {reference!r} to {snapshot!r}"
    found = host.require(what, reference)

    def begin() -> Volume:
        volume = require_available(host, what, host.again(what, found))
        refuse_template(what, volume)
        refuse_attached(what, volume)
        begun = replace(volume, reverting=require_snapshot(host, what, volume, snapshot).uuid)
        # Nobody may attach it on another node in between.
        return replace(begun, version=host.store.commit(put(begun)))

    with host.locks.holding(found.uuid):
        begun = retry(what, begin)
        try:
            return host.finish_revert(begun)
        except VStorageError as failure:
            _give_up_revert(host, what, begun, failure)
            raise


def _give_up_revert(host: Host, what: str, begun: Volume, failure: VStorageError) -> None:
    """The engine refused, or the registry could not hear that it is done."""
    try:
        host.update(what, begun, reverting=None)
    except VStorageError as silence:
        raise VStorageError(
            Code.REGISTRY,
            what,
            f"{failure.why}; and the registry cannot be told that it is over ({silence.why}): it "
            "is done once more before the volume is used",
            "see that the registry answers, then look at the volume again",
        ) from failure


def set_template(host: Host, reference: str, template: bool) -> Volume:
    """Make a volume a template (read-only, quick to clone), or an ordinary volume again.

    :raises VStorageError: ``unknown_volume``, ``in_use`` or an engine code
    """
    what = f"make volume {reference!r} {'a template' if template else 'writable'}"
    found = host.require(what, reference)
    with host.locks.holding(found.uuid):
        volume = require_available(host, what, host.again(what, found))
        if volume.template == template:
            return volume
        refuse_attached(what, volume)
        if template:
            changed = _freeze(host, volume)
        else:
            changed = retry(what, lambda: _thaw(host, what, volume))
        changed = host.open(changed)
    purge(host, found.uuid)
    return changed


def rename_volume(host: Host, reference: str, name: str) -> Volume:
    """Give a volume another name; one transaction, so that it always has exactly one.

    :raises VStorageError: ``unknown_volume``, ``bad_request``, ``duplicate_name``, ``in_use``
        (a guest's export carries the name)
    """
    what = f"rename volume {reference!r} to {name!r}"
    check_name(what, name)
    found = host.require(what, reference)
    with host.locks.holding(found.uuid):
        volume = require_available(host, what, host.again(what, found))
        if volume.name == name:
            return volume
        refuse_attached(what, volume)
        renamed = replace(volume, name=name)
        try:
            version = host.store.commit(
                *host.store.release_name(volume), claim_name(renamed), put(renamed)
            )
        except Conflict as conflict:
            if lost_name(conflict):
                raise _duplicate(what, name) from conflict
            raise
        return replace(renamed, version=version)


def _check_sco_size(what: str, sco_size: int, source: Source | None) -> None:
    if source is not None:
        raise VStorageError(
            Code.BAD_REQUEST,
            what,
            "a clone shares SCOs with its source, so that it has the source's SCO size",
            "leave the SCO size out, or create an empty volume and copy the data",
        )
    if not SCO_BYTES_MIN <= sco_size <= SCO_BYTES_MAX or sco_size & (sco_size - 1):
        raise VStorageError(
            Code.BAD_REQUEST,
            what,
            f"{format_size(sco_size)} is not a power of two from 1MiB to 256MiB",
            "give such a SCO size, or none for the node's",
        )


def _blank(host: Host, uuid: str, name: str, size: int) -> Volume:
    return Volume(
        uuid=uuid,
        name=name,
        size=size,
        state=State.CREATING,
        epoch=0,
        node=host.settings.node,
        parent=None,
        ancestors=(),
        template=False,
        base=None,
        sco_size=host.settings.sco_size,
        created_at=host.now(),
        dtl=Dtl(host.settings.dtl_mode),
        backend=host.settings.membership.backend,
    )


def _claim(host: Host, what: str, volume: Volume, *operations: Operation) -> Volume:
    """Store the intent to create a volume, together with what its creation changes elsewhere."""
    kept = claim_preset(host.store, host.engine, what, volume.preset)
    try:
        version = host.store.commit(claim_name(volume), put(volume), *operations, *kept)
    except Conflict as conflict:
        if lost_name(conflict):
            raise _duplicate(what, volume.name) from conflict
        raise
    return replace(volume, version=version)


def _claim_clone(host: Host, what: str, volume: Volume, source: Source) -> Volume:
    """Store the intent to create a clone, which from then on holds its parent's snapshot."""

    def attempt() -> Volume:
        parent = require_available(host, what, host.require(what, source.volume))
        if source.snapshot is not None:
            snapshot = require_snapshot(host, what, parent, source.snapshot)
        elif parent.template and parent.base is not None:
            base = host.store.snapshot(parent.base)
            assert base is not None, "a template keeps its base"
            snapshot = base
        else:
            snapshot = take_snapshot(host, what, parent, None)
        clone = _clone_of(what, volume, parent, snapshot)
        held = replace(snapshot, clones=snapshot.clones + 1)
        if held.name is None:
            held = replace(held, state=State.HIDDEN)
        return _claim(host, what, clone, put(held))

    parent = host.require(what, source.volume)
    try:
        with host.locks.holding(parent.uuid):
            return retry(what, attempt)
    except VStorageError:
        abandon_snapshots(host, parent)
        raise


def _clone_of(what: str, volume: Volume, parent: Volume, snapshot: Snapshot) -> Volume:
    size = volume.size or snapshot.size
    if size < snapshot.size:
        raise VStorageError(
            Code.BAD_SIZE,
            what,
            f"{format_size(size)} is less than the {format_size(snapshot.size)} of its source",
            "give at least the source's size, or none",
        )
    return replace(
        volume,
        size=size,
        parent=Parent(parent.uuid, snapshot.uuid),
        ancestors=(*parent.ancestors, parent.uuid),
        sco_size=parent.sco_size,
        preset=volume.preset or parent.preset,
    )


def _make(host: Host, volume: Volume) -> Volume:
    """Let the engine make a volume whose intent is stored, and open it."""
    first = replace(volume, epoch=1)
    what = f"create volume {volume.name!r}"
    preset = None
    if volume.preset is not None:
        preset, _ = find_preset(host.store, host.engine, what, volume.preset)
    host.engine.create_volume(
        CreateSpec(first.uuid, first.size, first.epoch, first.parent, first.sco_size, preset)
    )
    home = host.settings.home
    made = host.update(what, volume, epoch=first.epoch, state=State.AVAILABLE, home=home)
    return host.open(made)


def _undo(host: Host, volume: Volume) -> bool:
    """Decide that a creation which failed is taken back; whether it is to be purged.

    Its lock is held: nobody can attach it in between.
    """
    current = host.store.volume(volume.uuid)
    mine = current is not None and current.node == host.settings.node
    try:
        if current is not None and mine:
            host.store.commit(put(replace(current, state=State.DELETING)))
            return True
        if current is None or current.state is State.DELETING:
            # This node counted as dead meanwhile, and another one has undone what it saw of it.
            host.engine.delete_volume(volume.uuid)
    except VStorageError as failure:
        # The error that the user waits for is the first one; this one shows in `status`.
        host.remember_failure(volume.uuid, failure)
    return False


def _purge_undone(host: Host, uuid: str) -> None:
    """Take back what :func:`_undo` has decided."""
    try:
        purge(host, uuid)
    except VStorageError as failure:
        host.remember_failure(uuid, failure)


def _decide_delete(host: Host, what: str, uuid: str, cascade: bool) -> bool:
    """Store the decision to delete; False when somebody else has finished it."""
    volume = host.store.volume(uuid)
    if volume is None or volume.state is State.HIDDEN:
        return False
    # Also to finish a deletion: nobody else does it, and it must not be called done.
    host.require_own(what, volume)
    if volume.state is State.DELETING:
        return True
    refuse_attached(what, volume)
    snapshots = host.store.snapshots(uuid)
    names = [snapshot.name for snapshot in snapshots if snapshot.listed and snapshot.name]
    if names and not cascade:
        raise VStorageError(
            Code.IN_USE,
            what,
            f"it has snapshots: {', '.join(names)}",
            "delete them first, or all together with --cascade",
        )
    held = any(snapshot.clones for snapshot in snapshots)
    fate = State.HIDDEN if held else State.DELETING
    operations: list[Operation] = [put(replace(volume, state=fate, template=False, base=None))]
    if held:
        operations += host.store.release_name(volume)
    for snapshot in snapshots:
        operations += letting_go(host, snapshot)
    host.store.commit(*operations)
    return True


def _freeze(host: Host, volume: Volume) -> Volume:
    """Make a template: its clones share one snapshot, taken now."""
    what = f"make volume {volume.name!r} a template"
    base = take_snapshot(host, what, volume, None)
    frozen = replace(volume, template=True, base=base.uuid)
    version = host.store.commit(put(frozen), put(replace(base, state=State.HIDDEN, kept=True)))
    return replace(frozen, version=version)


def _thaw(host: Host, what: str, volume: Volume) -> Volume:
    """Make a template writable again: its base stays only for the clones it has."""
    current = host.again(what, volume)
    thawed = replace(current, template=False, base=None)
    operations: list[Operation] = [put(thawed)]
    base = None if current.base is None else host.store.snapshot(current.base)
    if base is not None:
        operations += letting_go(host, base)
    return replace(thawed, version=host.store.commit(*operations))


def _duplicate(what: str, name: str) -> VStorageError:
    return VStorageError(
        Code.DUPLICATE_NAME,
        what,
        f"there is already a volume {name!r}",
        "choose another name, or delete that volume first",
    )
