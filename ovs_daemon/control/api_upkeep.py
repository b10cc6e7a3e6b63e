"""The control API's part about the upkeep of the backend.

    GET    /v1/upkeep                           what this node's engine has seen and done
    POST   /v1/upkeep                           {"kind": "repair"|"scrub"|"rebalance"}: begin

The figures are described in `_native.pyi` (`upkeep`); ``node`` says whose they are.
"""

from __future__ import annotations

from typing import Any

from werkzeug.routing import Rule
from werkzeug.wrappers import Request

from ovs_daemon.control.fields import Fields
from ovs_daemon.control.upkeep import UpkeepVerbs


def upkeep_routes(verbs: UpkeepVerbs) -> list[Rule]:
    """The routes, for the API's map."""
    routes = _Routes(verbs)
    return [
        Rule("/v1/upkeep", methods=["GET"], endpoint=routes.show),
        Rule("/v1/upkeep", methods=["POST"], endpoint=routes.start),
    ]


class _Routes:
    """One handler for each route."""

    def __init__(self, verbs: UpkeepVerbs) -> None:
        self._verbs = verbs

    def show(self, request: Request) -> dict[str, Any]:
        return self._verbs.show()

    def start(self, request: Request) -> dict[str, Any]:
        return self._verbs.start(Fields(request, "kind").text("kind"))
