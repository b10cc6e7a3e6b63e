"""Nova and os-brick as they are installed, with our rows in their tables, and a daemon of twins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nova import objects
from nova.db.main import api, models

from ovs_daemon.control import volumes
from ovs_nova import registration
from ovs_nova.options import RUN_DIRS_VARIABLE
from tests.support.api_server import serving
from tests.support.house import House

GIB = 1 << 30


@dataclass
class Compute:
    """A host of Nova's with a daemon."""

    house: House
    run_dir: Path

    def volume(self, name: str) -> dict[str, Any]:
        """A new volume, as Cinder's connection info describes it."""
        made = volumes.create_volume(self.house.host, name, GIB, None)
        return {
            "volume_uuid": made.uuid,
            "name": name,
            "size": GIB,
            "node": "node1",
            "domain": "default",
            "access_mode": "rw",
            "read_only": False,
            "encrypted": False,
            "qos_specs": None,
            "discard": True,
            "multi_attach": False,
        }

    def holders(self, name: str) -> list[tuple[str, str]]:
        """Who has a volume attached, and how."""
        found = self.house.host.require("look", name)
        return [(one.holder, one.mode.value) for one in found.attachments]


@pytest.fixture
def compute(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compute]:
    registration.register_nova()
    house = House()
    with serving(house) as run_dir:
        monkeypatch.setenv(RUN_DIRS_VARIABLE, f"/nowhere:{run_dir}")
        yield Compute(house, run_dir)
    house.check()


@pytest.fixture(scope="module")
def nova_database() -> Iterator[None]:
    """Nova's database, in memory."""
    objects.register_all()
    manager = api.create_context_manager("sqlite://")
    unpatch = api.context_manager.patch_factory(manager)
    models.BASE.metadata.create_all(manager.writer.get_engine())
    yield
    unpatch()
