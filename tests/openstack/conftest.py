"""Fixtures of the tests over the running cloud: ``make openstack-test``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.openstack.host_side import HostSide
from tests.openstack.lab import layout
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.layout import ZONES
from tests.openstack.nodes import NodeView
from tests.openstack.user import User

#: everything that tests make is named so; what a killed run has left is removed by the next
PREFIX = "e2e-"


@pytest.fixture(scope="session")
def cloud() -> Cloud:
    """The running cloud; every service of it runs, whatever an earlier run left."""
    found = Cloud(layout.default())
    missing = [name for name in found.services.by_name if not found.processes.running(name)]
    if missing:
        pytest.fail(f"the lab does not run ({', '.join(missing)}): make openstack")
    return found


@pytest.fixture(scope="session")
def user(cloud: Cloud) -> User:
    """An administrator without quotas."""
    return User(cloud.lab)


@pytest.fixture(scope="session")
def nodes(cloud: Cloud) -> list[NodeView]:
    """Our nodes, one a zone."""
    return [NodeView(cloud, zone) for zone in ZONES]


@pytest.fixture(scope="session")
def host(cloud: Cloud, user: User) -> HostSide:
    """os-brick in this process, as a service has it."""
    return HostSide(cloud, user)


class Made:
    """Makes volumes and servers whose names tell that they are a test's."""

    def __init__(self, user: User, test: str) -> None:
        self._user = user
        self._names = (f"{PREFIX}{test}-{number}" for number in itertools.count(1))

    def name(self) -> str:
        """A new name."""
        return next(self._names)

    def volume(self, size_gib: int = 1, **options: Any) -> str:
        """The id of a new volume, which is available."""
        options.setdefault("availability_zone", ZONES[0].name)
        return str(self._user.create_volume(self.name(), size_gib, **options).id)

    def bootable(self, **options: Any) -> str:
        """The id of a new volume with the tiny guest on it."""
        image = self._user.cloud.image.find_image("tiny")
        return self.volume(image_id=image.id, **options)

    def server(self, volume: str, zone: str | None = None) -> str:
        """The id of a new server, whose guest runs."""
        options = {} if zone is None else {"availability_zone": zone}
        server = str(self._user.boot(self.name(), volume, **options).id)
        self._user.wait_console(server, r"GUEST: boot (\d+)\n")
        return server


@pytest.fixture
def made(user: User, request: pytest.FixtureRequest) -> Iterator[Made]:
    """Makes what the test needs; all of it is removed afterwards."""
    remove_all(user)
    yield Made(user, request.node.name.split("[")[0].removeprefix("test_"))
    remove_all(user)


def remove_all(user: User) -> None:
    """Remove what tests have made, by OpenStack's ordinary verbs."""
    compute, storage = user.cloud.compute, user.cloud.block_storage
    user.remove(
        [one.id for one in compute.servers() if one.name.startswith(PREFIX)],
        [one.id for one in storage.volumes() if one.name.startswith(PREFIX)],
    )
