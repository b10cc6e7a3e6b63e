"""The control API: HTTP with JSON bodies, version 1, as a WSGI application.

    GET    /                                    {"versions": ["v1"]}
    GET    /v1/status
    GET    /v1/domain                           the Domain, its capacity, versions
    GET    /v1/volumes[?all=true]               {"volumes": [...]}; all shows hidden ones, too
    POST   /v1/volumes                          {"name", "size"?, "from": {"volume", "snapshot"?}?,
                                                 "sco_size"?, "limits"?, "preset"?}
    GET    /v1/volumes/REF                      REF: name or UUID
    PATCH  /v1/volumes/REF                      {"size"}, {"template": true | false}, {"name"} or
                                                {"multi_attach": true | false}
    DELETE /v1/volumes/REF[?cascade=true]       {"deleted": whether there was something}
    PUT    /v1/volumes/REF/limits               {"limits": {...} | null}, see `qos.py`
    POST   /v1/volumes/REF/revert               {"snapshot"}
    PUT    /v1/volumes/REF/attachment           {"mode": "edge" | "file" | "direct", "read_only"?,
                                                "holder"?, "shared"?, "preempt"?, "reconnects"?}
    DELETE /v1/volumes/REF/attachment[?holder=HOLDER][?everybody=true]
    POST   /v1/volumes/REF/attachment/reconnect {}: guests over NBD connect again, see its size
    GET    /v1/volumes/REF/snapshots            {"snapshots": [...]}
    POST   /v1/volumes/REF/snapshots            {"name"}
    DELETE /v1/volumes/REF/snapshots/SNAPSHOT   {"deleted": whether there was something}
    PATCH  /v1/volumes/REF/snapshots/SNAPSHOT   {"name"}
    GET    /v1/volumes/REF/snapshots/SNAPSHOT/diff[?since=SNAPSHOT]
                                                {"extents": [[offset, length], ...]}
    GET    /v1/snapshots                        {"snapshots": [...]} of all volumes
    POST   /v1/snapshots                        {"members": [[volume, name], ...]}, at one instant

Domains, nodes and what could happen to them: see `api_cluster.py`.

Verbs on a volume answer with the volume, verbs on a snapshot with the snapshot, as `status.py`
describes them. An error answers {"error": {"code", "what", "why", "fix"}}. Sizes are bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from ovs_daemon.control.api_cluster import cluster_routes
from ovs_daemon.control.api_osds import osd_routes
from ovs_daemon.control.api_presets import preset_routes
from ovs_daemon.control.api_upkeep import upkeep_routes
from ovs_daemon.control.fields import Fields, bad, flag
from ovs_daemon.control.records import Mode
from ovs_daemon.control.verbs import Verbs
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.registry import Conflict

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LOG = logging.getLogger(__name__)

_BODY_BYTES_MAX = 1 << 20
_STATUS = {
    Code.BAD_PRESET: HTTPStatus.BAD_REQUEST,
    Code.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    Code.BAD_SIZE: HTTPStatus.BAD_REQUEST,
    Code.BUSY: HTTPStatus.CONFLICT,
    Code.DUPLICATE_NAME: HTTPStatus.CONFLICT,
    Code.EDGE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.IN_USE: HTTPStatus.CONFLICT,
    Code.NOT_HERE: HTTPStatus.CONFLICT,
    Code.NOT_IN_SYNC: HTTPStatus.CONFLICT,
    Code.READ_ONLY: HTTPStatus.CONFLICT,
    Code.REGISTRY: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.UNKNOWN_DOMAIN: HTTPStatus.NOT_FOUND,
    Code.UNKNOWN_NODE: HTTPStatus.NOT_FOUND,
    Code.UNKNOWN_OSD: HTTPStatus.NOT_FOUND,
    Code.UNKNOWN_PRESET: HTTPStatus.NOT_FOUND,
    Code.UNKNOWN_SNAPSHOT: HTTPStatus.NOT_FOUND,
    Code.UNKNOWN_VOLUME: HTTPStatus.NOT_FOUND,
}


class Api:
    """The WSGI application."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._routes = Map(
            [
                Rule("/", methods=["GET"], endpoint=self._versions),
                Rule("/v1/status", methods=["GET"], endpoint=self._status),
                Rule("/v1/domain", methods=["GET"], endpoint=self._domain),
                Rule("/v1/volumes", methods=["GET"], endpoint=self._list_volumes),
                Rule("/v1/volumes", methods=["POST"], endpoint=self._create_volume),
                Rule("/v1/volumes/<ref>", methods=["GET"], endpoint=self._show_volume),
                Rule("/v1/volumes/<ref>", methods=["PATCH"], endpoint=self._change_volume),
                Rule("/v1/volumes/<ref>", methods=["DELETE"], endpoint=self._delete_volume),
                Rule("/v1/volumes/<ref>/limits", methods=["PUT"], endpoint=self._set_limits),
                Rule("/v1/volumes/<ref>/revert", methods=["POST"], endpoint=self._revert),
                Rule("/v1/volumes/<ref>/attachment", methods=["PUT"], endpoint=self._attach),
                Rule("/v1/volumes/<ref>/attachment", methods=["DELETE"], endpoint=self._detach),
                Rule(
                    "/v1/volumes/<ref>/attachment/reconnect",
                    methods=["POST"],
                    endpoint=self._reconnect,
                ),
                Rule("/v1/volumes/<ref>/snapshots", methods=["GET"], endpoint=self._list_snapshots),
                Rule("/v1/volumes/<ref>/snapshots", methods=["POST"], endpoint=self._snapshot),
                Rule(
                    "/v1/volumes/<ref>/snapshots/<snapshot>",
                    methods=["DELETE"],
                    endpoint=self._delete_snapshot,
                ),
                Rule(
                    "/v1/volumes/<ref>/snapshots/<snapshot>",
                    methods=["PATCH"],
                    endpoint=self._rename_snapshot,
                ),
                Rule(
                    "/v1/volumes/<ref>/snapshots/<snapshot>/diff",
                    methods=["GET"],
                    endpoint=self._diff,
                ),
                Rule("/v1/snapshots", methods=["GET"], endpoint=self._list_all_snapshots),
                Rule("/v1/snapshots", methods=["POST"], endpoint=self._snapshot_several),
                *cluster_routes(verbs.cluster),
                *preset_routes(verbs.presets),
                *osd_routes(verbs.osds),
                *upkeep_routes(verbs.upkeep),
            ],
            strict_slashes=False,
        )

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request, answered as WSGI (PEP 3333) asks."""
        request = Request(environ)
        request.max_content_length = _BODY_BYTES_MAX
        return self._answer(request)(environ, start_response)

    def _answer(self, request: Request) -> Response:
        what = f"{request.method} {request.path}"
        try:
            handler, arguments = self._routes.bind_to_environ(request.environ).match()
            return _json(HTTPStatus.OK, handler(request, **arguments))
        except VStorageError as failure:
            LOG.info("%s: %s", what, failure)
            return _failure(_http_status(failure), failure)
        except Conflict as conflict:
            why = f"somebody else changed it at the same time ({conflict})"
            return _failure(HTTPStatus.CONFLICT, VStorageError(Code.BUSY, what, why, "try again"))
        except HTTPException as refusal:
            status_code = refusal.code or HTTPStatus.BAD_REQUEST
            return _failure(status_code, bad(what, refusal.description or refusal.name))
        except Exception as bug:
            LOG.exception("%s failed", what)
            why = f"{type(bug).__name__}: {bug}"
            fix = "see the daemon's log, and report it"
            return _failure(
                HTTPStatus.INTERNAL_SERVER_ERROR, VStorageError(Code.INTERNAL, what, why, fix)
            )

    def _versions(self, request: Request) -> dict[str, Any]:
        return {"versions": ["v1"]}

    def _status(self, request: Request) -> dict[str, Any]:
        return self._verbs.status()

    def _domain(self, request: Request) -> dict[str, Any]:
        return self._verbs.get_domain()

    def _list_volumes(self, request: Request) -> dict[str, Any]:
        return self._verbs.list_volumes(flag(request, "all"))

    def _create_volume(self, request: Request) -> dict[str, Any]:
        fields = Fields(request, "name", "size", "from", "sco_size", "limits", "preset")
        source: dict[str, Any] | None = None
        if fields.has("from"):
            origin = fields.inner("from", "volume", "snapshot")
            source = {
                "volume": origin.text("volume"),
                "snapshot": origin.text_or_none("snapshot"),
            }
        return self._verbs.create_volume(
            fields.text("name"),
            fields.integer_or_none("size"),
            source,
            fields.integer_or_none("sco_size"),
            fields.object_or_none("limits"),
            fields.text_or_none("preset"),
        )

    def _show_volume(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.show_volume(ref)

    def _change_volume(self, request: Request, ref: str) -> dict[str, Any]:
        known = ("size", "template", "multi_attach", "name")
        fields = Fields(request, *known)
        match [name for name in known if fields.has(name)]:
            case ["size"]:
                return self._verbs.resize_volume(ref, fields.integer("size"))
            case ["template"]:
                return self._verbs.set_template(ref, fields.flag("template"))
            case ["multi_attach"]:
                return self._verbs.set_multi_attach(ref, fields.flag("multi_attach"))
            case ["name"]:
                return self._verbs.rename_volume(ref, fields.text("name"))
        raise bad(fields.what, f"give exactly one of {', '.join(known)}")

    def _set_limits(self, request: Request, ref: str) -> dict[str, Any]:
        fields = Fields(request, "limits")
        return self._verbs.set_limits(ref, fields.object_or_none("limits"))

    def _delete_volume(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.delete_volume(ref, flag(request, "cascade"))

    def _revert(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.revert_volume(ref, Fields(request, "snapshot").text("snapshot"))

    def _attach(self, request: Request, ref: str) -> dict[str, Any]:
        flags = ("read_only", "shared", "preempt", "reconnects")
        fields = Fields(request, "mode", "holder", *flags)
        mode = fields.text("mode")
        if mode not in list(Mode):
            raise bad(fields.what, f"'mode' is {mode!r}, not one of {', '.join(Mode)}")
        given = {name: fields.flag(name) for name in flags if fields.has(name)}
        return self._verbs.attach_volume(ref, mode, fields.text_or_none("holder"), **given)

    def _detach(self, request: Request, ref: str) -> dict[str, Any]:
        holder = request.args.get("holder")
        return self._verbs.detach_volume(ref, holder, flag(request, "everybody"))

    def _reconnect(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.reconnect_volume(ref)

    def _list_snapshots(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.list_snapshots(ref)

    def _list_all_snapshots(self, request: Request) -> dict[str, Any]:
        return self._verbs.list_snapshots()

    def _snapshot(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.create_snapshot(ref, Fields(request, "name").text("name"))

    def _snapshot_several(self, request: Request) -> dict[str, Any]:
        fields = Fields(request, "members")
        return self._verbs.create_snapshots(fields.pairs("members"))

    def _rename_snapshot(self, request: Request, ref: str, snapshot: str) -> dict[str, Any]:
        name = Fields(request, "name").text("name")
        return self._verbs.rename_snapshot(ref, snapshot, name)

    def _delete_snapshot(self, request: Request, ref: str, snapshot: str) -> dict[str, Any]:
        return self._verbs.delete_snapshot(ref, snapshot)

    def _diff(self, request: Request, ref: str, snapshot: str) -> dict[str, Any]:
        return self._verbs.diff_snapshots(ref, request.args.get("since"), snapshot)


def _http_status(failure: VStorageError) -> HTTPStatus:
    if failure.code in list(Code):
        return _STATUS.get(Code(failure.code), HTTPStatus.INTERNAL_SERVER_ERROR)
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _failure(code: int, failure: VStorageError) -> Response:
    return _json(code, {"error": failure.to_dict()})


def _json(code: int, body: Mapping[str, Any]) -> Response:
    return Response(json.dumps(body) + "\n", status=int(code), content_type="application/json")
