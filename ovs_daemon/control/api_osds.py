"""The control API's part about OSDs.

    GET    /v1/osds                             {"osds": [...]}
    POST   /v1/osds                             {"address"}: record what that server serves
    GET    /v1/osds/UUID
    POST   /v1/osds/UUID/decommission           move what is on it elsewhere, then remove it
    POST   /v1/osds/UUID/remove                 {"lost"?}: forget it, if that can be
    POST   /v1/osds/UUID/resume                 have it stay
    GET    /v1/osds/whereabouts                 {"cluster", "domain", "node"}: to claim a new one

OSDs are described as in `osds.py`; ``reachable``, ``size`` and ``free`` as this node sees them,
null when its engine does not use the OSD.
"""

from __future__ import annotations

from typing import Any

from werkzeug.routing import Rule
from werkzeug.wrappers import Request

from ovs_daemon.control.fields import Fields
from ovs_daemon.control.osds import OsdVerbs


def osd_routes(verbs: OsdVerbs) -> list[Rule]:
    """The routes, for the API's map."""
    routes = _Routes(verbs)
    return [
        Rule("/v1/osds", methods=["GET"], endpoint=routes.list_osds),
        Rule("/v1/osds", methods=["POST"], endpoint=routes.add_osds),
        Rule("/v1/osds/whereabouts", methods=["GET"], endpoint=routes.whereabouts),
        Rule("/v1/osds/<uuid>", methods=["GET"], endpoint=routes.show_osd),
        Rule("/v1/osds/<uuid>/decommission", methods=["POST"], endpoint=routes.decommission_osd),
        Rule("/v1/osds/<uuid>/remove", methods=["POST"], endpoint=routes.remove_osd),
        Rule("/v1/osds/<uuid>/resume", methods=["POST"], endpoint=routes.resume_osd),
    ]


class _Routes:
    """One handler for each route."""

    def __init__(self, verbs: OsdVerbs) -> None:
        self._verbs = verbs

    def list_osds(self, request: Request) -> dict[str, Any]:
        return self._verbs.list_osds()

    def add_osds(self, request: Request) -> dict[str, Any]:
        return self._verbs.add_osds(Fields(request, "address").text("address"))

    def whereabouts(self, request: Request) -> dict[str, Any]:
        return self._verbs.whereabouts()

    def show_osd(self, request: Request, uuid: str) -> dict[str, Any]:
        return self._verbs.show_osd(uuid)

    def decommission_osd(self, request: Request, uuid: str) -> dict[str, Any]:
        return self._verbs.decommission_osd(uuid)

    def remove_osd(self, request: Request, uuid: str) -> dict[str, Any]:
        return self._verbs.remove_osd(uuid, Fields(request, "lost").flag("lost"))

    def resume_osd(self, request: Request, uuid: str) -> dict[str, Any]:
        return self._verbs.resume_osd(uuid)
