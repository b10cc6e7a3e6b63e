"""The control API as Python calls it: for the command line, and for OpenStack's drivers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from ovs_daemon.errors import (
    Code,
    VStorageError,
    unknown_domain,
    unknown_node,
    unknown_osd,
    unknown_preset,
    unknown_volume,
)

# A verb may wait for the backend; the connection is local, so a dead daemon shows at once.
_TIMEOUT_S = 600.0


class Client:
    """Calls one node daemon.

    Every method raises :class:`VStorageError`: the daemon's own, or ``daemon_unavailable``.
    Answers have the shapes given in `ovs_daemon/control/api.py`; sizes are bytes.

    :param socket: the daemon's control socket
    :param timeout_s: how long an answer may take, seconds
    """

    def __init__(self, socket: Path, timeout_s: float = _TIMEOUT_S) -> None:
        self._socket = socket
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)),
            base_url="http://vstorage",
            timeout=timeout_s,
        )

    def close(self) -> None:
        """Drop the connection."""
        self._http.close()

    def status(self) -> dict[str, Any]:
        """Findings, worst first, and counters by volume."""
        return self._call("GET", "/v1/status")

    def list_volumes(self, everything: bool = False) -> list[dict[str, Any]]:
        """All volumes; ``everything`` includes hidden ones."""
        query = "?all=true" if everything else ""
        volumes: list[dict[str, Any]] = self._call("GET", f"/v1/volumes{query}")["volumes"]
        return volumes

    def show_volume(self, volume: str) -> dict[str, Any]:
        """One volume with its counters."""
        return self._call("GET", _volume(volume))

    def create_volume(
        self,
        name: str,
        size: int | None,
        from_volume: str | None = None,
        from_snapshot: str | None = None,
        preset: str | None = None,
    ) -> dict[str, Any]:
        """A new empty volume, or a clone."""
        body: dict[str, Any] = {"name": name, "size": size, "preset": preset}
        if from_volume is not None:
            body["from"] = {"volume": from_volume, "snapshot": from_snapshot}
        return self._call("POST", "/v1/volumes", body)

    def delete_volume(self, volume: str, cascade: bool = False) -> bool:
        """Whether there was something to delete."""
        query = "?cascade=true" if cascade else ""
        return bool(self._call("DELETE", _volume(volume) + query)["deleted"])

    def resize_volume(self, volume: str, size: int) -> dict[str, Any]:
        """Grow a volume."""
        return self._call("PATCH", _volume(volume), {"size": size})

    def rename_volume(self, volume: str, name: str) -> dict[str, Any]:
        """Give a volume that is not attached another name."""
        return self._call("PATCH", _volume(volume), {"name": name})

    def set_limits(self, volume: str, limits: dict[str, float] | None) -> dict[str, Any]:
        """Limit what a volume's users may ask of it, as `ovs_daemon/control/qos.py` describes."""
        return self._call("PUT", _volume(volume) + "/limits", {"limits": limits})

    def set_template(self, volume: str, template: bool) -> dict[str, Any]:
        """Make a volume a template, or an ordinary one again."""
        return self._call("PATCH", _volume(volume), {"template": template})

    def revert_volume(self, volume: str, snapshot: str) -> dict[str, Any]:
        """Make a volume's content that of its snapshot."""
        return self._call("POST", _volume(volume) + "/revert", {"snapshot": snapshot})

    def set_multi_attach(self, volume: str, multi_attach: bool) -> dict[str, Any]:
        """Let several holders attach a volume, or one at a time again."""
        return self._call("PATCH", _volume(volume), {"multi_attach": multi_attach})

    def attach_volume(
        self,
        volume: str,
        mode: str = "edge",
        read_only: bool = False,
        holder: str | None = None,
        shared: bool = False,
        preempt: bool = False,
        reconnects: bool = False,
    ) -> dict[str, Any]:
        """Serve a volume; ``uri`` in the answer is how to reach it.

        :param mode: "edge" or "direct" for NBD on a unix socket, "file" for a file
        :param holder: who uses it; None for a person on this host
        :param shared: other holders are fine
        :param preempt: other holders lose it
        :param reconnects: the guest connects again by itself when its connection is closed
        """
        flags = {
            "read_only": read_only,
            "shared": shared,
            "preempt": preempt,
            "reconnects": reconnects,
        }
        body = {"mode": mode, "holder": holder, **flags}
        return self._call("PUT", _volume(volume) + "/attachment", body)

    def detach_volume(
        self, volume: str, holder: str | None = None, everybody: bool = False
    ) -> dict[str, Any]:
        """Stop serving a volume to a holder (None: a person on this host), or to everybody."""
        query = {"everybody": "true"} if everybody else {"holder": holder} if holder else {}
        return self._call("DELETE", f"{_volume(volume)}/attachment?{urlencode(query)}")

    def reconnect_volume(self, volume: str) -> dict[str, Any]:
        """Close guests' connections over NBD; they see the volume's size when they come back."""
        return self._call("POST", _volume(volume) + "/attachment/reconnect", {})

    def list_snapshots(self, volume: str | None = None) -> list[dict[str, Any]]:
        """Snapshots of one volume, or of all."""
        path = "/v1/snapshots" if volume is None else _volume(volume) + "/snapshots"
        snapshots: list[dict[str, Any]] = self._call("GET", path)["snapshots"]
        return snapshots

    def create_snapshot(self, volume: str, name: str) -> dict[str, Any]:
        """Take a snapshot."""
        return self._call("POST", _volume(volume) + "/snapshots", {"name": name})

    def create_snapshots(self, members: list[tuple[str, str]]) -> list[dict[str, Any]]:
        """Snapshots (volume, name) of several volumes at one instant."""
        body = {"members": [list(member) for member in members]}
        taken: list[dict[str, Any]] = self._call("POST", "/v1/snapshots", body)["snapshots"]
        return taken

    def rename_snapshot(self, volume: str, snapshot: str, name: str) -> dict[str, Any]:
        """Give a snapshot another name."""
        return self._call("PATCH", _snapshot(volume, snapshot), {"name": name})

    def diff_snapshots(self, volume: str, since: str | None, snapshot: str) -> list[list[int]]:
        """Extents [offset, length] in which two snapshots may differ; ``since`` None: written."""
        query = "" if since is None else "?" + urlencode({"since": since})
        path = _snapshot(volume, snapshot) + "/diff" + query
        extents: list[list[int]] = self._call("GET", path)["extents"]
        return extents

    def delete_snapshot(self, volume: str, snapshot: str) -> bool:
        """Whether there was something to delete."""
        return bool(self._call("DELETE", _snapshot(volume, snapshot))["deleted"])

    def list_osds(self) -> list[dict[str, Any]]:
        """All OSDs of the cluster."""
        osds: list[dict[str, Any]] = self._call("GET", "/v1/osds")["osds"]
        return osds

    def show_osd(self, uuid: str) -> dict[str, Any]:
        """One OSD."""
        return self._call("GET", _named("osds", uuid))

    def add_osds(self, address: str) -> list[dict[str, Any]]:
        """Register what the OSD server at an address serves."""
        osds: list[dict[str, Any]] = self._call("POST", "/v1/osds", {"address": address})["osds"]
        return osds

    def decommission_osd(self, uuid: str) -> dict[str, Any]:
        """Move what is on an OSD elsewhere, then remove it."""
        return self._call("POST", _named("osds", uuid) + "/decommission", {})

    def remove_osd(self, uuid: str, lost: bool) -> dict[str, Any]:
        """Forget an OSD; ``lost``: it will never be back."""
        return self._call("POST", _named("osds", uuid) + "/remove", {"lost": lost})

    def resume_osd(self, uuid: str) -> dict[str, Any]:
        """Have an OSD stay that leaves."""
        return self._call("POST", _named("osds", uuid) + "/resume", {})

    def osd_whereabouts(self) -> dict[str, Any]:
        """Cluster, Domain and node for which a new OSD of the daemon's node is claimed."""
        return self._call("GET", "/v1/osds/whereabouts")

    def upkeep(self) -> dict[str, Any]:
        """What the daemon's node has seen and done of the backend's upkeep."""
        return self._call("GET", "/v1/upkeep")

    def start_upkeep(self, kind: str) -> dict[str, Any]:
        """Begin a ``repair`` or ``scrub`` on the daemon's node; its figures from before."""
        return self._call("POST", "/v1/upkeep", {"kind": kind})

    def list_presets(self) -> list[dict[str, Any]]:
        """All presets, those that come with the program first."""
        presets: list[dict[str, Any]] = self._call("GET", "/v1/presets")["presets"]
        return presets

    def show_preset(self, name: str) -> dict[str, Any]:
        """One preset with what its policies promise."""
        return self._call("GET", _named("presets", name))

    def create_preset(
        self,
        name: str,
        policies: list[dict[str, int]],
        fragment_size: int,
        sco_size: int,
        compression: str = "none",
        encryption: str = "none",
        cache_on_write: bool = False,
    ) -> dict[str, Any]:
        """A new preset."""
        body = {"name": name, "policies": policies, "cache_on_write": cache_on_write}
        sizes = {"fragment_size": fragment_size, "sco_size": sco_size}
        how = {"compression": compression, "encryption": encryption}
        return self._call("POST", "/v1/presets", {**body, **sizes, **how})

    def delete_preset(self, name: str) -> dict[str, Any]:
        """Delete a preset."""
        return self._call("DELETE", _named("presets", name))

    def check_preset(self, name: str, cluster: list[dict[str, Any]]) -> dict[str, Any]:
        """Which policy of a preset such a cluster satisfies."""
        return self._call("POST", f"{_named('presets', name)}/check", {"cluster": cluster})

    def list_domains(self) -> list[dict[str, Any]]:
        """All Domains."""
        domains: list[dict[str, Any]] = self._call("GET", "/v1/domains")["domains"]
        return domains

    def show_domain(self, name: str) -> dict[str, Any]:
        """One Domain."""
        return self._call("GET", _named("domains", name))

    def create_domain(
        self, name: str, description: str | None = None, availability_zone: str | None = None
    ) -> dict[str, Any]:
        """A new Domain."""
        body = {"name": name, "description": description, "availability_zone": availability_zone}
        return self._call("POST", "/v1/domains", body)

    def set_domain(
        self, name: str, description: str | None = None, availability_zone: str | None = None
    ) -> dict[str, Any]:
        """Change what is said about a Domain; "" takes the zone away, None leaves it."""
        body = {"description": description, "availability_zone": availability_zone}
        return self._call("PATCH", _named("domains", name), body)

    def delete_domain(self, name: str) -> dict[str, Any]:
        """Delete a Domain that nobody uses."""
        return self._call("DELETE", _named("domains", name))

    def list_nodes(self) -> list[dict[str, Any]]:
        """All nodes, dead or alive."""
        nodes: list[dict[str, Any]] = self._call("GET", "/v1/nodes")["nodes"]
        return nodes

    def show_node(self, name: str) -> dict[str, Any]:
        """One node."""
        return self._call("GET", _named("nodes", name))

    def set_node(
        self,
        name: str,
        domain: str | None = None,
        recovery_domain: str | None = None,
        roles: list[str] | None = None,
    ) -> dict[str, Any]:
        """Change a node; "" takes the Recovery Domain away, None leaves things as they are."""
        body = {"domain": domain, "recovery_domain": recovery_domain, "roles": roles}
        return self._call("PATCH", _named("nodes", name), body)

    def delete_node(self, name: str) -> dict[str, Any]:
        """Forget a node that is gone for good."""
        return self._call("DELETE", _named("nodes", name))

    def plan_drain(self, name: str) -> dict[str, Any]:
        """What would empty a node."""
        return self._call("GET", _named("nodes", name) + "/drain")

    def drain_node(self, name: str) -> dict[str, Any]:
        """Have a node emptied; answers with the plan."""
        return self._call("PUT", _named("nodes", name) + "/drain")

    def resume_node(self, name: str) -> dict[str, Any]:
        """Let a drained node get new things again."""
        return self._call("DELETE", _named("nodes", name) + "/drain")

    def set_dtl_mode(self, volume: str, mode: str) -> dict[str, Any]:
        """When a volume's writes are acknowledged: "sync", "async" or "none"."""
        return self._call("PUT", _volume(volume) + "/dtl", {"mode": mode})

    def move_volume(self, volume: str, node: str) -> dict[str, Any]:
        """Hand a volume to another node."""
        return self._call("POST", _volume(volume) + "/move", {"node": node})

    def take_over_volume(self, volume: str, accept_loss: bool = False) -> dict[str, Any]:
        """Have this node go on with a volume whose owner is dead."""
        return self._call("POST", _volume(volume) + "/takeover", {"accept_loss": accept_loss})

    def what_if(self, lost: str) -> dict[str, Any]:
        """What the loss of a node or a Domain would do."""
        return self._call("GET", f"/v1/what-if?{urlencode({'lose': lost})}")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
            answer = response.json()
        except (httpx.HTTPError, ValueError) as failure:
            raise VStorageError(
                Code.DAEMON_UNAVAILABLE,
                f"reach the daemon for {method} {path}",
                f"it does not answer on {self._socket} ({failure or type(failure).__name__})",
                "start vstorage-daemon, or give its run directory with --run-dir",
            ) from failure
        if not isinstance(answer, dict) or response.is_error:
            error = answer.get("error", {}) if isinstance(answer, dict) else {}
            raise VStorageError.from_dict(error)
        return answer


_UNKNOWN = {
    "domains": unknown_domain,
    "nodes": unknown_node,
    "presets": unknown_preset,
    "osds": unknown_osd,
}


def _named(kind: str, name: str) -> str:
    # An empty name or a slash would be a different request.
    if not name or "/" in name:
        raise _UNKNOWN[kind](f"find {name!r}", name)
    return f"/v1/{kind}/{quote(name, safe='')}"


def _snapshot(volume: str, snapshot: str) -> str:
    return f"{_volume(volume)}/snapshots/{quote(snapshot, safe='')}"


def _volume(reference: str) -> str:
    # An empty name or a slash would be a different request.
    if not reference or "/" in reference:
        raise unknown_volume(f"find volume {reference!r}", reference)
    return f"/v1/volumes/{quote(reference, safe='')}"
