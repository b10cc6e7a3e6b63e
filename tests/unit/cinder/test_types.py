"""QoS specs and extra specs, with Cinder's own lookup of volume types replaced by a table."""

from __future__ import annotations

from typing import Any

import pytest
from cinder import exception
from cinder.volume import volume_types

from tests.unit.cinder.conftest import Cloud

MIB = 1 << 20


class Types:
    """Volume types as the database would hold them."""

    def __init__(self) -> None:
        self.qos: dict[str, dict[str, Any]] = {}
        self.extra: dict[str, dict[str, str]] = {}

    def add(self, name: str, consumer: str | None = None, **specs: str) -> str:
        self.qos[name] = {"consumer": consumer, "specs": specs}
        self.extra[name] = {}
        return name


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> Types:
    table = Types()
    monkeypatch.setattr(
        volume_types,
        "get_volume_type_qos_specs",
        lambda name: {"qos_specs": table.qos[name] if table.qos[name]["consumer"] else None},
    )
    monkeypatch.setattr(volume_types, "get_volume_type_extra_specs", lambda name: table.extra[name])
    return table


def limits(cloud: Cloud, volume: Any) -> dict[str, float]:
    uuid = cloud.verbs.show_volume(volume.name)["uuid"]
    return cloud.house.engine.open[uuid].limits


def test_back_end_qos_reaches_the_engine_and_grows(cloud: Cloud, types: Types) -> None:
    gold = types.add("gold", "back-end", total_iops_sec="500", write_bytes_sec_per_gb="1000")
    volume = cloud.make.volume(size=2, volume_type_id=gold)
    cloud.driver.create_volume(volume)
    assert limits(cloud, volume) == {"total_iops": 500, "write_bytes_s": 2000}
    cloud.driver.extend_volume(volume, 3)
    assert limits(cloud, volume) == {"total_iops": 500, "write_bytes_s": 3000}
    # They are the volume's, whatever engine opens it.
    cloud.house.start()
    assert limits(cloud, volume) == {"total_iops": 500, "write_bytes_s": 3000}


@pytest.mark.parametrize("swapped", [False, True])
def test_growing_limits_stop_at_the_fixed_one(cloud: Cloud, types: Types, swapped: bool) -> None:
    """In whichever order the database has them."""
    specs = [("total_iops_sec", "500"), ("total_iops_sec_per_gb", "200")]
    kind = types.add("kind", "back-end", **dict(specs[::-1] if swapped else specs))
    volume = cloud.make.volume(size=2, volume_type_id=kind)
    cloud.driver.create_volume(volume)
    assert limits(cloud, volume) == {"total_iops": 400}
    cloud.driver.extend_volume(volume, 3)
    assert limits(cloud, volume) == {"total_iops": 500}


def test_clones_have_their_own_types_limits(cloud: Cloud, types: Types) -> None:
    gold, free = types.add("gold", "both", read_iops_sec="7", size_iops_sec="4"), types.add("free")
    source = cloud.make.volume(volume_type_id=gold)
    clone = cloud.make.volume(volume_type_id=free)
    cloud.driver.create_volume(source)
    cloud.driver.create_cloned_volume(clone, source)
    assert (limits(cloud, source), limits(cloud, clone)) == ({"read_iops": 7}, {})


def test_front_end_qos_is_not_ours(cloud: Cloud, types: Types) -> None:
    volume = cloud.make.volume(volume_type_id=types.add("nova", "front-end", read_iops_sec="9"))
    cloud.driver.create_volume(volume)
    assert limits(cloud, volume) == {}


@pytest.mark.parametrize(
    ("specs", "named"),
    [({"iops": "5"}, "'iops'"), ({"read_iops_sec": "fast"}, "'fast'"), ({"burst_sec": "0"}, "'0'")],
)
def test_qos_that_cannot_be(cloud: Cloud, types: Types, specs: dict[str, str], named: str) -> None:
    volume = cloud.make.volume(volume_type_id=types.add("odd", "back-end", **specs))
    with pytest.raises(exception.InvalidInput, match=named):
        cloud.driver.create_volume(volume)
    assert cloud.verbs.list_volumes() == {"volumes": []}


def test_sco_size(cloud: Cloud, types: Types) -> None:
    types.add("small")
    types.extra["small"] = {"ovs:sco_size": "8MiB"}
    volume = cloud.make.volume(volume_type_id="small")
    cloud.driver.create_volume(volume)
    assert cloud.verbs.show_volume(volume.name)["sco_size"] == 8 * MIB
    for text, why in (("big", "no whole number|not a whole"), ("3MiB", "power of two")):
        types.extra["small"] = {"ovs:sco_size": text}
        with pytest.raises(exception.InvalidInput, match=why):
            cloud.driver.create_volume(cloud.make.volume(volume_type_id="small"))


def test_preset(cloud: Cloud, types: Types) -> None:
    types.add("spread")
    types.extra["spread"] = {"ovs:preset": "two-domains"}
    volume = cloud.make.volume(volume_type_id="spread")
    cloud.driver.create_volume(volume)
    assert cloud.verbs.show_volume(volume.name)["preset"] == "two-domains"
    clone, other = cloud.make.volume(), cloud.make.volume(volume_type_id="spread")
    cloud.driver.create_cloned_volume(clone, volume)
    assert cloud.verbs.show_volume(clone.name)["preset"] == "two-domains"
    types.extra["spread"] = {"ovs:preset": "one-domain"}
    cloud.driver.create_cloned_volume(other, volume)
    assert cloud.verbs.show_volume(other.name)["preset"] == "one-domain"
    types.extra["spread"] = {"ovs:preset": "nothing"}
    with pytest.raises(exception.InvalidInput, match=r"ovs:preset.*there is no preset 'nothing'"):
        cloud.driver.create_volume(cloud.make.volume(volume_type_id="spread"))


def retype(cloud: Cloud, volume: Any, to: str, pool: str | None = None, **diff: Any) -> bool:
    host = {"host": f"host@ovs#{pool or cloud.domain}"}
    return cloud.driver.retype(cloud.context, volume, {"id": to}, diff, host)


def test_retype_in_place(cloud: Cloud, types: Types) -> None:
    slow, fast = types.add("slow", "back-end", total_iops_sec="1"), types.add("fast")
    volume = cloud.make.volume(volume_type_id=slow)
    cloud.driver.create_volume(volume)
    assert retype(cloud, volume, fast, extra_specs={"ovs:sco_size": ("8MiB", "8MiB")})
    assert limits(cloud, volume) == {}
    assert retype(cloud, volume, slow)
    assert limits(cloud, volume) == {"total_iops": 1}


@pytest.mark.parametrize(
    "diff",
    [
        {"pool": "elsewhere"},
        {"encryption": {"cipher": (None, "aes-xts-plain64")}},
        {"extra_specs": {"ovs:sco_size": (None, "8MiB")}},
        {"extra_specs": {"ovs:preset": (None, "secret")}},
    ],
)
def test_retype_that_needs_a_copy(cloud: Cloud, types: Types, diff: dict[str, Any]) -> None:
    slow, fast = types.add("slow", "back-end", total_iops_sec="1"), types.add("fast")
    volume = cloud.make.volume(volume_type_id=slow)
    cloud.driver.create_volume(volume)
    assert not retype(cloud, volume, fast, **diff)
    assert limits(cloud, volume) == {"total_iops": 1}
