"""The daemons of one Domain as the drivers call them. Nothing else here knows about RPC.

Every method raises :class:`VStorageError`: the daemon's own, or ``daemon_unavailable`` when no
node of the Domain answers. Volumes and snapshots are named by name, sizes are bytes, and answers
have the shapes of `ovs_daemon/control/status.py`.

A call goes to any node of the Domain. What only a volume's owner can do is passed on to that one,
in whichever Domain it is: it may have taken the volume over when this Domain died. So that it can
be found even while nobody of this Domain answers, the others' names are kept from when somebody
did; every node of a cluster can tell what the registry says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import oslo_messaging
from oslo_log import log as logging

from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.rpc import contract

LOG = logging.getLogger(__name__)

# A deletion may have to wait for the backend; it is harmless if it happens after all.
_PATIENCE = 10
# Attempts to reach a broker that does not answer, about a second apart and growing.
_SEND_RETRIES = 2

# How long a Domain that did not answer is asked after the others only.
_SILENCE_S = 60.0
# Owners that are asked in a row: a volume changes hands once, and now and then twice.
_OWNERS_MAX = 3

# Parts of the time for an answer in which nodes are asked, one after the other, what any of them
# can tell at once: the bus gives each call to the next one, and one may hang. The last has all of
# it, so that nobody who is only slow counts as not there.
_TURNS = (0.25, 0.25, 1.0)

# Nodes that are asked for their cluster when a service starts.
_TURNS_MAX = 8

_NOT_THERE = (Code.NOT_HERE, Code.DAEMON_UNAVAILABLE)
_ABSENT = (Code.UNKNOWN_VOLUME, Code.UNKNOWN_SNAPSHOT)


class DomainApi:
    """Calls the nodes of one Domain. Any thread (or green thread) may call.

    :param transport: an oslo.messaging RPC transport
    :param timeout_s: how long an answer may take, seconds
    """

    def __init__(self, transport: oslo_messaging.RPCTransport, domain: str, timeout_s: float):
        self.domain = domain
        self._timeout_s = timeout_s
        self._others: tuple[str, ...] = ()
        self._cluster: str | None = None
        self._silent_until = 0.0
        self._client = oslo_messaging.get_rpc_client(
            transport,
            oslo_messaging.Target(exchange=contract.EXCHANGE, version=contract.VERSION),
        )

    @property
    def others(self) -> tuple[str, ...]:
        """Other Domains of the cluster, as far as this one has told of them."""
        return self._others

    @property
    def cluster(self) -> str | None:
        """UUID of the cluster; None while nobody has told, or nodes of an old release only."""
        return self._cluster

    def get_domain(self) -> dict[str, Any]:
        """The Domain: its zone, nodes, capacity and versions.

        From the first answer on this object is one cluster's: nodes of another one refuse. A node
        that takes the call and does not answer keeps nobody from hearing of another one.
        """
        answer = self._call_in_turns("get_domain")
        self._others = tuple(answer.get("others", ()))
        self._cluster = self._cluster or answer.get("cluster")
        return answer

    def learn_from(self, domain: str) -> bool:
        """Have another Domain tell what this one, of which nobody answers, cannot.

        :returns: whether it is one of the same cluster; else nothing was learnt
        :raises VStorageError: but for ``daemon_unavailable``
        """
        try:
            answer = self._call(domain, "get_domain")
        except VStorageError as failure:
            if failure.code != Code.DAEMON_UNAVAILABLE:
                raise
            return False
        # Another cluster's nodes would say of all our volumes that there are none.
        if self.domain not in answer.get("others", ()):
            return False
        known = (domain, *answer["others"])
        self._others = tuple(one for one in known if one != self.domain)
        self._cluster = self._cluster or answer.get("cluster")
        return True

    def refuse_two_clusters(self, nodes: int) -> None:
        """Ask in turns whoever listens, so that another cluster's nodes are among them.

        A node that does not answer keeps nobody from starting: all turns together take as long as
        one answer may.

        :param nodes: how many the Domain has, as far as one of them knows
        :raises VStorageError: ``wrong_cluster``, with what to change
        """
        turns = min(nodes + 1, _TURNS_MAX)
        for _ in range(turns):
            try:
                answer = self._call(self.domain, "get_domain", 1 / turns)
            except VStorageError as failure:
                if failure.code == Code.WRONG_CLUSTER:
                    raise
                LOG.warning("whether two clusters have the same Domain is not sure: %s", failure)
            else:
                self._cluster = self._cluster or answer.get("cluster")

    def list_volumes(self) -> list[dict[str, Any]]:
        """All volumes of the cluster; ``domain`` says where each is now."""
        found: list[dict[str, Any]] = self._ask_anybody("list_volumes")["volumes"]
        return found

    def show_volume(self, volume: str) -> dict[str, Any]:
        """One volume, and the ``domain`` in which it is now."""
        return self._ask_anybody("show_volume", volume=volume)

    def show_volume_with_counters(self, volume: str) -> dict[str, Any]:
        """One volume as its owner describes it, which has its ``counters``."""
        found = self.show_volume(volume)
        if found["counters"] is None and found["domain"] is not None:
            return self._call(found["domain"], "show_volume", 1, found["node"], volume=volume)
        return found

    def choose_attaching_node(self, volume: str, nodes: Sequence[str]) -> str:
        """Through which of a host's nodes a volume is to be attached there."""
        answer = self._ask_anybody("choose_attaching_node", volume=volume, nodes=list(nodes))
        return str(answer["node"])

    def find_volume(self, volume: str) -> dict[str, Any] | None:
        """One volume with its counters; None when it is not there."""
        try:
            return self.show_volume(volume)
        except VStorageError as failure:
            if failure.code != Code.UNKNOWN_VOLUME:
                raise
            return None

    def create_volume(
        self,
        name: str,
        size: int | None,
        source: str | None = None,
        snapshot: str | None = None,
        sco_size: int | None = None,
        limits: Mapping[str, float] | None = None,
        preset: str | None = None,
    ) -> dict[str, Any]:
        """A new empty volume, or a clone of ``source`` (now, or as its ``snapshot`` is)."""
        origin = None if source is None else {"volume": source, "snapshot": snapshot}
        return self._ask_owner(
            "create_volume",
            source,
            name=name,
            size=size,
            source=origin,
            sco_size=sco_size,
            limits=None if limits is None else dict(limits),
            preset=preset,
        )

    def delete_volume(self, volume: str) -> bool:
        """Whether there was something to delete."""
        return self._deleted("delete_volume", volume)

    def resize_volume(self, volume: str, size: int) -> dict[str, Any]:
        """Grow a volume."""
        return self._ask_owner("resize_volume", volume, volume=volume, size=size)

    def rename_volume(self, volume: str, name: str) -> dict[str, Any]:
        """Give a volume another name."""
        return self._ask_owner("rename_volume", volume, volume=volume, name=name)

    def revert_volume(self, volume: str, snapshot: str) -> dict[str, Any]:
        """Make a volume's content that of its snapshot."""
        return self._ask_owner("revert_volume", volume, volume=volume, snapshot=snapshot)

    def set_limits(self, volume: str, limits: Mapping[str, float] | None) -> dict[str, Any]:
        """Limit a volume; None for no limits."""
        return self._ask_owner(
            "set_limits", volume, volume=volume, limits=None if limits is None else dict(limits)
        )

    def attach_direct(self, volume: str, holder: str, read_only: bool) -> dict[str, Any]:
        """Have the volume's daemon serve it on a unix socket of that host."""
        return self._ask_owner(
            "attach_volume",
            volume,
            volume=volume,
            mode="direct",
            holder=holder,
            read_only=read_only,
        )

    def detach(self, volume: str, holder: str) -> None:
        """End one holder's attachment."""
        self._ask_owner("detach_volume", volume, volume=volume, holder=holder)

    def detach_everybody(self, volume: str) -> None:
        """End all attachments of a volume."""
        self._ask_owner("detach_volume", volume, volume=volume, everybody=True)

    def list_snapshots(self, volume: str | None = None) -> list[dict[str, Any]]:
        """The snapshots of a volume, or of the whole cluster."""
        answer = self._ask_anybody("list_snapshots", volume=volume)
        found: list[dict[str, Any]] = answer["snapshots"]
        return found

    def create_snapshot(self, volume: str, name: str) -> dict[str, Any]:
        """Take a snapshot."""
        return self._ask_owner("create_snapshot", volume, volume=volume, name=name)

    def create_snapshots(self, members: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Snapshots (volume, name) of several volumes of one owner at one instant."""
        pairs = [list(member) for member in members]
        first = pairs[0][0] if pairs else None
        taken: list[dict[str, Any]]
        taken = self._ask_owner("create_snapshots", first, members=pairs)["snapshots"]
        return taken

    def delete_snapshot(self, volume: str, snapshot: str) -> bool:
        """Whether there was something to delete."""
        return self._deleted("delete_snapshot", volume, snapshot=snapshot)

    def rename_snapshot(self, volume: str, snapshot: str, name: str) -> dict[str, Any]:
        """Give a snapshot another name."""
        return self._ask_owner(
            "rename_snapshot", volume, volume=volume, snapshot=snapshot, name=name
        )

    def diff_snapshots(
        self, volume: str, from_snapshot: str | None, to_snapshot: str
    ) -> list[list[int]]:
        """Extents [offset, length] in which two snapshots may differ, in order."""
        answer = self._ask_owner(
            "diff_snapshots",
            volume,
            volume=volume,
            from_snapshot=from_snapshot,
            to_snapshot=to_snapshot,
        )
        extents: list[list[int]] = answer["extents"]
        return extents

    def _deleted(self, verb: str, volume: str, **arguments: Any) -> bool:
        try:
            answer = self._ask_owner(verb, volume, _PATIENCE, volume=volume, **arguments)
            return bool(answer["deleted"])
        except VStorageError as failure:
            if failure.code not in _ABSENT:
                raise
            return False

    def _ask_owner(
        self, verb: str, volume: str | None, patience: int = 1, /, **arguments: Any
    ) -> dict[str, Any]:
        """Have the node that owns a volume do something; the first that is asked may be it."""
        nobody: VStorageError | None = None
        if volume is None or not self._is_silent():
            try:
                return self._call_here(verb, patience, **arguments)
            except VStorageError as failure:
                if volume is None or failure.code not in _NOT_THERE:
                    raise
                nobody = failure if failure.code == Code.DAEMON_UNAVAILABLE else None
        return self._ask_owners(verb, volume, patience, nobody, arguments)

    def _ask_owners(
        self,
        verb: str,
        volume: str,
        patience: int,
        nobody: VStorageError | None,
        arguments: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Find a volume's owner and ask it; it may die meanwhile, and another one go on.

        :param nobody: why this Domain's nodes need not be asked again
        """
        asked: tuple[str, str] | None = None
        last = nobody
        for _ in range(_OWNERS_MAX):
            found = self.show_volume(volume)
            owner = (found["domain"] or self.domain, found["node"])
            known_silent = nobody is not None and owner[0] == self.domain
            if last is not None and (known_silent or owner == asked):
                break
            try:
                return self._call(owner[0], verb, patience, owner[1], **arguments)
            except VStorageError as failure:
                if failure.code not in _NOT_THERE:
                    raise
                asked, last = owner, failure
        assert last is not None, "somebody was asked"
        raise last

    def _ask_anybody(self, verb: str, /, **arguments: Any) -> dict[str, Any]:
        """Ask what every node of the cluster knows: those of this Domain first, if they answer."""
        domains = [self.domain, *self._others]
        if self._is_silent():
            domains = [*self._others, self.domain]
        first: VStorageError | None = None
        for domain in domains:
            try:
                if domain == self.domain:
                    return self._call_here(verb, **arguments)
                return self._call(domain, verb, **arguments)
            except VStorageError as failure:
                if failure.code != Code.DAEMON_UNAVAILABLE:
                    raise
                first = first or failure
        assert first is not None, "somebody was asked"
        raise first

    def _is_silent(self) -> bool:
        """Whether nobody of this Domain has answered lately, and others could."""
        return bool(self._others) and time.monotonic() < self._silent_until

    def _call_in_turns(self, verb: str) -> dict[str, Any]:
        """Have this Domain's nodes, one after the other, answer what any of them can."""
        # Those of a Domain that has been silent lately have been asked one after the other.
        turns = _TURNS[-1:] if self._is_silent() else _TURNS
        for patience in turns[:-1]:
            try:
                return self._call_here(verb, patience)
            except VStorageError as failure:
                if failure.code != Code.DAEMON_UNAVAILABLE:
                    raise
                LOG.warning("another node is asked: %s", failure)
        return self._call_here(verb, turns[-1])

    def _call_here(self, verb: str, patience: float = 1, /, **arguments: Any) -> dict[str, Any]:
        """Have any node of this Domain do something."""
        try:
            answer = self._call(self.domain, verb, patience, **arguments)
        except VStorageError as failure:
            if failure.code == Code.DAEMON_UNAVAILABLE:
                self._silent_until = time.monotonic() + _SILENCE_S
            raise
        self._silent_until = 0.0
        return answer

    def _call(
        self,
        domain: str,
        verb: str,
        patience: float = 1,
        node: str | None = None,
        /,
        **arguments: Any,
    ) -> dict[str, Any]:
        topic = contract.topic(domain) if node is None else contract.node_topic(domain, node)
        caller = self._client.prepare(
            topic=topic,
            timeout=self._timeout_s * patience,
            retry=_SEND_RETRIES,
            # Without this a call to a topic that nobody ever listened on would wait in vain.
            transport_options=oslo_messaging.TransportOptions(at_least_once=True),
        )
        try:
            meant = {} if self._cluster is None else {contract.CLUSTER: self._cluster}
            answer: dict[str, Any] = contract.unwrap(caller.call(meant, verb, **arguments))
        except (
            oslo_messaging.MessagingException,
            # Not one of them: there is no queue for the topic.
            oslo_messaging.MessageUndeliverable,
        ) as failure:
            if (refusal := _refusal_of_another_release(failure)) is not None:
                raise VStorageError(
                    Code.INTERNAL,
                    f"have the Domain {domain!r} perform {verb}",
                    f"the node that got it is of another release ({refusal}): it does not speak "
                    f"version {contract.VERSION} of the RPC",
                    "bring vstorage-daemon on all nodes, and open-vstorage in Cinder's "
                    "environment, to one release: the daemons first",
                ) from failure
            who = "no node of it answers"
            if node is not None:
                who = f"its node {node!r}, the volume's owner, does not answer"
            raise VStorageError(
                Code.DAEMON_UNAVAILABLE,
                f"have the Domain {domain!r} perform {verb}",
                f"{who} on the message bus ({_explain(failure)})",
                "see that vstorage-daemon runs with 'domain' and '[rpc] transport_url' set to "
                "this backend's ovs_domain and message bus",
            ) from failure
        return answer


def _refusal_of_another_release(failure: Exception) -> str | None:
    """How a node said that it knows no such call; None when that is not what went wrong.

    Only the in-process bus raises the dispatcher's own exceptions. RabbitMQ's driver makes those
    of the modules that it may import, and the dispatcher's is none of them.
    """
    match failure:
        case oslo_messaging.UnsupportedVersion() | oslo_messaging.NoSuchMethod():
            return str(failure)
        case oslo_messaging.RemoteError(exc_type="UnsupportedVersion" | "NoSuchMethod"):
            return str(failure.value)
    return None


def _explain(failure: Exception) -> str:
    match failure:
        case oslo_messaging.MessagingTimeout():
            return "no answer in time"
        case oslo_messaging.MessageUndeliverable():
            return "nobody listens on its topic"
    return f"{type(failure).__name__}: {failure}"


_guard = threading.Lock()
_transports: dict[str, oslo_messaging.RPCTransport] = {}


def transport_of(conf: Any, url: str | None) -> oslo_messaging.RPCTransport:
    """Cinder's own transport, or one for ``url``; one for each URL in a process.

    :raises VStorageError: ``bad_request``, the URL cannot be used
    """
    from cinder import rpc

    if url is None and rpc.TRANSPORT is not None:
        return rpc.TRANSPORT
    with _guard:
        key = url or ""
        if key not in _transports:
            try:
                _transports[key] = oslo_messaging.get_rpc_transport(conf, url=url)
            except (
                oslo_messaging.InvalidTransportURL,
                oslo_messaging.DriverLoadFailure,
            ) as failure:
                raise VStorageError(
                    Code.BAD_REQUEST,
                    "use the option ovs_transport_url",
                    str(failure),
                    "give a URL such as rabbit://USER:PASSWORD@HOST:5672/VHOST",
                ) from failure
        return _transports[key]
