"""What a host is told so that it can attach a volume, and which hosts can.

A connector that has loaded the plugin says ``"ovs": {"nodes": [...], "holder": "..."}``: the
daemons of its host, and the name by which it will hold what it attaches. The data is for
`ovs_nova`'s os-brick connector; the attachment itself is made by the connector, through that
daemon of its own host which is named there, wherever the volume's owner is, or will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cinder import exception

from ovs_daemon.errors import VStorageError

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


def nodes_of(connector: Mapping[str, Any]) -> list[str]:
    """The nodes whose daemons run on the connector's host.

    :raises InvalidConnectorException: there is none, with what to configure
    """
    check_connector(connector)
    nodes = list(connector[_KEY].get("nodes") or [])
    if not nodes:
        raise _refused(
            connector,
            "reaches no vstorage-daemon of its own",
            "start vstorage-daemon and vstorage-edge there, or correct run_dirs in section [ovs]",
        )
    return nodes


def refusal(
    connector: Mapping[str, Any], failure: VStorageError
) -> exception.InvalidConnectorException:
    """Why a host cannot attach a volume, as the volume's cluster sees it."""
    return _refused(connector, f"cannot {failure.what}: {failure.why}", failure.fix)


def connection(
    volume: Mapping[str, Any], node: str, domain: str, read_only: bool, multi_attach: bool
) -> dict[str, Any]:
    """The connection info of a volume (as the daemon describes it) for one host.

    Cinder's manager adds ``qos_specs``, ``encrypted``, ``cacheable`` and block sizes.

    :param node: the host's own, through which it attaches
    """
    read_only = read_only or bool(volume["template"])
    return {
        "driver_volume_type": PROTOCOL,
        "data": {
            "volume_uuid": volume["uuid"],
            "name": volume["name"],
            "size": volume["size"],
            "node": node,
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
