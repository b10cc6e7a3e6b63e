"""The control API's part about the cluster.

    GET    /v1/domains                          {"domains": [...]}
    POST   /v1/domains                          {"name", "description"?, "availability_zone"?}
    GET    /v1/domains/NAME
    PATCH  /v1/domains/NAME                     {"description"?, "availability_zone"?}; "": none
    DELETE /v1/domains/NAME                     {"deleted": true}
    GET    /v1/nodes                            {"nodes": [...]}
    GET    /v1/nodes/NAME
    PATCH  /v1/nodes/NAME                       {"domain"?, "recovery_domain"?, "roles"?}; "": none
    DELETE /v1/nodes/NAME                       {"deleted": true}
    GET    /v1/nodes/NAME/drain                 what would empty it
    PUT    /v1/nodes/NAME/drain                 have it emptied; answers the same
    DELETE /v1/nodes/NAME/drain                 let it get new things again
    GET    /v1/what-if?lose=NAME                what the loss of a node or a Domain would do
    PUT    /v1/volumes/REF/dtl                  {"mode": "sync" | "async" | "none"}; ask its owner
    POST   /v1/volumes/REF/move                 {"node"}; ask its owner
    POST   /v1/volumes/REF/takeover             {"accept_loss"?}; ask the node that is to have it

Domains and nodes are described as in `domains.py` and `nodes.py`, what could happen to them as in
`outlook.py`.
"""

from __future__ import annotations

from typing import Any

from werkzeug.routing import Rule
from werkzeug.wrappers import Request

from ovs_daemon.control.cluster import ClusterVerbs
from ovs_daemon.control.fields import Fields, bad


def cluster_routes(verbs: ClusterVerbs) -> list[Rule]:
    """The routes, for the API's map."""
    routes = _Routes(verbs)
    return [
        Rule("/v1/domains", methods=["GET"], endpoint=routes.list_domains),
        Rule("/v1/domains", methods=["POST"], endpoint=routes.create_domain),
        Rule("/v1/domains/<name>", methods=["GET"], endpoint=routes.show_domain),
        Rule("/v1/domains/<name>", methods=["PATCH"], endpoint=routes.set_domain),
        Rule("/v1/domains/<name>", methods=["DELETE"], endpoint=routes.delete_domain),
        Rule("/v1/nodes", methods=["GET"], endpoint=routes.list_nodes),
        Rule("/v1/nodes/<name>", methods=["GET"], endpoint=routes.show_node),
        Rule("/v1/nodes/<name>", methods=["PATCH"], endpoint=routes.set_node),
        Rule("/v1/nodes/<name>", methods=["DELETE"], endpoint=routes.delete_node),
        Rule("/v1/nodes/<name>/drain", methods=["GET"], endpoint=routes.plan_drain),
        Rule("/v1/nodes/<name>/drain", methods=["PUT"], endpoint=routes.drain_node),
        Rule("/v1/nodes/<name>/drain", methods=["DELETE"], endpoint=routes.resume_node),
        Rule("/v1/volumes/<ref>/dtl", methods=["PUT"], endpoint=routes.set_dtl_mode),
        Rule("/v1/volumes/<ref>/move", methods=["POST"], endpoint=routes.move_volume),
        Rule("/v1/volumes/<ref>/takeover", methods=["POST"], endpoint=routes.take_over_volume),
        Rule("/v1/what-if", methods=["GET"], endpoint=routes.what_if),
    ]


class _Routes:
    """One handler for each route."""

    def __init__(self, verbs: ClusterVerbs) -> None:
        self._verbs = verbs

    def list_domains(self, request: Request) -> dict[str, Any]:
        return self._verbs.list_domains()

    def create_domain(self, request: Request) -> dict[str, Any]:
        fields = Fields(request, "name", "description", "availability_zone")
        return self._verbs.create_domain(
            fields.text("name"),
            fields.text_or_none("description"),
            fields.text_or_none("availability_zone"),
        )

    def show_domain(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.show_domain(name)

    def set_domain(self, request: Request, name: str) -> dict[str, Any]:
        fields = Fields(request, "description", "availability_zone")
        if not (fields.has("description") or fields.has("availability_zone")):
            raise bad(fields.what, "give a description or an availability_zone")
        return self._verbs.set_domain(
            name, fields.text_or_none("description"), fields.text_or_none("availability_zone")
        )

    def delete_domain(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.delete_domain(name)

    def list_nodes(self, request: Request) -> dict[str, Any]:
        return self._verbs.list_nodes()

    def show_node(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.show_node(name)

    def set_node(self, request: Request, name: str) -> dict[str, Any]:
        known = ("domain", "recovery_domain", "roles")
        fields = Fields(request, *known)
        if not any(fields.has(field) for field in known):
            raise bad(fields.what, f"give one of {', '.join(known)}")
        return self._verbs.set_node(
            name,
            fields.text_or_none("domain"),
            fields.text_or_none("recovery_domain"),
            fields.texts("roles") if fields.has("roles") else None,
        )

    def delete_node(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.delete_node(name)

    def plan_drain(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.plan_drain(name)

    def what_if(self, request: Request) -> dict[str, Any]:
        lost = request.args.get("lose")
        if not lost:
            raise bad(f"{request.method} {request.path}", "'lose' names no node and no Domain")
        return self._verbs.what_if(lost)

    def drain_node(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.drain_node(name)

    def resume_node(self, request: Request, name: str) -> dict[str, Any]:
        return self._verbs.resume_node(name)

    def move_volume(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.move_volume(ref, Fields(request, "node").text("node"))

    def take_over_volume(self, request: Request, ref: str) -> dict[str, Any]:
        fields = Fields(request, "accept_loss")
        accept_loss = fields.has("accept_loss") and fields.flag("accept_loss")
        return self._verbs.take_over_volume(ref, accept_loss)

    def set_dtl_mode(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.set_dtl_mode(ref, Fields(request, "mode").text("mode"))
