"""The Cinder volume driver: thin, no storage logic; verbs of the Domain's daemons.

A Cinder volume is the daemon's volume of the name that volume_name_template gives it, a snapshot
likewise. What a driver call leaves half done the daemon undoes or finishes; so each call is one
verb, or several of which each is harmless to repeat.
"""

from __future__ import annotations

import contextlib
import socket as socket_module
from collections.abc import Iterator
from typing import Any

from cinder import exception, interface
from cinder.volume import driver, volume_utils
from oslo_config import cfg
from oslo_log import log as logging

from ovs_cinder import connections, image_volumes, images, luks, options, specs, stats
from ovs_cinder.api import DomainApi, transport_of
from ovs_cinder.attach import AttachVerbs
from ovs_cinder.failures import reported
from ovs_cinder.groups import GroupVerbs
from ovs_cinder.manage import ManageVerbs
from ovs_cinder.volumes import UPLOAD_SUFFIX
from ovs_daemon.errors import Code, VStorageError
from ovs_nova import daemons, registration

LOG = logging.getLogger(__name__)

_GIB = 1 << 30

options.register(cfg.CONF)
# Copies between volumes and images attach in this process.
registration.register_connector()


@interface.volumedriver
class OVSVolumeDriver(ManageVerbs, GroupVerbs, AttachVerbs, driver.VolumeDriver):
    """Open vStorage: volumes of one Domain.

    Version history:

    .. code-block:: none

        1.0.0 - First version: volumes, snapshots, clones, groups, manage, retype, QoS,
                images over NBD, multi-attach, active-active, encryption by QEMU.
    """

    VERSION = "1.0.0"
    CI_WIKI_NAME = "Open_vStorage_CI"
    SUPPORTS_ACTIVE_ACTIVE = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(options.VOLUME_OPTS)
        self._domain_name: str = self.configuration.ovs_domain
        self._node = socket_module.gethostname()
        self._known_domain: dict[str, Any] | None = None

    @classmethod
    def get_driver_options(cls) -> list[Any]:
        """Every option that the driver reads besides Cinder's own."""
        return list(options.VOLUME_OPTS)

    def do_setup(self, context: Any) -> None:
        """Connect to the message bus."""
        with reported():
            self.api = DomainApi(
                transport_of(cfg.CONF, self.configuration.ovs_transport_url),
                self._domain_name,
                self.configuration.ovs_rpc_timeout,
            )

    def check_for_setup_error(self) -> None:
        """Refuse to start when the Domain is another zone's, or nobody serves it, or two do."""
        with reported():
            domain = self.api.get_domain()
            self.api.refuse_two_clusters(len(domain["nodes"]))
        ours = self.configuration.safe_get("backend_availability_zone")
        theirs = domain["availability_zone"]
        if ours is not None and theirs is not None and ours != theirs:
            raise exception.InvalidConfigurationValue(
                option="backend_availability_zone",
                value=f"{ours} (the Domain {self._domain_name} is in availability zone {theirs}: "
                "correct ovs_domain or backend_availability_zone of this section, or "
                "availability_zone of the Domain's daemons)",
            )
        if domain["domain"] != self._domain_name:
            raise exception.InvalidConfigurationValue(
                option="ovs_domain",
                value=f"{self._domain_name} (a node of {domain['domain']} answered)",
            )
        if cfg.CONF.volume_name_template.strip() == "%s":
            raise exception.InvalidConfigurationValue(
                option="volume_name_template",
                value="%s (a volume's name must not be a UUID alone: use volume-%s)",
            )
        volume_utils.get_max_over_subscription_ratio(
            self.configuration.max_over_subscription_ratio, supports_auto=True
        )

    # Encryption

    def create_volume(self, volume: Any) -> None:
        """Create an empty volume; one of an encrypted type has its LUKS header."""
        if not volume.encryption_key_id:
            super().create_volume(volume)
            return
        wanted = luks.luks_of(volume.obj_context, volume)
        super().create_volume(volume)
        try:
            with reported(), self._served(volume.name, read_only=False) as uri:
                if uri is None:
                    raise _nobody_serves_here(volume.name)
                luks.write_header(wanted, uri)
        except BaseException:
            # It was made a moment ago, and nobody knows of it yet.
            try:
                self._delete_own(volume.name)
            except VStorageError as failure:
                LOG.warning("volume %s is left without a LUKS header: %s", volume.name, failure)
            raise

    def copy_image_to_encrypted_volume(
        self,
        context: Any,
        volume: Any,
        image_service: Any,
        image_id: str,
        disable_sparse: bool = False,
    ) -> None:
        """Write an image, by the LUKS header that the volume has since it was made."""
        wanted = luks.luks_of(context, volume)
        with reported(), self._served(volume.name, read_only=False) as uri:
            if uri is None:
                raise _nobody_serves_here(volume.name)
            images.fill_from_image(
                context,
                image_service,
                image_id,
                uri,
                volume.size,
                zeroed=False,
                sparse=not disable_sparse,
                luks=wanted,
            )

    def before_volume_copy(
        self, context: Any, src_vol: Any, dest_vol: Any, remote: str | None = None
    ) -> None:
        """Refuse to copy a volume into one of ours that is smaller by a LUKS header."""
        pool = volume_utils.extract_host(dest_vol.host, "pool")
        here = pool in (self._domain_name, *self.api.others)
        if here and dest_vol.encryption_key_id and not src_vol.encryption_key_id:
            raise exception.InvalidVolume(
                reason=f"volume {src_vol.id} cannot become an encrypted one of the same size: the "
                "LUKS header takes 2 MiB of it; upload it as an image, and make a larger "
                "encrypted volume of that"
            )

    # Images

    def clone_image(
        self,
        context: Any,
        volume: Any,
        image_location: Any,
        image_meta: dict[str, Any],
        image_service: Any,
    ) -> tuple[dict[str, Any] | None, bool]:
        """Clone an image that Glance keeps as a volume of this Domain."""
        found = image_volumes.find(context, volume, image_location, image_meta, self._domain_name)
        if found is None:
            return None, False
        try:
            self._clone(volume, found.name, None)
        except exception.VolumeNotFound as failure:
            # It is in a Domain of the same name of another cluster.
            LOG.info("image %s is copied: %s", image_meta.get("id"), failure)
            return None, False
        return {}, True

    def copy_image_to_volume(
        self,
        context: Any,
        volume: Any,
        image_service: Any,
        image_id: str,
        disable_sparse: bool = False,
    ) -> None:
        """Write an image straight through the data path."""
        with reported():
            found = self.api.show_volume_with_counters(volume.name)
            counters = found["counters"] or {}
            zeroed = found["parent"] is None and counters.get("mapped_bytes") == 0
            with self._served(volume.name, read_only=False) as uri:
                if uri is not None:
                    images.fill_from_image(
                        context,
                        image_service,
                        image_id,
                        uri,
                        volume.size,
                        zeroed,
                        not disable_sparse,
                    )
                    return
        super().copy_image_to_volume(context, volume, image_service, image_id, disable_sparse)

    def copy_volume_to_image(
        self, context: Any, volume: Any, image_service: Any, image_meta: dict[str, Any]
    ) -> None:
        """Store a volume in Glance from a clone, so that it may be attached and written to."""
        clone = f"{volume.name}{UPLOAD_SUFFIX}"
        with reported():
            self._delete_own(clone)
            self.api.create_volume(clone, None, volume.name)
            try:
                with self._served(clone, read_only=True) as uri:
                    if uri is not None:
                        images.upload_as_image(context, image_service, image_meta, uri, volume)
                        return
            finally:
                self._delete_own(clone)
        super().copy_volume_to_image(context, volume, image_service, image_meta)

    @contextlib.contextmanager
    def _served(self, name: str, read_only: bool) -> Iterator[str | None]:
        """The URI of a volume that is served on this host for us; None when it cannot be.

        By its owner itself, if that runs here, else by the Edge of a daemon of this host.
        """
        holder = f"image@{self._node}"
        found = self.api.show_volume(name)
        here = daemons.nodes()
        if here and found["node"] not in here:
            node = self.api.choose_attaching_node(name, sorted(here))
            with daemons.client(node, f"serve volume {name!r} on this host") as client:
                served = client.attach_volume(found["uuid"], "edge", read_only, holder)
                try:
                    yield str(served["uri"])
                finally:
                    client.detach_volume(found["uuid"], holder)
            return
        served = self.api.attach_direct(name, holder, read_only)
        try:
            yield served["uri"] if images.is_local(served["socket"]) else None
        finally:
            self.api.detach(name, holder)

    # Capabilities

    def get_pool(self, volume: Any) -> str:
        """The pool of a volume: the Domain."""
        return self._domain_name

    def _update_volume_stats(self) -> None:
        up = True
        try:
            self._known_domain = self.api.get_domain()
        except VStorageError as failure:
            LOG.error("%s", failure)
            up = False
            if not self.api.others:
                self._known_domain = None
            # Else its volumes may be with them by now, and Cinder's scheduler lets nobody take
            # snapshots of volumes, or extend them, where there is no room.
        get = self.configuration.safe_get
        pool = {
            **stats.pool_stats(self._known_domain, self.api.cluster, self._domain_name, up),
            **stats.capabilities(self.configuration.ovs_online_extend),
            "reserved_percentage": self.configuration.reserved_percentage,
            "max_over_subscription_ratio": volume_utils.get_max_over_subscription_ratio(
                self.configuration.max_over_subscription_ratio, supports_auto=True
            ),
            "filter_function": self.get_filter_function(),
            "goodness_function": self.get_goodness_function(),
        }
        self._stats = {
            "volume_backend_name": get("volume_backend_name") or type(self).__name__,
            "vendor_name": "Open vStorage",
            "driver_version": self.VERSION,
            "storage_protocol": connections.PROTOCOL,
            "shared_targets": False,
            "online_extend_support": self.configuration.ovs_online_extend,
            "pools": [pool],
        }

    def get_default_goodness_function(self) -> str:
        """The emptier the better."""
        return "100 * capabilities.free_capacity_gb / capabilities.total_capacity_gb"

    def _init_vendor_properties(self) -> tuple[dict[str, Any], str]:
        properties: dict[str, Any] = {}
        self._set_property(
            properties,
            specs.SCO_SIZE,
            "SCO size",
            "Data in one SCO of a new volume: a power of two from 1MiB to 256MiB.",
            "string",
        )
        self._set_property(
            properties,
            specs.PRESET,
            "Preset",
            "How the erasure-coded backend keeps a new volume's objects: one of 'vstorage preset "
            "list'.",
            "string",
        )
        return properties, specs.VENDOR


def _nobody_serves_here(name: str) -> VStorageError:
    return VStorageError(
        Code.NOT_HERE,
        f"encrypt volume {name!r} on this host",
        "no daemon of its cluster runs here",
        "start a vstorage-daemon and a vstorage-edge on the host of cinder-volume, and see that "
        "run_dirs in section [ovs] names its run directory",
    )
