"""Which nodes keep the maps of volumes warm: chosen by the policy, recorded, told to the engine.

A volume's record names the nodes that follow its map (``mds``) beside its owner, whose map is the
true one: one in the owner's Domain, one in its Recovery Domain. The owner's steward replaces what
cannot follow any more; the engine of the owner feeds those that are named, and every node forgets
the maps of volumes that name it no more. None of this decides who may serve a volume: a warm map
only spares the next owner loading it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ovs_daemon.control.host import Host
from ovs_daemon.control.records import Volume
from ovs_daemon.control.store import put
from ovs_daemon.control.view import View
from ovs_daemon.engine import FollowerAt
from ovs_daemon.errors import VStorageError
from ovs_daemon.policy.drain import followings
from ovs_daemon.policy.model import Cluster
from ovs_daemon.registry import Conflict

LOG = logging.getLogger(__name__)


class Followers:
    """The part of a steward that has maps followed. One thread calls."""

    def __init__(self, host: Host) -> None:
        self._host = host
        # What the engine knows, by volume: the epoch under which it was told, and who follows.
        self._told: dict[str, tuple[int, tuple[FollowerAt, ...]]] = {}

    def tend(self) -> None:
        """One pass; what fails is tried in the next."""
        self._place(View.of(self._host.store))
        view = View.of(self._host.store)
        self._tell(view)
        self._forget(view)

    def _place(self, view: View) -> None:
        """Record who is to follow the maps of this node's open volumes."""
        volumes = {volume.uuid: volume for volume in view.volumes}
        for following in followings(_able(view, self._host.settings.node)):
            volume = volumes[following.volume]
            if not self._is_mine(volume):
                continue
            try:
                self._host.store.commit(put(replace(volume, mds=following.after)))
            except Conflict:
                # Somebody changed the record meanwhile, and that is looked at in the next pass.
                continue
            LOG.info("volume %s: %s follow its map", volume.name, following.after or "no nodes")

    def _tell(self, view: View) -> None:
        for volume in view.volumes:
            if not self._is_mine(volume):
                self._told.pop(volume.uuid, None)
                continue
            wanted = (volume.epoch, self._host.opener.followers(volume))
            # An opening brings its own.
            if self._told.get(volume.uuid) == wanted:
                continue
            try:
                self._host.engine.set_followers(volume.uuid, wanted[1], volume.parent)
            except VStorageError as failure:
                LOG.warning("the map of volume %s is not followed: %s", volume.name, failure)
                continue
            self._told[volume.uuid] = wanted

    def _forget(self, view: View) -> None:
        me = self._host.settings.node
        wanted = [one.uuid for one in view.volumes if me in one.mds and one.node != me]
        try:
            self._host.engine.retain_followed(sorted(wanted))
        except VStorageError as failure:
            LOG.warning("maps that nobody needs here are kept: %s", failure)

    def _is_mine(self, volume: Volume) -> bool:
        return volume.node == self._host.settings.node and self._host.is_open(volume.uuid)


def _able(view: View, me: str) -> Cluster:
    """The cluster, with those unusable that nobody can reach, or that have another backend."""
    reached = {node.name for node in view.nodes if "dtl" in node.addresses}
    cluster = view.cluster(beside=me)
    nodes = (replace(one, router=one.router and one.name in reached) for one in cluster.nodes)
    return replace(cluster, nodes=tuple(nodes))
