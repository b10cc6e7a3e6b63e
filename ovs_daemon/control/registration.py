"""How a node gets into the registry: by itself, when its daemon starts.

Its configuration says in which Domain it registers for the first time. From then on the registry
is the truth, and `vstorage node set` changes it; a configuration that says otherwise is pointed
out in `vstorage status`.

An embedded registry that is still empty gets the Domain that is asked for ("default", unless
something else is configured), so that one host needs no preparation. In a cluster a Domain must
exist, because a misspelt name would otherwise make a new one; a node that asks for none is
registered without one, and can be asked to create the first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from ovs_daemon.control.domains import require_domain
from ovs_daemon.control.host import Host
from ovs_daemon.control.nodes import check_membership, grant_wishes
from ovs_daemon.control.store import put
from ovs_daemon.control.topology import Domain, Node
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.registry import Operation, retry

LOG = logging.getLogger(__name__)


def register(host: Host) -> Node:
    """Store this host's record, as it is now.

    :raises VStorageError: ``unknown_domain`` or ``bad_request``, its configuration cannot be right
    """
    what = f"register node {host.settings.node!r}"
    node = retry(what, lambda: _attempt(host, what))
    grant_wishes(host.store)
    wanted = host.settings.domain
    if host.settings.membership.domain_configured and node.domain not in (None, wanted):
        LOG.warning(
            "the configuration says Domain %r, the registry %r, which counts: see 'vstorage node "
            "set'",
            wanted,
            node.domain,
        )
    return node


def _attempt(host: Host, what: str) -> Node:
    settings, store = host.settings, host.store
    member = settings.membership
    found = store.node(settings.node)
    before = found or Node(settings.node, registered_at=host.now())
    node = replace(
        before,
        roles=member.roles,
        addresses=dict(member.addresses),
        release=member.release,
        instance=member.instance,
        started_at=host.now(),
        backend=member.backend,
    )
    _check_backend(host, what, node)
    operations: Sequence[Operation] = []
    if node.domain is None:
        domain = _first_domain(host, what)
        if domain is not None:
            node = replace(node, domain=domain.name)
            if domain.version == 0:
                operations = [put(domain)]
            else:
                operations = check_membership(store, what, before, node)
    if found is None or found.domain is None:
        node = _wish(host, what, node)
    return replace(node, version=store.commit(put(node), *operations))


def _check_backend(host: Host, what: str, node: Node) -> None:
    """Nodes that go on with each other's volumes have to find the same objects."""
    if "dtl" not in node.addresses:
        return
    for other in host.store.nodes():
        together = other.name != node.name and "dtl" in other.addresses
        if together and not node.shares_backend(other):
            raise VStorageError(
                Code.BAD_REQUEST,
                what,
                f"it stores objects on the backend {node.backend}, node {other.name!r} on the "
                f"backend {other.backend}: neither could go on with a volume of the other",
                "have both use one backend ([alba] shared, or [engine] backend_dir on storage that "
                f"both have mounted), or remove [dtl] listen here; if {other.name!r} is gone for "
                f"good, 'vstorage node delete {other.name}' on a node that runs",
            )


def _first_domain(host: Host, what: str) -> Domain | None:
    settings = host.settings
    existing = host.store.domain(settings.domain)
    if existing is not None:
        return existing
    if host.store.registry.embedded and not host.store.domains():
        LOG.info("created Domain %s", settings.domain)
        return Domain(settings.domain, "", settings.availability_zone, host.now())
    if settings.membership.domain_configured:
        raise VStorageError(
            Code.UNKNOWN_DOMAIN,
            what,
            f"there is no Domain {settings.domain!r}",
            f"correct the option 'domain', or 'vstorage domain create {settings.domain}' on a node "
            "that runs (one without that option starts in no Domain)",
        )
    LOG.warning("in no Domain: 'vstorage node set %s --domain DOMAIN' assigns it", settings.node)
    return None


def _wish(host: Host, what: str, node: Node) -> Node:
    """The Recovery Domain may still be without a node when the first nodes of two Domains, each
    the Recovery Domain of the other, are started: it is granted as soon as it has one."""
    wanted = host.settings.membership.recovery_domain
    if wanted is None:
        return node
    require_domain(host.store, what, wanted)
    if wanted == node.domain:
        raise VStorageError(
            Code.BAD_REQUEST,
            what,
            f"its Recovery Domain {wanted!r} is its own Domain",
            "correct the option 'recovery_domain': another Domain, or none",
        )
    return replace(node, wanted_recovery_domain=wanted)
