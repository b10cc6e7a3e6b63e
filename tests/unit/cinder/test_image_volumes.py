"""Images in Glance's cinder store, with Cinder's own database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cinder import objects
from oslo_config import cfg

from ovs_daemon.control.verbs import Verbs
from tests.support.cinder_database import database
from tests.support.house import House
from tests.unit.cinder.conftest import make_driver, serve


class Site:
    """A Domain with an image in a volume of project ``store``."""

    def __init__(self, context: Any, house: House, domain: str) -> None:
        self.context, self.domain, self.house = context, domain, house
        self.driver = make_driver(domain)
        self.driver.do_setup(context)
        self.image_volume = self.volume(f"a@ovs#{domain}", metadata={"image_owner": "owner"})
        self.driver.create_volume(self.image_volume)
        self.image = {"container_format": "bare", "disk_format": "raw", "owner": "owner"}
        self.location: Any = (None, [{"url": f"cinder://store/{self.image_volume.id}"}])

    def volume(self, host: str, project: str = "store", **more: Any) -> Any:
        volume = objects.Volume(self.context, size=1, host=host, project_id=project, **more)
        volume.create()
        return volume

    def clone(self) -> bool:
        """Whether a volume of another section was cloned from the image."""
        volume = self.volume(f"b@other#{self.domain}", "owner")
        model, cloned = self.driver.clone_image(
            self.context, volume, self.location, self.image, None
        )
        assert (model is not None) is cloned
        verbs = Verbs(self.house.host, lambda: True)
        names = [one["name"] for one in verbs.list_volumes()["volumes"]]
        assert (volume.name in names) is cloned
        if cloned:
            parent = verbs.show_volume(volume.name)["parent"]
            assert parent["volume"] == self.image_volume.name
        return cloned


@pytest.fixture
def site(domain: str) -> Iterator[Site]:
    with database() as context:
        cfg.CONF.set_override("allowed_direct_url_schemes", ["cinder"])
        house = House(domain)
        with serve(house, domain):
            yield Site(context, house, domain)
        house.check()


def test_an_image_of_the_domain_is_cloned(site: Site) -> None:
    assert site.clone()
    site.location = (f"cinder://{site.image_volume.id}", None)
    assert site.clone()


@pytest.mark.parametrize(
    "change",
    [{"disk_format": "qcow2"}, {"container_format": "compressed"}, {"owner": "somebody else"}],
)
def test_an_image_that_is_none_of_these_is_not(site: Site, change: dict[str, str]) -> None:
    site.image.update(change)
    assert not site.clone()


@pytest.mark.parametrize(
    "location",
    [
        None,
        (None, None),
        ("rbd://a/b/c/d", []),
        ("cinder://../../volume", []),
        ("cinder://5c4bf8ae-5a33-4b54-8b5d-66ac8c0c5d4c", []),
    ],
)
def test_other_locations(site: Site, location: Any) -> None:
    site.location = location
    assert not site.clone()


def test_another_domain_and_a_scheme_that_is_not_allowed(site: Site) -> None:
    cfg.CONF.set_override("allowed_direct_url_schemes", [])
    assert not site.clone()
    cfg.CONF.set_override("allowed_direct_url_schemes", ["cinder"])
    site.image_volume.host = "a@ovs#elsewhere"
    site.image_volume.save()
    assert not site.clone()
