"""A node's sign of life: a record that is bound to a lease, which a thread keeps alive.

The lease also tells the node itself how it stands: :attr:`Liveness.held` is true as long as nobody
else can take it for dead, by this host's own clock and counted from before the question was sent.
That clock counts while the host sleeps, as the registry does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ovs_daemon.control.store import ALIVE, Store
from ovs_daemon.control.topology import Alive
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.registry import Conflict, Create, Lease, LeaseLost, Operation, Update

LOG = logging.getLogger(__name__)

# Two signs may be lost before the third comes too late.
_BEATS_PER_LEASE = 3


def since_boot() -> float:
    """Seconds of the clock by which the engine knows the end of the lease, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Liveness:
    """One node's sign of life.

    :param ttl_s: how long after its last sign a node counts as dead, seconds
    :param renewed: told after every sign until when, by the clock, this node counts as alive, and
        in which term
    :param clock: seconds that never go back
    """

    def __init__(
        self,
        store: Store,
        me: Alive,
        ttl_s: float,
        renewed: Callable[[float, int], None] | None = None,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self._store = store
        self._me = me
        self._ttl_s = ttl_s
        self._renewed = renewed
        self._clock = clock
        self._lease: Lease | None = None
        self._held_until = float("-inf")
        self._silent = False
        self._term = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)

    @property
    def term(self) -> int:
        """Changes when the lease was over: what was begun before must be begun again."""
        return self._term

    @property
    def held(self) -> bool:
        """Whether nobody can take this node for dead at this moment."""
        return self._clock() < self._held_until

    def begin(self) -> None:
        """Give the first sign.

        :raises VStorageError: ``in_use``, another host lives under this name; ``registry``
        """
        self._hold(self._announce())

    def start(self) -> None:
        """Keep giving signs."""
        self._thread.start()

    def stop(self) -> None:
        """Give no more; others see at once that this node is gone."""
        self._stopping.set()
        self._thread.join()
        if self._lease is not None:
            try:
                self._store.registry.revoke(self._lease)
            except VStorageError as failure:
                LOG.warning("others learn of the stop when the lease ends: %s", failure)

    def beat(self) -> None:
        """One sign: what the thread gives at every interval."""
        try:
            self._sign()
            if self._silent:
                LOG.info("the registry answers again")
            self._silent = False
        except VStorageError as failure:
            if not self._silent:
                LOG.error("no sign of life could be given: %s", failure)
            self._silent = True
        except Exception:
            # Without this thread the node counts as dead until it is restarted.
            LOG.exception("no sign of life could be given; report this")
            self._silent = True

    def _sign(self) -> None:
        asked = self._clock()
        if self._lease is not None and self._store.registry.keep_alive(self._lease):
            self._hold(asked + self._lease.ttl_s)
            return
        LOG.warning("the lease was over; others may have taken this node for dead")
        # Whatever was granted before: nothing is served that may be another's.
        self._hold(asked)
        until = self._announce()
        # Not before: who reads the registry from here on sees what nobody can take any more.
        self._term += 1
        self._hold(until)

    def _announce(self) -> float:
        """Begin a lease; returns until when it holds."""
        asked = self._clock()
        lease = self._store.registry.grant(self._ttl_s)
        while True:
            try:
                self._store.commit(self._claim(lease))
                break
            except Conflict:
                # Its own record of an earlier life has just gone: now it can be made.
                continue
            except LeaseLost as late:
                raise VStorageError(
                    Code.REGISTRY,
                    f"announce node {self._me.node!r}",
                    "the lease was over before it could be used",
                    "make the registry faster, or [registry] lease_ttl longer",
                ) from late
        self._lease = lease
        return asked + lease.ttl_s

    def _hold(self, until: float) -> None:
        self._held_until = until
        if self._renewed is not None:
            # The moment itself: however late it is heard, it stays what was granted.
            self._renewed(until, self._term)

    def _claim(self, lease: Lease) -> Operation:
        found = self._store.alive().get(self._me.node)
        body: dict[str, Any] = self._me.body()
        if found is None:
            return Create(ALIVE, self._me.node, body, lease)
        if found.instance != self._me.instance:
            raise VStorageError(
                Code.IN_USE,
                f"announce node {self._me.node!r}",
                f"another host is alive under this name since {found.since}",
                "give each host a name of its own (option 'host'); if that one was this host with "
                "another state_dir, wait until its lease is over",
            )
        return Update(ALIVE, self._me.node, found.version, body, lease)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self.beat()

    @property
    def _interval_s(self) -> float:
        ttl_s = self._ttl_s if self._lease is None else self._lease.ttl_s
        return ttl_s / _BEATS_PER_LEASE
