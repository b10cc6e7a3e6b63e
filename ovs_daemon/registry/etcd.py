"""The registry of a cluster: etcd.

A record is the key ``PREFIX/KIND/IDENT`` (both quoted as in a URL), its version etcd's
modification revision, its body JSON. A transaction is one etcd transaction. etcd refuses those
with more operations than its ``--max-txn-ops`` (128 unless told otherwise; we take two per
snapshot of a volume that is deleted), so run it with more.

**Lost answers.** A transaction whose answer is lost may have happened, may not, or may yet happen:
it can still be on its way. Each transaction therefore also swaps a *slot*, a key that belongs to
this process and to nobody else at that time: it puts its own number there, on condition that the
slot is as the last transaction left it. To find out what became of it we ask, in one transaction,
whether the slot holds that number, and if not we overwrite it. Either the number is there: it
happened. Or it was overwritten: then the slot's revision is another one, and the transaction can
never happen any more, so that it may be tried again.

Slots are bound to a lease, so that those of a process that was killed disappear.
"""

from __future__ import annotations

import base64
import json
import math
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.registry.driver import (
    Changes,
    Conflict,
    Create,
    Delete,
    Key,
    Lapsed,
    Lease,
    LeaseLost,
    Operation,
    OutcomeUnknown,
    Record,
    Registry,
    Update,
    check_distinct,
    expected_version,
)
from ovs_daemon.registry.etcd_link import (
    Address,
    Deadline,
    EtcdLink,
    NotSent,
    Refused,
    Unanswered,
)

# Longer than any operation may take, so that a slot never goes while somebody still needs it.
_SLOT_TTL_S = 3600
_SLOT_REFRESH_S = 600.0
_CLOSE_S = 1.0
# What etcd says of a transaction with more operations than --max-txn-ops.
_TOO_MANY = "too many operations"


@dataclass
class _Slot:
    """A key of our own, its lease, and the revision at which we left it."""

    key: bytes
    lease: str
    revision: int
    new: bool = True

    def put(self, value: str) -> dict[str, Any]:
        """The request that writes it."""
        data = _text(value.encode())
        return {"request_put": {"key": _text(self.key), "value": data, "lease": self.lease}}


class EtcdRegistry(Registry):
    """A registry in the etcd cluster that ``etcd://host:port[,host:port...]/prefix`` names."""

    embedded = False

    def __init__(self, url: str) -> None:
        address = Address.parse(url)
        self._link = EtcdLink(address)
        self._prefix = f"{address.prefix}/".encode()
        self._slots_prefix = f"{address.prefix}.slots/{uuid.uuid4()}/".encode()
        self._guard = threading.Lock()
        self._slots: list[_Slot] = []
        self._slots_made = 0
        self._slot_lease: tuple[str, float] | None = None
        # Says early, and clearly, that nobody is there.
        self.revision()

    def get(self, kind: str, ident: str) -> Record | None:
        key = self._key(kind, ident)
        found = self._range("read", {"key": _text(key)}).get("kvs", [])
        return None if not found else _record(kind, ident, found[0])

    def list(self, kind: str) -> list[Record]:
        prefix = self._key(kind, "")
        found = self._range("read", _whole(prefix)).get("kvs", [])
        records = []
        for item in found:
            ident = unquote(base64.b64decode(item["key"])[len(prefix) :].decode())
            records.append(_record(kind, ident, item))
        return sorted(records, key=lambda record: record.ident)

    def commit(self, operations: Sequence[Operation]) -> int:
        check_distinct(operations)
        conditions = [self._condition(operation) for operation in operations]
        writes = [request for one in operations for request in self._requests(one)]
        reads = [{"request_range": {"key": _text(self._key(*_key(one)))}} for one in operations]
        transaction = {"compare": conditions, "success": writes, "failure": reads}
        deadline = self._link.deadline()
        if not writes:
            return self._check(operations, transaction, deadline)
        while True:
            slot = self._take_slot(deadline)
            outcome = self._attempt(operations, transaction, slot, deadline)
            if outcome is not None:
                with self._guard:
                    self._slots.append(slot)
                return outcome

    def has_room(self, operations: int) -> bool:
        # Conditions alone, of which etcd takes as many as of anything else; one more is the slot's.
        conditions = [_unchanged(self._prefix, 0)] * (operations + 1)
        request = {"compare": conditions, "success": [], "failure": []}
        try:
            self._link.repeat("read", "kv/txn", request)
        except Refused as refusal:
            if _TOO_MANY not in str(refusal):
                raise _refused("read", refusal) from refusal
            return False
        return True

    def grant(self, ttl_s: float) -> Lease:
        answer = self._repeat("write", "lease/grant", {"TTL": math.ceil(ttl_s)})
        return Lease(int(answer["ID"]), float(answer["TTL"]))

    def keep_alive(self, lease: Lease) -> bool:
        # An answer that comes when the lease is over is of no use to anybody.
        deadline = self._link.deadline()
        deadline.cut(lease.ttl_s)
        answer = self._repeat("write", "lease/keepalive", {"ID": lease.ident}, deadline)
        return int(answer.get("result", {}).get("TTL", 0)) > 0

    def revoke(self, lease: Lease) -> None:
        self._end_lease(str(lease.ident), self._link.deadline())

    def revision(self) -> int:
        return _revision(self._range("read", {"key": _text(self._prefix), "count_only": True}))

    def watch(self, after: int, timeout_s: float) -> Changes:
        request = {"create_request": {**_whole(self._prefix), "start_revision": after + 1}}
        deadline = self._link.deadline(timeout_s)
        while True:
            heard = False
            try:
                for message in self._link.stream("watch", request, deadline):
                    result = message.get("result", {})
                    heard = heard or bool(result.get("created"))
                    if int(result.get("compact_revision", 0)) > 0:
                        raise Lapsed
                    if result.get("events"):
                        return self._changes(result["events"])
                    if result.get("canceled") or "error" in message:
                        raise Unanswered(str(message))
                return Changes(after, frozenset())
            except (NotSent, Unanswered) as failure:
                if not deadline.pause():
                    if heard:
                        return Changes(after, frozenset())
                    raise self._link.away("watch", failure) from failure

    def close(self) -> None:
        with self._guard:
            lease, self._slot_lease = self._slot_lease, None
            self._slots.clear()
        if lease is not None:
            # Tidiness only: the lease ends by itself.
            try:
                self._end_lease(lease[0], self._link.deadline(_CLOSE_S))
            except VStorageError:
                return

    def _check(
        self, operations: Sequence[Operation], transaction: dict[str, Any], deadline: Deadline
    ) -> int:
        """A transaction of conditions alone, which may be repeated."""
        answer = self._repeat("read", "kv/txn", transaction, deadline)
        if not answer.get("succeeded"):
            raise _conflict(operations, answer["responses"])
        return _revision(answer)

    def _attempt(
        self,
        operations: Sequence[Operation],
        transaction: Mapping[str, Any],
        slot: _Slot,
        deadline: Deadline,
    ) -> int | None:
        """One try; None when nothing happened and another slot may help."""
        number = uuid.uuid4().hex
        request = {
            "compare": [_unchanged(slot.key, slot.revision), *transaction["compare"]],
            "success": [slot.put(number), *transaction["success"]],
            "failure": [{"request_range": {"key": _text(slot.key)}}, *transaction["failure"]],
        }
        try:
            answer = self._link.once("kv/txn", request, deadline)
        except NotSent as failure:
            self._give_back(slot)
            if not deadline.pause():
                raise self._link.away("write", failure) from failure
            return None
        except Refused as refusal:
            # The slot's own lease may be over, too: a lease of the caller's is, if a new slot's
            # is not. A slot that is not given back is simply left to its lease.
            if not refusal.missing:
                raise _refused("write", refusal) from refusal
            if slot.new:
                raise LeaseLost from refusal
            self._forget_slots()
            return None
        except Unanswered as failure:
            return self._look_up(slot, number, deadline, failure)
        slot.new = False
        if answer.get("succeeded"):
            slot.revision = _revision(answer)
            return slot.revision
        if _version(answer["responses"][0]) != slot.revision:
            self._forget_slots()
            return None
        self._give_back(slot)
        raise _conflict(operations, answer["responses"][1:])

    def _look_up(
        self, slot: _Slot, number: str, deadline: Deadline, failure: Exception
    ) -> int | None:
        """What became of a transaction: its revision, or None when it can never happen."""
        there = {"key": _text(slot.key)}
        held = {**there, "target": "VALUE", "result": "EQUAL", "value": _text(number.encode())}
        request = {
            "compare": [held],
            "success": [{"request_range": there}],
            "failure": [{"request_range": there}, slot.put("overwritten")],
        }
        # As much time again as any operation has: the answer is worth waiting for.
        patience = self._link.deadline()
        try:
            answer = self._link.repeat("write", "kv/txn", request, patience)
        except (VStorageError, Refused) as unknown:
            raise _unknown(failure) from unknown
        if answer.get("succeeded"):
            slot.revision = _version(answer["responses"][0]) or 0
            return slot.revision
        if _version(answer["responses"][0]) is None:
            # It went with its lease: whether our number had been there, nobody can tell.
            raise _unknown(failure)
        slot.revision = _revision(answer)
        self._give_back(slot)
        if not deadline.pause():
            raise self._link.away("write", failure) from failure
        return None

    def _take_slot(self, deadline: Deadline) -> _Slot:
        lease = self._lease_of_slots(deadline)
        with self._guard:
            if self._slots:
                slot = self._slots.pop()
                slot.new = False
                return slot
            self._slots_made += 1
            key = self._slots_prefix + str(self._slots_made).encode()
        body = {"key": _text(key), "value": _text(b"new"), "lease": lease}
        answer = self._repeat("write", "kv/put", body, deadline)
        return _Slot(key, lease, _revision(answer))

    def _give_back(self, slot: _Slot) -> None:
        with self._guard:
            self._slots.append(slot)

    def _forget_slots(self) -> None:
        with self._guard:
            self._slots.clear()
            self._slot_lease = None

    def _lease_of_slots(self, deadline: Deadline) -> str:
        with self._guard:
            found = self._slot_lease
        now = time.monotonic()
        if found is not None and now - found[1] < _SLOT_REFRESH_S:
            return found[0]
        if found is not None:
            body = {"ID": found[0]}
            answer = self._repeat("write", "lease/keepalive", body, deadline).get("result", {})
            if int(answer.get("TTL", 0)) > 0:
                with self._guard:
                    self._slot_lease = (found[0], now)
                return found[0]
        self._forget_slots()
        made = str(self._repeat("write", "lease/grant", {"TTL": _SLOT_TTL_S}, deadline)["ID"])
        with self._guard:
            self._slot_lease = (made, now)
        return made

    def _end_lease(self, ident: str, deadline: Deadline) -> None:
        try:
            self._link.repeat("write", "lease/revoke", {"ID": ident}, deadline)
        except Refused as refusal:
            if not refusal.missing:
                raise _refused("write", refusal) from refusal

    def _range(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._repeat(verb, "kv/range", body)

    def _repeat(
        self, verb: str, path: str, body: dict[str, Any], deadline: Deadline | None = None
    ) -> dict[str, Any]:
        try:
            return self._link.repeat(verb, path, body, deadline)
        except Refused as refusal:
            raise _refused(verb, refusal) from refusal

    def _changes(self, events: Sequence[Mapping[str, Any]]) -> Changes:
        keys: set[Key] = set()
        for event in events:
            key = base64.b64decode(event["kv"]["key"])[len(self._prefix) :].decode()
            kind, _, ident = key.partition("/")
            keys.add((unquote(kind), unquote(ident)))
        # All changes of one revision come in one message, in order.
        return Changes(int(events[-1]["kv"]["mod_revision"]), frozenset(keys))

    def _key(self, kind: str, ident: str) -> bytes:
        return self._prefix + f"{quote(kind, safe='')}/{quote(ident, safe='')}".encode()

    def _condition(self, operation: Operation) -> dict[str, Any]:
        return _unchanged(self._key(*_key(operation)), expected_version(operation) or 0)

    def _requests(self, operation: Operation) -> Sequence[dict[str, Any]]:
        key = _text(self._key(*_key(operation)))
        if isinstance(operation, Delete):
            return [{"request_delete_range": {"key": key}}]
        if not isinstance(operation, Create | Update):
            return []
        put = {"key": key, "value": _text(json.dumps(operation.body).encode())}
        if operation.lease is not None:
            put["lease"] = str(operation.lease.ident)
        return [{"request_put": put}]


def _key(operation: Operation) -> Key:
    return (operation.kind, operation.ident)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _whole(prefix: bytes) -> dict[str, Any]:
    """The range of all keys that begin with the prefix, which ends with "/"."""
    return {"key": _text(prefix), "range_end": _text(prefix[:-1] + bytes([prefix[-1] + 1]))}


def _unchanged(key: bytes, revision: int) -> dict[str, Any]:
    """The condition that a key was last changed at this revision; 0: that it is not there."""
    return {"key": _text(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision}


def _revision(answer: Mapping[str, Any]) -> int:
    return int(answer["header"]["revision"])


def _version(response: Mapping[str, Any]) -> int | None:
    """The version that a range of one key found, None for nothing."""
    found = response["response_range"].get("kvs", [])
    return int(found[0]["mod_revision"]) if found else None


def _record(kind: str, ident: str, item: Mapping[str, Any]) -> Record:
    body = json.loads(base64.b64decode(item["value"]))
    return Record(kind, ident, int(item["mod_revision"]), body)


def _conflict(operations: Sequence[Operation], responses: Sequence[Mapping[str, Any]]) -> Conflict:
    for operation, response in zip(operations, responses, strict=True):
        found = _version(response)
        if found != expected_version(operation):
            return Conflict(operation, found)
    raise AssertionError("etcd refused a transaction whose conditions hold")


def _refused(verb: str, refusal: Refused) -> VStorageError:
    return VStorageError(
        Code.REGISTRY,
        f"{verb} the registry",
        f"etcd refused: {refusal}",
        f"for '{_TOO_MANY}' start etcd with --max-txn-ops=4096, for 'database space "
        "exceeded' compact it; else report it",
    )


def _unknown(failure: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(
        Code.REGISTRY,
        "learn what became of a change to the registry",
        f"the answer was lost ({failure}) and etcd cannot be asked",
        "look at it again when etcd answers, then repeat what is missing",
    )
