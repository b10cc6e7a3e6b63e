"""What the cloud knows of itself: users, endpoints, zones, flavors, the volume type, the image."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openstack

from tests.openstack.lab import layout
from tests.openstack.lab.layout import SECTIONS, ZONES, Layout, Port
from tests.openstack.lab.processes import wait_until

VOLUME_TYPE = "ovs"
IMAGE = "tiny"
FLAVOR = "tiny"
_USERS = ("glance", "placement", "nova", "neutron", "cinder")
_ENDPOINTS = (
    ("glance", "image", f"http://127.0.0.1:{Port.GLANCE}"),
    ("placement", "placement", f"http://127.0.0.1:{Port.PLACEMENT}"),
    ("nova", "compute", f"http://127.0.0.1:{Port.NOVA}/v2.1"),
    ("neutron", "network", f"http://127.0.0.1:{Port.NEUTRON}"),
    ("cinder", "block-storage", f"http://127.0.0.1:{Port.CINDER}/v3"),
)
# Name, id that Tempest's configuration names, MiB of memory.
_FLAVORS = ((FLAVOR, "42", 192), ("tiny-alt", "84", 224))
_SERVICE_SECONDS_MAX = 180.0
# What the tiny guest has drivers for.
_IMAGE_PROPERTIES = {
    "hw_cdrom_bus": "scsi",
    "hw_scsi_model": "virtio-scsi",
    "hw_rng_model": "virtio",
}


def connect(lab: Layout) -> Any:
    """A connection as administrator."""
    values = lab.credentials()
    return openstack.connect(
        auth_url=values["OS_AUTH_URL"],
        username=values["OS_USERNAME"],
        password=values["OS_PASSWORD"],
        project_name=values["OS_PROJECT_NAME"],
        user_domain_name="Default",
        project_domain_name="Default",
        region_name=layout.REGION,
    )


class Registration:
    """Makes what is missing; all of it may be repeated."""

    def __init__(self, lab: Layout) -> None:
        self._cloud = connect(lab)

    def identity(self) -> None:
        """Users of the services, their roles, and where each service is found."""
        identity = self._cloud.identity
        project = identity.find_project("service") or identity.create_project(
            name="service", domain_id="default"
        )
        admin = identity.find_role("admin")
        service_role = identity.find_role("service") or identity.create_role(name="service")
        for name in _USERS:
            user = identity.find_user(name) or identity.create_user(
                name=name,
                password=layout.PASSWORD,
                domain_id="default",
                default_project_id=project.id,
            )
            identity.assign_project_role_to_user(project, user, admin)
            identity.assign_project_role_to_user(project, user, service_role)
        for name, kind, url in _ENDPOINTS:
            service = identity.find_service(name) or identity.create_service(name=name, type=kind)
            present = {end.interface for end in identity.endpoints(service_id=service.id)}
            for interface in {"public", "internal", "admin"} - present:
                identity.create_endpoint(
                    service_id=service.id, interface=interface, url=url, region_id=layout.REGION
                )

    def hypervisors_known(self) -> bool:
        """Tell whether every nova-compute has announced itself."""
        services = self._cloud.compute.services(binary="nova-compute")
        up = {service.host for service in services if service.state == "up"}
        return up >= {zone.hypervisor for zone in ZONES}

    def wait_for_hypervisors(self) -> None:
        """Wait until every nova-compute is up."""
        wait_until(self.hypervisors_known, "all of nova-compute to be up", _SERVICE_SECONDS_MAX)

    def wait_for_report(self, binary: str, since: datetime) -> None:
        """Wait until all services of a kind have reported after ``since`` that they work."""

        def reported() -> bool:
            if binary.startswith("nova"):
                services = list(self._cloud.compute.services(binary=binary))
            else:
                services = list(self._cloud.block_storage.services(binary=binary))
            times = [datetime.fromisoformat(service.updated_at) for service in services]
            return bool(times) and all(time.replace(tzinfo=UTC) > since for time in times)

        wait_until(reported, f"{binary} to report that it works", _SERVICE_SECONDS_MAX)

    def unlimited(self) -> None:
        """Let the administrator's project have as many volumes as it wants."""
        names = ("volumes", "snapshots", "gigabytes", "backups", "backup_gigabytes", "groups")
        self._cloud.set_volume_quotas("admin", **dict.fromkeys(names, -1))

    def wait_for_backends(self) -> None:
        """Wait until the scheduler knows a working pool of every section, to make volumes in."""

        def known() -> bool:
            pools = self._cloud.block_storage.backend_pools()
            working = [one for one in pools if one.capabilities.get("backend_state") == "up"]
            serving = {one.name.partition("@")[2].partition("#")[0] for one in working}
            return serving >= {section.name for section in SECTIONS}

        wait_until(known, "a Cinder pool that works in every section", _SERVICE_SECONDS_MAX)

    def zones(self) -> None:
        """Nova's availability zones: an aggregate each."""
        compute = self._cloud.compute
        for zone in ZONES:
            aggregate = compute.find_aggregate(zone.name) or compute.create_aggregate(
                name=zone.name, availability_zone=zone.name
            )
            if zone.hypervisor not in (compute.get_aggregate(aggregate.id).hosts or []):
                compute.add_host_to_aggregate(aggregate.id, zone.hypervisor)

    def offers(self) -> None:
        """Flavors and the volume type."""
        compute, storage = self._cloud.compute, self._cloud.block_storage
        for name, number, mebibytes in _FLAVORS:
            if compute.find_flavor(name) is None:
                compute.create_flavor(name=name, id=number, ram=mebibytes, vcpus=1, disk=1)
        if storage.find_type(VOLUME_TYPE) is None:
            storage.create_type(name=VOLUME_TYPE, extra_specs={"volume_backend_name": "ovs"})

    def image(self, name: str, disk: Path) -> None:
        """Upload a disk image under a name, once and whenever it was made anew."""
        found = self._cloud.image.find_image(name)
        if found is not None and found.properties.get("made_as") == disk.name:
            return
        if found is not None:
            self._cloud.image.delete_image(found.id)
        self._cloud.create_image(
            name,
            filename=str(disk),
            disk_format=disk.suffix.removeprefix("."),
            container_format="bare",
            visibility="public",
            wait=True,
            made_as=disk.name,
            **_IMAGE_PROPERTIES,
        )
