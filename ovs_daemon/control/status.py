"""What the host says about itself: findings, worst first, and counters by volume."""

from __future__ import annotations

from typing import Any

from ovs_daemon.control.domains import describe_domain
from ovs_daemon.control.health import cluster_findings
from ovs_daemon.control.host import Host
from ovs_daemon.control.nodes import describe_node
from ovs_daemon.control.outlook import describe_risks
from ovs_daemon.control.records import LOCAL, Attachment, Mode, Snapshot, State, Volume
from ovs_daemon.control.remote import served_here
from ovs_daemon.control.topology import Node
from ovs_daemon.control.upkeep import upkeep_findings
from ovs_daemon.control.view import View
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.ranking import rank


def status(host: Host, edge_connected: bool) -> dict[str, Any]:
    """The whole picture of this host.

    ``findings`` is sorted, worst first; each has code, severity, object, why and fix. ``volumes``
    are the engine's counters with the volume's name; the engine's other figures stand beside.
    ``domains`` and ``nodes`` are those of the whole cluster; ``risks`` are the single failures that
    would do harm, worst first, as `outlook.py` describes them.
    """
    engine = host.engine.status()
    view = View.of(host.store)
    names = view.names()
    counters = [{"name": names.get(one["uuid"]), **one} for one in engine.pop("volumes", [])]
    upkeep = host.engine.upkeep()
    return {
        "node": host.settings.node,
        "edge_connected": edge_connected,
        "findings": all_findings(host, edge_connected, view, engine.pop("findings", []), upkeep),
        "volumes": counters,
        "domains": [describe_domain(view, domain) for domain in view.domains],
        "nodes": [describe_node(view, node) for node in view.nodes],
        "risks": describe_risks(view),
        "upkeep": upkeep,
        **engine,
    }


def all_findings(
    host: Host,
    edge_connected: bool,
    view: View,
    engine: list[dict[str, Any]],
    upkeep: dict[str, Any] | None,
) -> list[dict[str, Any]]:
    """All that is wrong, worst first.

    :param engine: the engine's findings
    :param upkeep: the figures of the backend's upkeep
    """
    names = view.names()
    findings = [_named(finding, names) for finding in engine]
    findings += _findings(host, list(view.volumes), edge_connected)
    findings += cluster_findings(host, view)
    findings += upkeep_findings(upkeep)
    return sorted(findings, key=rank)


def describe_volume(
    host: Host, volume: Volume, holder: str | None = None, owner: Node | None = None
) -> dict[str, Any]:
    """A volume as users see it; sizes in bytes.

    :param holder: whose attachment ``socket`` and ``uri`` are of; else those of the first holder
    :param owner: its node, if that is known already
    """
    owner = owner or host.store.node(volume.node)
    failure = host.failures().get(volume.uuid)
    usable = failure is None or host.is_open(volume.uuid)
    attachment = volume.held_by(holder or LOCAL) or next(iter(volume.attachments), None)
    return {
        "name": volume.name,
        "uuid": volume.uuid,
        "size": volume.size,
        "state": volume.state.value if usable else "failed",
        "template": volume.template,
        "attached": ",".join(sorted({one.mode for one in volume.attachments})) or None,
        "read_only": volume.template or (attachment is not None and attachment.read_only),
        "socket": None if attachment is None else attachment.socket,
        "uri": None if attachment is None else attachment.uri,
        "multi_attach": volume.multi_attach,
        "attachments": [_describe_attachment(one) for one in volume.attachments],
        "parent": _describe_parent(host, volume),
        "node": volume.node,
        "domain": None if owner is None else owner.domain,
        "limits": volume.limits,
        "epoch": volume.epoch,
        "dtl": {
            "mode": volume.dtl.mode.value,
            "node": volume.dtl.node,
            "state": volume.dtl.state.value,
        },
        "mds": list(volume.mds),
        "forced": volume.forced,
        "sco_size": volume.sco_size,
        "preset": volume.preset,
        "created_at": volume.created_at,
        "failure": None if failure is None else str(failure),
    }


def describe_snapshot(volume: Volume, snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as users see it; size in bytes."""
    return {
        "name": snapshot.name,
        "uuid": snapshot.uuid,
        "volume": volume.name,
        "volume_uuid": volume.uuid,
        "size": snapshot.size,
        "state": snapshot.state.value,
        "clones": snapshot.clones,
        "created_at": snapshot.created_at,
    }


def _describe_attachment(attachment: Attachment) -> dict[str, Any]:
    return {
        "holder": attachment.holder,
        "node": attachment.node,
        "mode": attachment.mode.value,
        "read_only": attachment.read_only,
        "socket": attachment.socket,
        "uri": attachment.uri,
    }


def _describe_parent(host: Host, volume: Volume) -> dict[str, Any] | None:
    if volume.parent is None:
        return None
    parent = host.store.volume(volume.parent.volume)
    snapshot = host.store.snapshot(volume.parent.snapshot)
    return {
        "volume": None if parent is None else parent.name,
        "volume_uuid": volume.parent.volume,
        "snapshot": None if snapshot is None else snapshot.name,
        "snapshot_uuid": volume.parent.snapshot,
    }


def _findings(host: Host, volumes: list[Volume], edge_connected: bool) -> list[dict[str, Any]]:
    failures = host.failures()
    found = [
        _failed(volume, failures[volume.uuid]) for volume in volumes if volume.uuid in failures
    ]
    for volume in volumes:
        # Taken without the volume's lock: a verb at work shows up here for a moment, too.
        if volume.state in (State.CREATING, State.DELETING) and volume.uuid not in failures:
            found.append(_unfinished(volume))
    waiting = [
        volume.name
        for volume in volumes
        if any(one.mode is not Mode.DIRECT for one in served_here(host, volume))
    ]
    if waiting and not edge_connected:
        found.append(
            {
                "code": "edge_unavailable",
                "severity": "critical",
                "object": "edge",
                "why": f"it does not answer; attached through it: {', '.join(waiting)}",
                "fix": "start vstorage-edge with the same run directory",
            }
        )
    return found


def _failed(volume: Volume, failure: VStorageError) -> dict[str, Any]:
    return {
        "code": failure.code,
        "severity": "critical",
        "object": f"volume {volume.name}",
        "why": f"cannot {failure.what}: {failure.why}",
        "fix": failure.fix,
    }


def _unfinished(volume: Volume) -> dict[str, Any]:
    return {
        "code": f"volume_{volume.state.value}",
        "severity": "info",
        "object": f"volume {volume.name}",
        "why": f"the volume is {volume.state.value}",
        "fix": f"if it stays so, repeat 'vstorage volume delete {volume.name}'",
    }


def _named(finding: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The engine's finding as ours: it knows UUIDs, people know names."""
    subject = str(finding.get("object", ""))
    name = names.get(subject.removeprefix("volume "))
    return {
        **finding,
        "code": str(finding.get("code", "")).lower(),
        "object": subject if name is None else f"volume {name}",
    }
