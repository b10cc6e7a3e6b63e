"""What a host is told so that it can attach a volume, and which hosts can.

A connector that has loaded the plugin says ``"ovs": {"nodes": [...], "holder": "..."}``: the
daemons that it reaches, and the name by which it will hold what it attaches. The data is for
`ovs_nova`'s os-brick connector; the attachment itself is made by the connector, through the daemon
of its own host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cinder import exception

PROTOCOL = "ovs"
_KEY = "ovs"
_NOVA = "nova-compute@"


def check_connector(connector: Mapping[str, Any]) -> None:
    """Refuse a host that cannot attach our volumes at all.

    :raises InvalidConnectorException: with what to configure there
    """
    if not isinstance(connector.get(_KEY), Mapping):
        raise _refused(
            connector,
            "has not loaded the Open vStorage plugin",
            "load it there as doc/openstack.md says, in every process that attaches "
            "(nova-compute, cinder-volume, cinder-backup), and see that its vstorage-daemon runs",
        )


def holder_of(connector: Mapping[str, Any]) -> str | None:
    """Who holds what was attached by a connector, if that is Nova.

    Others copy, several times at once as one holder, and count by themselves.
    """
    ours = connector.get(_KEY)
    found = ours.get("holder") if isinstance(ours, Mapping) else None
    return found if isinstance(found, str) and found.startswith(_NOVA) else None


def connection(
    volume: Mapping[str, Any],
    connector: Mapping[str, Any],
    domain: str,
    read_only: bool,
    multi_attach: bool,
) -> dict[str, Any]:
    """The connection info of a volume (as the daemon describes it) for one host.

    Cinder's manager adds ``qos_specs``, ``encrypted``, ``cacheable`` and block sizes.

    :raises InvalidConnectorException: the host cannot reach the volume's node
    """
    check_connector(connector)
    nodes = list(connector[_KEY].get("nodes") or [])
    if volume["node"] not in nodes:
        raise _refused(
            connector,
            f"reaches the nodes {', '.join(nodes) or '(none)'}, but volume {volume['name']!r} is "
            f"on {volume['node']}",
            "place the server on a host of that node",
        )
    read_only = read_only or bool(volume["template"])
    return {
        "driver_volume_type": PROTOCOL,
        "data": {
            "volume_uuid": volume["uuid"],
            "name": volume["name"],
            "size": volume["size"],
            "node": volume["node"],
            "domain": domain,
            "read_only": read_only,
            "access_mode": "ro" if read_only else "rw",
            "discard": True,
            "multi_attach": multi_attach,
        },
    }


def _refused(
    connector: Mapping[str, Any], why: str, fix: str
) -> exception.InvalidConnectorException:
    host = connector.get("host", "?")
    return exception.InvalidConnectorException(
        message=f"host {host} cannot attach Open vStorage volumes: it {why}; {fix}"
    )
