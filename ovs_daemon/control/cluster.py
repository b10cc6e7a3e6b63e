"""What any node can be asked about the cluster: Domains, nodes, and who owns a volume.

The twin of `verbs.py` for what is not a volume; the control API carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovs_daemon.control import domains, dtl, moves, nodes
from ovs_daemon.control.domains import describe_domain, require_domain
from ovs_daemon.control.host import Host
from ovs_daemon.control.nodes import Change, describe_node, parse_roles, require_node
from ovs_daemon.control.outlook import describe_drain, describe_loss
from ovs_daemon.control.status import describe_volume
from ovs_daemon.control.view import View
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.policy.model import DtlMode


class ClusterVerbs:
    """The verbs on the cluster. Each raises :class:`VStorageError`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def list_domains(self) -> dict[str, Any]:
        """All Domains."""
        view = self._view()
        return {"domains": [describe_domain(view, domain) for domain in view.domains]}

    def show_domain(self, name: str) -> dict[str, Any]:
        """One Domain."""
        domain = require_domain(self._host.store, f"show Domain {name!r}", name)
        return describe_domain(self._view(), domain)

    def create_domain(
        self, name: str, description: str | None = None, availability_zone: str | None = None
    ) -> dict[str, Any]:
        """A new Domain."""
        made = domains.create_domain(self._host, name, description or "", availability_zone)
        return describe_domain(self._view(), made)

    def set_domain(
        self, name: str, description: str | None = None, availability_zone: str | None = None
    ) -> dict[str, Any]:
        """Change what is said about a Domain; an empty zone takes it away."""
        changed = domains.set_domain(self._host, name, description, availability_zone)
        return describe_domain(self._view(), changed)

    def delete_domain(self, name: str) -> dict[str, Any]:
        """Delete a Domain that nobody uses."""
        domains.delete_domain(self._host, name)
        return {"deleted": True}

    def list_nodes(self) -> dict[str, Any]:
        """All nodes, dead or alive."""
        view = self._view()
        return {"nodes": [describe_node(view, node) for node in view.nodes]}

    def show_node(self, name: str) -> dict[str, Any]:
        """One node."""
        node = require_node(self._host.store, f"show node {name!r}", name)
        return describe_node(self._view(), node)

    def set_node(
        self,
        name: str,
        domain: str | None = None,
        recovery_domain: str | None = None,
        roles: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Assign a node; an empty Recovery Domain takes it away."""
        parsed = None if roles is None else parse_roles(f"change node {name!r}", roles)
        changed = nodes.set_node(self._host, name, Change(domain, recovery_domain, parsed))
        return describe_node(self._view(), changed)

    def delete_node(self, name: str) -> dict[str, Any]:
        """Forget a node that is gone for good."""
        nodes.delete_node(self._host, name)
        return {"deleted": True}

    def plan_drain(self, name: str) -> dict[str, Any]:
        """What would empty a node; nothing is changed."""
        return describe_drain(self._host.store, name)

    def what_if(self, lost: str) -> dict[str, Any]:
        """What would happen if a node or a Domain were lost at this moment."""
        return describe_loss(self._host.store, lost)

    def _view(self) -> View:
        return View.of(self._host.store)

    def drain_node(self, name: str) -> dict[str, Any]:
        """Have a node give away what it has; answers with the plan."""
        plan = self.plan_drain(name)
        nodes.set_draining(self._host, name, True)
        return plan

    def resume_node(self, name: str) -> dict[str, Any]:
        """Let a node that was drained get new things again."""
        return describe_node(self._view(), nodes.set_draining(self._host, name, False))

    def move_volume(self, volume: str, node: str) -> dict[str, Any]:
        """Hand a volume of this node, with its relatives, to another one."""
        return describe_volume(self._host, moves.move_volume(self._host, volume, node))

    def take_over_volume(self, volume: str, accept_loss: bool = False) -> dict[str, Any]:
        """Have this node go on with a volume whose owner is dead."""
        return describe_volume(self._host, moves.take_over(self._host, volume, accept_loss))

    def set_dtl_mode(self, volume: str, mode: str) -> dict[str, Any]:
        """Change when a volume's writes are acknowledged: ``sync``, ``async`` or ``none``."""
        if mode not in list(DtlMode):
            raise VStorageError(
                Code.BAD_REQUEST,
                f"set the DTL mode of volume {volume!r}",
                f"{mode!r} is no DTL mode",
                f"modes are {', '.join(DtlMode)}",
            )
        return describe_volume(self._host, dtl.set_dtl_mode(self._host, volume, DtlMode(mode)))
