"""What both ends of the RPC agree on. Imported by OpenStack's side, so that it knows no more.

A call goes to the exchange :data:`EXCHANGE` and the topic of a Domain (:func:`topic`), where any
node of that Domain takes it that may own volumes, or to one of these nodes by name. Methods and
arguments are those of `ovs_daemon/control/verbs.py`. An answer is ``{"answer": ...}`` or
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


def topic(domain: str) -> str:
    """The topic on which the nodes of a Domain listen."""
    return f"vstorage.{domain}"


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
