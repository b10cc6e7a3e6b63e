"""Requests to etcd over its JSON gateway: which member, how long, what an answer means.

What matters to the caller is not why a request failed but what became of it: it was answered; it
was refused, so that nothing happened; it was never sent; or nobody knows. `etcd.py` repeats what
may be repeated and looks up the rest.

etcd3gw's client knows one member and one requests session, which is not made for many threads; so
each thread has its own clients, and goes to the next member when one does not answer.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
import urllib3
from etcd3gw import exceptions
from etcd3gw.client import Etcd3Client

from ovs_daemon.errors import Code, VStorageError

# etcd 3.4 and later; asking each member for its version would cost a request per thread.
_API_PATH = "/v3/"
_PORT = 2379
_REQUEST_S_MAX = 2.0
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.02, 0.5
_TIMEOUT_S = 10.0
# Refusals by their gRPC code (https://grpc.io/docs/guides/status-codes/): etcd checks these before
# anything is changed. All other codes may hide a change that was made.
_INVALID_ARGUMENT, _NOT_FOUND, _RESOURCE_EXHAUSTED = 3, 5, 8
_REFUSALS = frozenset({_INVALID_ARGUMENT, _NOT_FOUND, _RESOURCE_EXHAUSTED})


class NotSent(Exception):
    """No member took the request: nothing happened."""


class Unanswered(Exception):
    """The request may or may not have been performed, now or later."""


class Refused(Exception):
    """etcd said no: nothing happened."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.missing = code == _NOT_FOUND


@dataclass(frozen=True)
class Address:
    """What a registry's url says.

    :param members: (host, port)
    :param prefix: of all keys
    :param timeout_s: how long an operation waits for etcd to come back
    """

    members: tuple[tuple[str, int], ...]
    prefix: str
    timeout_s: float
    tls: bool
    ca_cert: str | None
    cert: str | None
    key: str | None

    @classmethod
    def parse(cls, url: str) -> Address:
        """From ``etcd://host:port[,host:port...]/prefix?timeout=10&tls=true&ca_cert=&cert=&key=``.

        :raises VStorageError: ``registry``
        """
        parts = urlsplit(url)
        known = {"timeout", "tls", "ca_cert", "cert", "key"}
        try:
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            if unknown := sorted(query.keys() - known):
                raise ValueError(f"unknown options {', '.join(unknown)}")
            if query.get("tls", "false") not in ("true", "false"):
                raise ValueError("'tls' is neither true nor false")
            timeout_s = float(query.get("timeout", _TIMEOUT_S))
            if not 0 < timeout_s < float("inf"):
                raise ValueError("'timeout' is not a number of seconds above 0")
            members = []
            for member in parts.netloc.split(","):
                one = urlsplit(f"//{member}")
                if not one.hostname:
                    raise ValueError(f"{member!r} names no host")
                members.append((one.hostname, one.port or _PORT))
        except ValueError as wrong:
            raise VStorageError(
                Code.REGISTRY,
                f"open the registry {url!r}",
                str(wrong),
                "write [registry] url as etcd://HOST:PORT[,HOST:PORT...]/PREFIX",
            ) from wrong
        return cls(
            tuple(members),
            "/" + (parts.path.strip("/") or "vstorage"),
            timeout_s,
            query.get("tls") == "true" or "ca_cert" in query,
            query.get("ca_cert"),
            query.get("cert"),
            query.get("key"),
        )


class Deadline:
    """An operation's time, and growing pauses between its attempts."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause_s = _PAUSE_S_MIN

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def cut(self, seconds: float) -> None:
        """At most this much time from now on."""
        self._end = min(self._end, time.monotonic() + seconds)

    def pause(self) -> bool:
        """Wait a little before the next attempt; False when there is no time for one."""
        if self.left_s <= self._pause_s:
            return False
        # Nothing tells when a member is back: this is the one place that tries again by the clock.
        threading.Event().wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _PAUSE_S_MAX)
        return True


class EtcdLink:
    """The members of one etcd cluster. Any thread may call."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._local = threading.local()
        self._member = 0

    def deadline(self, seconds: float | None = None) -> Deadline:
        """The time for one operation: the url's, unless told otherwise."""
        return Deadline(self._address.timeout_s if seconds is None else seconds)

    def once(self, path: str, body: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """One attempt at one member.

        :raises NotSent: nothing happened
        :raises Unanswered: nobody knows
        :raises Refused: nothing happened, and repeating it will not help
        """
        member = self._member
        client = self._client(member)
        client.timeout = max(0.01, min(_REQUEST_S_MAX, deadline.left_s))
        try:
            answer = client.post(client.get_url(path), json=body)
        except (exceptions.Etcd3Exception, requests.RequestException, ValueError) as failure:
            # Another thread may have moved on already.
            if self._member == member:
                self._member = (member + 1) % len(self._address.members)
            raise _explained(failure) from failure
        if not isinstance(answer, dict):
            raise Unanswered(f"{path} was answered by {type(answer).__name__}")
        return answer

    def repeat(
        self, what: str, path: str, body: dict[str, Any], deadline: Deadline | None = None
    ) -> dict[str, Any]:
        """A request that may be performed twice, tried until it is answered.

        :raises VStorageError: ``registry``, etcd is away for too long
        :raises Refused: etcd said no
        """
        given = deadline or self.deadline()
        while True:
            try:
                return self.once(path, body, given)
            except (NotSent, Unanswered) as failure:
                if not given.pause():
                    raise self.away(what, failure) from failure

    def stream(self, path: str, body: dict[str, Any], deadline: Deadline) -> Iterator[Any]:
        """What a member says, message by message, until nothing came for the time that is left.

        :raises NotSent: no member listens
        :raises Unanswered: the connection broke
        """
        client = self._client(self._member)
        headers = {"Grpc-Metadata-hasleader": "true"}
        limits = (_REQUEST_S_MAX, max(0.01, deadline.left_s))
        try:
            with client.session.post(
                client.get_url(path), json=body, stream=True, timeout=limits, headers=headers
            ) as response:
                for line in response.iter_lines():
                    if line.strip():
                        yield json.loads(line)
        except (requests.RequestException, ValueError) as failure:
            if deadline.left_s > 0:
                self._member = (self._member + 1) % len(self._address.members)
                raise _explained(failure) from failure

    def away(self, what: str, failure: Exception) -> VStorageError:
        """The error that says so."""
        members = ", ".join(f"{host}:{port}" for host, port in self._address.members)
        return VStorageError(
            Code.REGISTRY,
            f"{what} the registry (etcd at {members})",
            f"no member answered within {self._address.timeout_s:g} s ({failure})",
            "start etcd or mend the network; in a cluster guests wait when the lease is over",
        )

    def _client(self, member: int) -> Etcd3Client:
        clients: dict[int, Etcd3Client] | None
        clients = getattr(self._local, "clients", None)
        if clients is None:
            clients = self._local.clients = {}
        if member not in clients:
            host, port = self._address.members[member]
            clients[member] = Etcd3Client(
                host,
                port,
                protocol="https" if self._address.tls else "http",
                ca_cert=self._address.ca_cert,
                cert_cert=self._address.cert,
                cert_key=self._address.key,
                api_path=_API_PATH,
            )
        return clients[member]


def _explained(failure: Exception) -> NotSent | Unanswered | Refused:
    if _never_sent(failure):
        return NotSent(str(failure))
    text = getattr(failure, "detail_text", None) or str(failure)
    try:
        answer = json.loads(text)
        code, text = int(answer["code"]), str(answer.get("message") or answer.get("error"))
    except (ValueError, KeyError, TypeError):
        return Unanswered(text)
    return Refused(text, code) if code in _REFUSALS else Unanswered(text)


def _never_sent(failure: BaseException | None) -> bool:
    """Whether the connection could not even be made; etcd3gw hides the reason in its context."""
    while failure is not None:
        if isinstance(failure, urllib3.exceptions.NewConnectionError | requests.ConnectTimeout):
            return True
        if isinstance(failure, urllib3.exceptions.MaxRetryError):
            return isinstance(failure.reason, urllib3.exceptions.NewConnectionError)
        failure = failure.__cause__ or failure.__context__
    return False
