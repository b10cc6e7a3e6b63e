"""Verbs on Domains."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ovs_daemon.control.host import Host
from ovs_daemon.control.store import Store, drop, put
from ovs_daemon.control.topology import Domain
from ovs_daemon.control.view import View
from ovs_daemon.errors import Code, VStorageError, unknown_domain
from ovs_daemon.registry import Conflict, retry

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def create_domain(
    host: Host, name: str, description: str = "", availability_zone: str | None = None
) -> Domain:
    """Make a Domain, without nodes so far.

    :raises VStorageError: ``bad_request``, ``duplicate_name``
    """
    what = f"create Domain {name!r}"
    if _NAME.fullmatch(name) is None:
        raise VStorageError(
            Code.BAD_REQUEST,
            what,
            f"{name!r} is no name for a Domain",
            "use up to 63 letters, digits, '.', '_' and '-', a letter or digit first",
        )
    domain = Domain(name, description, availability_zone or None, host.now())
    try:
        return replace(domain, version=host.store.commit(put(domain)))
    except Conflict as conflict:
        raise VStorageError(
            Code.DUPLICATE_NAME,
            what,
            f"there is already a Domain {name!r}",
            f"choose another name, or change it with 'vstorage domain set {name}'",
        ) from conflict


def set_domain(
    host: Host, name: str, description: str | None = None, availability_zone: str | None = None
) -> Domain:
    """Change what is said about a Domain.

    :param availability_zone: "" for none; None leaves it
    :raises VStorageError: ``unknown_domain``
    """
    what = f"change Domain {name!r}"

    def attempt() -> Domain:
        domain = require_domain(host.store, what, name)
        if description is not None:
            domain = replace(domain, description=description)
        if availability_zone is not None:
            domain = replace(domain, availability_zone=availability_zone or None)
        return replace(domain, version=host.store.commit(put(domain)))

    return retry(what, attempt)


def delete_domain(host: Host, name: str) -> None:
    """Delete a Domain that nobody uses.

    :raises VStorageError: ``unknown_domain``, ``in_use`` by a node
    """
    what = f"delete Domain {name!r}"

    def attempt() -> None:
        domain = require_domain(host.store, what, name)
        nodes = host.store.nodes()
        inside = [node.name for node in nodes if node.domain == name]
        if inside:
            raise VStorageError(
                Code.IN_USE,
                what,
                f"it is the Domain of {', '.join(inside)}",
                "assign them to another one with 'vstorage node set NODE --domain DOMAIN', or "
                "'vstorage node delete' those that are gone for good",
            )
        relying = [
            node.name
            for node in nodes
            if name in (node.recovery_domain, node.wanted_recovery_domain)
        ]
        if relying:
            raise VStorageError(
                Code.IN_USE,
                what,
                f"it is the Recovery Domain of {', '.join(relying)}",
                "give them another one with 'vstorage node set NODE --recovery-domain DOMAIN', "
                "or none with --no-recovery-domain",
            )
        # Whoever begins to use it writes its record: this then fails, and looks again.
        host.store.commit(drop(domain))

    retry(what, attempt)


def require_domain(store: Store, what: str, name: str) -> Domain:
    """The Domain that a user means.

    :raises VStorageError: ``unknown_domain``
    """
    domain = store.domain(name)
    if domain is None:
        raise unknown_domain(what, name)
    return domain


def domain_of(host: Host) -> Domain | None:
    """The Domain that this host is in, None when it was not assigned to one."""
    node = host.store.node(host.settings.node)
    return None if node is None or node.domain is None else host.store.domain(node.domain)


def describe_domain(view: View, domain: Domain) -> dict[str, Any]:
    """A Domain as users see it."""
    inside = [node.name for node in view.nodes if node.domain == domain.name]
    return {
        "name": domain.name,
        "description": domain.description,
        "availability_zone": domain.availability_zone,
        "nodes": inside,
        "nodes_alive": [name for name in inside if name in view.alive],
        "recovery_domain_of": [
            one.name for one in view.nodes if one.recovery_domain == domain.name
        ],
        "created_at": domain.created_at,
    }
