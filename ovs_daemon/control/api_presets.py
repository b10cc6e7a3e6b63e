"""The control API's part about presets.

    GET    /v1/presets                          {"presets": [...]}
    POST   /v1/presets                          {"name", "policies": [{"k", "m", "c", "x",
                                                 "domains", "local"}], "fragment_size", "sco_size",
                                                 "compression"?, "encryption"?,
                                                 "cache_on_write"?}
    GET    /v1/presets/NAME
    DELETE /v1/presets/NAME                     {"deleted": true}
    POST   /v1/presets/NAME/check               {"cluster": [{"domain", "node", "disks"}]}

Presets are described as in `presets.py`. Sizes are bytes.
"""

from __future__ import annotations

from typing import Any

from werkzeug.routing import Rule
from werkzeug.wrappers import Request

from ovs_daemon.control.fields import Fields
from ovs_daemon.control.presets import PresetVerbs


def preset_routes(verbs: PresetVerbs) -> list[Rule]:
    """The routes, for the API's map."""
    routes = _Routes(verbs)
    return [
        Rule("/v1/presets", methods=["GET"], endpoint=routes.list_presets),
        Rule("/v1/presets", methods=["POST"], endpoint=routes.create_preset),
        Rule("/v1/presets/<name>", methods=["GET"], endpoint=routes.show_preset),
        Rule("/v1/presets/<name>", methods=["DELETE"], endpoint=routes.delete_preset),
        Rule("/v1/presets/<name>/check", methods=["POST"], endpoint=routes.check_preset),
    ]


class _Routes:
    """One handler for each route."""

    def __init__(self, verbs: PresetVerbs) -> None:
        self._verbs = verbs

    def list_presets(self, request: Request) -> dict[str, Any]:
        return self._verbs.list_presets()

    def create_preset(self, request: Request) -> dict[str, Any]:
        sizes = ("fragment_size", "sco_size")
        how = ("compression", "encryption", "cache_on_write")
        fields = Fields(request, "name", "policies", *sizes, *how)
        return self._verbs.create_preset(
            fields.text("name"),
            fields.objects("policies"),
            fields.integer("fragment_size"),
            fields.integer("sco_size"),
            fields.text_or_none("compression") or "none",
            fields.text_or_none("encryption") or "none",
            fields.has("cache_on_write") and fields.flag("cache_on_write"),
        )

    def show_preset(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.show_preset(name)

    def delete_preset(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.delete_preset(name)

    def check_preset(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.check_preset(name, Fields(request, "cluster").objects("cluster"))
