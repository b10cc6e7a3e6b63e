"""Programs of several releases, as they are while a cluster is upgraded (`doc/upgrade.md`)."""

from __future__ import annotations

from typing import Any

from ovs_daemon.control.findings import finding
from ovs_daemon.control.host import Host
from ovs_daemon.control.view import View
from ovs_daemon.errors import Code, VStorageError


def releases(view: View) -> dict[str, list[str]]:
    """The names of the nodes that live, by the release that each has said when it started."""
    found: dict[str, list[str]] = {}
    for node in view.nodes:
        if node.name in view.alive:
            found.setdefault(node.release, []).append(node.name)
    return dict(sorted(found.items()))


def _programs(host: Host, view: View) -> dict[str, list[str]]:
    """The same with the OSD servers that this node reaches, and its Edge; "": it tells none."""
    found = releases(view)
    said = host.engine.osd_releases()
    if said:
        osds = (osd for osd in host.store.osds() if osd.uuid in said)
        for release, address in sorted({(said[osd.uuid], osd.address) for osd in osds}):
            found.setdefault(release, []).append(f"vstorage-osd at {address}")
    if host.edge.release is not None:
        found.setdefault(host.edge.release, []).append(f"vstorage-edge of {host.settings.node}")
    return dict(sorted(found.items()))


def releases_findings(host: Host, view: View) -> list[dict[str, Any]]:
    """That an upgrade is not finished, as far as this node knows."""
    found = _programs(host, view)
    if len(found) < 2:
        return []
    return [
        finding(
            "releases_differ",
            "warning",
            "cluster",
            f"its programs are of several releases: {_tell(found)}",
            "bring all to one release; until then OSDs cannot leave, and doc/upgrade.md says what "
            "else is to wait",
        )
    ]


def refuse_mixed(what: str, view: View) -> None:
    """Refuse what all nodes have to know of.

    :raises VStorageError: ``busy``
    """
    found = releases(view)
    if len(found) > 1:
        raise VStorageError(
            Code.BUSY,
            what,
            f"the cluster's nodes are of several releases, not all of which may know that OSDs "
            f"leave: {_tell(found)}",
            "finish the upgrade of all nodes, and of every vstorage-osd, first; 'vstorage node "
            "list' shows who has which release",
        )


def _tell(found: dict[str, list[str]]) -> str:
    return "; ".join(
        f"{release or 'unknown'} on {', '.join(names)}" for release, names in found.items()
    )
