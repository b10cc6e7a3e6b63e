"""Verbs on nodes: which Domain a node is in, and which Domain keeps the logs of its volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ovs_daemon.control.domains import require_domain
from ovs_daemon.control.host import Host
from ovs_daemon.control.store import Store, drop, put
from ovs_daemon.control.topology import Node
from ovs_daemon.control.view import View
from ovs_daemon.errors import Code, VStorageError, unknown_node
from ovs_daemon.policy.drain import plan_drain
from ovs_daemon.policy.model import Role
from ovs_daemon.registry import Operation, retry


@dataclass(frozen=True)
class Change:
    """What is to change about a node; None leaves it as it is.

    :param recovery_domain: "" for none
    """

    domain: str | None = None
    recovery_domain: str | None = None
    roles: tuple[Role, ...] | None = None


def set_node(host: Host, name: str, change: Change) -> Node:
    """Assign a node to a Domain, give it a Recovery Domain, change its roles.

    :raises VStorageError: ``unknown_node``, ``unknown_domain``, ``bad_request`` or ``in_use``
        with the rule that forbids it
    """
    what = f"change node {name!r}"

    def attempt() -> Node:
        node = require_node(host.store, what, name)
        changed = _changed(node, change)
        operations = check_membership(host.store, what, node, changed)
        if change.roles is not None and Role.ROUTER not in changed.roles:
            _refuse_needed(host.store, what, node)
        return replace(changed, version=host.store.commit(put(changed), *operations))

    node = retry(what, attempt)
    grant_wishes(host.store)
    return node


def delete_node(host: Host, name: str) -> None:
    """Forget a node that is gone for good.

    :raises VStorageError: ``unknown_node``, ``in_use`` while it is alive or still needed
    """
    what = f"delete node {name!r}"

    def attempt() -> None:
        node = require_node(host.store, what, name)
        if name in host.store.alive():
            raise VStorageError(
                Code.IN_USE,
                what,
                "it is alive, and would register itself again",
                "stop its daemon first",
            )
        _refuse_needed(host.store, what, node)
        operations = check_membership(host.store, what, node, replace(node, domain=None))
        host.store.commit(drop(node), *operations)

    retry(what, attempt)


def set_draining(host: Host, name: str, draining: bool) -> Node:
    """Have a node give away all that it has, or let it get new things again.

    The node itself does it, bit by bit; `steward.py`.

    :raises VStorageError: ``unknown_node``, ``in_use`` when there is no other node for its volumes
    """
    what = f"{'drain' if draining else 'resume'} node {name!r}"

    def attempt() -> Node:
        node = require_node(host.store, what, name)
        if draining:
            _check_drain(host.store, what, name)
        changed = replace(node, draining=draining)
        return replace(changed, version=host.store.commit(put(changed)))

    return retry(what, attempt)


def _check_drain(store: Store, what: str, name: str) -> None:
    view = View.of(store)
    plan = plan_drain(view.cluster(beside=name), name)
    if plan.stuck:
        names = view.names()
        stuck = ", ".join(names[uuid] for uuid in plan.stuck)
        raise VStorageError(
            Code.IN_USE,
            what,
            f"there is no other node for {stuck}: it is the last one that could own volumes",
            "start another node with the role router first",
        )


def require_node(store: Store, what: str, name: str) -> Node:
    """The node that a user means.

    :raises VStorageError: ``unknown_node``
    """
    node = store.node(name)
    if node is None:
        raise unknown_node(what, name)
    return node


def require_assigned(host: Host, what: str) -> None:
    """Refuse what this node cannot do while it is in no Domain, or is not to own volumes.

    :raises VStorageError: ``bad_request``
    """
    node = host.store.node(host.settings.node)
    if node is not None and Role.ROUTER not in node.roles:
        raise VStorageError(
            Code.BAD_REQUEST,
            what,
            f"node {node.name!r} has not the role router, so that it owns no volumes",
            f"ask a node that has it, or 'vstorage node set {node.name} --roles edge,router', and "
            "restart its daemon",
        )
    if node is not None and node.domain is None:
        raise VStorageError(
            Code.BAD_REQUEST,
            what,
            f"node {node.name!r} is in no Domain, so that nobody knows where its logs may be kept",
            f"'vstorage node set {node.name} --domain DOMAIN'; 'vstorage domain list' shows them",
        )


def check_membership(store: Store, what: str, before: Node, after: Node) -> list[Operation]:
    """Hold a change of a node's Domains against the rules.

    :returns: operations that must be in the same transaction
    :raises VStorageError: ``unknown_domain``, ``bad_request`` or ``in_use``
    """
    touched: dict[str, Operation] = {}

    def rely_on(name: str) -> None:
        touched[name] = put(require_domain(store, what, name))

    others = [node for node in store.nodes() if node.name != before.name]
    if after.domain != before.domain:
        if after.domain is not None:
            rely_on(after.domain)
        if before.domain is not None:
            _check_leaving(what, before, others)
            rely_on(before.domain)
    recovery = after.recovery_domain
    if recovery is not None and after.domain is not None:
        if recovery == after.domain:
            raise _bad(
                what,
                f"{recovery!r} is its own Domain: what fails together must not recover each other",
                "name another Domain, or none: without one its logs are kept on other nodes of its "
                "own Domain",
            )
        rely_on(recovery)
        if not any(node.domain == recovery for node in others):
            raise _bad(
                what,
                f"{recovery!r} cannot be a Recovery Domain: no node has it as its Domain, so that "
                "nobody there could keep a log",
                f"first 'vstorage node set NODE --domain {recovery}' for at least one node",
            )
    elif recovery is not None:
        raise _bad(
            what,
            "it is in no Domain, and a Recovery Domain is one for the volumes of a Domain",
            f"'vstorage node set {before.name} --domain DOMAIN' first",
        )
    return list(touched.values())


def grant_wishes(store: Store) -> None:
    """Give nodes the Recovery Domain that their configuration asks for, once it has a node."""

    def attempt() -> None:
        nodes = store.nodes()
        inhabited = {node.domain for node in nodes}
        for node in nodes:
            wanted = node.wanted_recovery_domain
            if wanted is None or node.domain is None or wanted not in inhabited - {node.domain}:
                continue
            granted = replace(node, recovery_domain=wanted, wanted_recovery_domain=None)
            what = f"give node {node.name!r} its Recovery Domain"
            operations = check_membership(store, what, node, granted)
            store.commit(put(granted), *operations)

    retry("give nodes their Recovery Domains", attempt)


def describe_node(view: View, node: Node) -> dict[str, Any]:
    """A node as users see it."""
    alive = view.alive.get(node.name)
    return {
        "name": node.name,
        "domain": node.domain,
        "recovery_domain": node.recovery_domain,
        "wanted_recovery_domain": node.wanted_recovery_domain,
        "alive": alive is not None,
        "alive_since": None if alive is None else alive.since,
        "roles": [role.value for role in node.roles],
        "addresses": node.addresses,
        "release": node.release,
        "draining": node.draining,
        "backend": node.backend,
        "volumes": sum(1 for one in view.volumes if one.listed and one.node == node.name),
        "maps": sum(1 for one in view.volumes if node.name in one.mds and one.node != node.name),
        "logs": sum(1 for one in view.volumes if one.dtl.node == node.name),
        "registered_at": node.registered_at,
        "started_at": node.started_at,
    }


def parse_roles(what: str, names: Sequence[str]) -> tuple[Role, ...]:
    """Roles by their names.

    :raises VStorageError: ``bad_request``
    """
    unknown = sorted(set(names) - set(Role))
    if unknown or not names:
        raise _bad(
            what,
            f"{', '.join(unknown)} is no role" if unknown else "a node without a role does nothing",
            f"roles are {', '.join(Role)}",
        )
    return tuple(role for role in Role if role in names)


def _changed(node: Node, change: Change) -> Node:
    if change.domain is not None:
        node = replace(node, domain=change.domain)
    if change.recovery_domain is not None:
        chosen = change.recovery_domain or None
        # Who says otherwise takes back what the configuration asked for.
        node = replace(node, recovery_domain=chosen, wanted_recovery_domain=None)
    if change.roles is not None:
        node = replace(node, roles=change.roles)
    return node


def _check_leaving(what: str, node: Node, others: Sequence[Node]) -> None:
    """A Recovery Domain must not lose its last node."""
    relying = [one.name for one in others if one.recovery_domain == node.domain]
    if relying and not any(one.domain == node.domain for one in others):
        raise VStorageError(
            Code.IN_USE,
            what,
            f"it is the last node of {node.domain!r}, which is the Recovery Domain of "
            f"{', '.join(relying)}",
            "give those another Recovery Domain first, or none with --no-recovery-domain",
        )


def _refuse_needed(store: Store, what: str, node: Node) -> None:
    """Refuse to take a node away that still owns volumes."""
    owned = [volume.name for volume in store.volumes() if volume.node == node.name]
    if owned:
        raise VStorageError(
            Code.IN_USE,
            what,
            f"it owns volumes: {', '.join(owned[:5])}{' ...' if len(owned) > 5 else ''}",
            f"'vstorage node drain {node.name} --dry-run' shows where they could go",
        )


def _bad(what: str, why: str, fix: str) -> VStorageError:
    return VStorageError(Code.BAD_REQUEST, what, why, fix)
