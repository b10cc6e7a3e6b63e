"""The whole cluster, read once, for everything that looks at more than one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ovs_daemon.control.records import State, Volume
from ovs_daemon.control.store import Store
from ovs_daemon.control.topology import Alive, Domain, Node
from ovs_daemon.policy import model


@dataclass(frozen=True)
class View:
    """What the registry said; its parts were read one after the other.

    :param alive: by the node's name
    """

    domains: tuple[Domain, ...]
    nodes: tuple[Node, ...]
    alive: Mapping[str, Alive]
    volumes: tuple[Volume, ...]

    @classmethod
    def of(cls, store: Store) -> View:
        """The cluster as it is now."""
        return cls(
            tuple(store.domains()), tuple(store.nodes()), store.alive(), tuple(store.volumes())
        )

    @classmethod
    def of_nodes(cls, store: Store) -> View:
        """The same without volumes, of which there may be very many: for who only asks of nodes."""
        return cls(tuple(store.domains()), tuple(store.nodes()), store.alive(), ())

    def cluster(self, beside: str | None = None) -> model.Cluster:
        """The same for the policy.

        :param beside: only nodes that share the backend of this one may own or keep anything
        """
        origin = next((one for one in self.nodes if one.name == beside), None)
        existing = [one for one in self.volumes if one.state in (State.AVAILABLE, State.HIDDEN)]
        return model.Cluster(
            tuple(self._node(node, origin) for node in self.nodes),
            tuple(_volume(volume) for volume in existing),
        )

    def names(self) -> dict[str, str]:
        """Names of all volumes, by UUID."""
        return {volume.uuid: volume.name for volume in self.volumes}

    def _node(self, node: Node, origin: Node | None) -> model.Node:
        reaches = origin is None or node.shares_backend(origin)
        return model.Node(
            node.name,
            node.domain,
            node.recovery_domain,
            router=model.Role.ROUTER in node.roles and reaches,
            alive=node.name in self.alive,
            draining=node.draining,
        )


def _volume(volume: Volume) -> model.Volume:
    return model.Volume(
        volume.uuid,
        volume.node,
        volume.dtl.mode,
        volume.dtl.node,
        volume.dtl.state,
        volume.mds,
        volume.ancestors,
        # Whoever opens it says on what it rests from then on.
        handed=volume.saved and volume.home is None,
        served=volume.served,
    )
