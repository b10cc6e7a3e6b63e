"""What both ends of the RPC agree on. Imported by OpenStack's side, so that it knows no more.

A call goes to the exchange :data:`EXCHANGE` and the topic of a Domain (:func:`topic`), where any
node of that Domain takes it that may own volumes, or to the topic of one of these nodes
(:func:`node_topic`), which it serves for as long as it runs. Methods and arguments are those of
`ovs_daemon/control/verbs.py`. An answer is ``{"answer": ...}`` or
``{"error": {"code", "what", "why", "fix"}}``: refusals are ordinary answers, so that the bus logs
none as a crash and no side needs the other's classes to read them.

A call's context may say, as :data:`CLUSTER`, which cluster is meant: two clusters on one bus may
have Domains of the same name, and a node of another one refuses before it does anything.

:data:`VERSION` is of the methods and arguments: a new one, or a new argument that may be left
out, raises the minor number; anything else the major one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovs_daemon.errors import VStorageError

EXCHANGE = "vstorage"
VERSION = "1.1"
#: key of a call's context: UUID of the cluster that is meant
CLUSTER = "cluster"
#: methods that may have to wait for the backend, however long: no node works on many of them at a
#: time, and whoever calls one has patience
SLOW = frozenset({"delete_volume", "delete_snapshot"})


def topic(domain: str) -> str:
    """The topic on which the nodes of a Domain listen."""
    return f"vstorage.{domain}"


def node_topic(domain: str, node: str) -> str:
    """The topic on which one of them listens.

    On RabbitMQ it is the queue of the server NODE of the Domain's topic, by which releases before
    this function was there call and are called.
    """
    return f"{topic(domain)}.{node}"


def wrap_answer(answer: Any) -> dict[str, Any]:
    """What a verb that succeeded answers."""
    return {"answer": answer}


def wrap_error(failure: VStorageError) -> dict[str, Any]:
    """What a verb that failed answers."""
    return {"error": failure.to_dict()}


def unwrap(envelope: Mapping[str, Any]) -> Any:
    """The verb's answer.

    :raises VStorageError: the verb's own error
    """
    if "error" in envelope:
        raise VStorageError.from_dict(envelope["error"])
    return envelope["answer"]
