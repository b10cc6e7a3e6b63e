"""Whether this node takes its share of what its Domain is asked by way of the message bus.

The bus gives a Domain's calls to its nodes in turns. One that does not reach the registry would
fail each of its share, after a while, though others could answer; one that is being drained would
make volumes only to give them away. Where nobody else is there, it takes them all the same: an
error that says what is wrong is better than none.
"""

from __future__ import annotations

from collections.abc import Callable

from ovs_daemon.control.host import Host
from ovs_daemon.control.view import View
from ovs_daemon.errors import VStorageError


class Share:
    """:param held: whether this node's lease holds"""

    def __init__(self, host: Host, held: Callable[[], bool]) -> None:
        self._host = host
        self._held = held
        # As it was when the registry answered last.
        self._alone = True

    def refusal(self) -> str | None:
        """Why this node takes none; None when it does."""
        if not self._held():
            # Nor is the registry asked, which takes its time to be away.
            return self._unless_alone("its lease in the registry is over")
        try:
            cluster = View.of_nodes(self._host.store).cluster()
        except VStorageError as failure:
            return self._unless_alone(f"the registry does not answer ({failure.why})")
        node = cluster.node(self._host.settings.node)
        members = () if node is None else cluster.members(node.domain)
        self._alone = not any(one.usable for one in members if one is not node)
        return self._unless_alone("it is being drained") if node and node.draining else None

    def _unless_alone(self, why: str) -> str | None:
        return None if self._alone else why
