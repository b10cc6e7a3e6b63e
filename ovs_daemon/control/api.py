"""The control API: HTTP with JSON bodies, version 1, as a WSGI application.

    GET    /                                    {"versions": ["v1"]}
    GET    /v1/status
    GET    /v1/domain                           the Domain, its capacity, versions
    GET    /v1/volumes[?all=true]               {"volumes": [...]}; all shows hidden ones, too
    POST   /v1/volumes                          {"name", "size"?, "from": {"volume", "snapshot"?}?,
                                                 "sco_size"?, "limits"?}
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

Verbs on a volume answer with the volume, verbs on a snapshot with the snapshot, as `status.py`
describes them. An error answers {"error": {"code", "what", "why", "fix"}}. Sizes are bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from ovs_daemon.control.records import Mode
from ovs_daemon.control.verbs import Verbs
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.registry import Conflict

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LOG = logging.getLogger(__name__)

_Kind = TypeVar("_Kind", str, int, bool)

_JSON_TYPES: Mapping[type, str] = {str: "a text", int: "a whole number", bool: "true or false"}
_BODY_BYTES_MAX = 1 << 20
_STATUS = {
    Code.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    Code.BAD_SIZE: HTTPStatus.BAD_REQUEST,
    Code.BUSY: HTTPStatus.CONFLICT,
    Code.DUPLICATE_NAME: HTTPStatus.CONFLICT,
    Code.EDGE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.IN_USE: HTTPStatus.CONFLICT,
    Code.READ_ONLY: HTTPStatus.CONFLICT,
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
            return _failure(status_code, _bad(what, refusal.description or refusal.name))
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
        return self._verbs.list_volumes(_flag(request, "all"))

    def _create_volume(self, request: Request) -> dict[str, Any]:
        fields = _Fields(request, "name", "size", "from", "sco_size", "limits")
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
        )

    def _show_volume(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.show_volume(ref)

    def _change_volume(self, request: Request, ref: str) -> dict[str, Any]:
        known = ("size", "template", "multi_attach", "name")
        fields = _Fields(request, *known)
        match [name for name in known if fields.has(name)]:
            case ["size"]:
                return self._verbs.resize_volume(ref, fields.integer("size"))
            case ["template"]:
                return self._verbs.set_template(ref, fields.flag("template"))
            case ["multi_attach"]:
                return self._verbs.set_multi_attach(ref, fields.flag("multi_attach"))
            case ["name"]:
                return self._verbs.rename_volume(ref, fields.text("name"))
        raise _bad(fields.what, f"give exactly one of {', '.join(known)}")

    def _set_limits(self, request: Request, ref: str) -> dict[str, Any]:
        fields = _Fields(request, "limits")
        return self._verbs.set_limits(ref, fields.object_or_none("limits"))

    def _delete_volume(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.delete_volume(ref, _flag(request, "cascade"))

    def _revert(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.revert_volume(ref, _Fields(request, "snapshot").text("snapshot"))

    def _attach(self, request: Request, ref: str) -> dict[str, Any]:
        flags = ("read_only", "shared", "preempt", "reconnects")
        fields = _Fields(request, "mode", "holder", *flags)
        mode = fields.text("mode")
        if mode not in list(Mode):
            raise _bad(fields.what, f"'mode' is {mode!r}, not one of {', '.join(Mode)}")
        given = {name: fields.flag(name) for name in flags if fields.has(name)}
        return self._verbs.attach_volume(ref, mode, fields.text_or_none("holder"), **given)

    def _detach(self, request: Request, ref: str) -> dict[str, Any]:
        holder = request.args.get("holder")
        return self._verbs.detach_volume(ref, holder, _flag(request, "everybody"))

    def _reconnect(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.reconnect_volume(ref)

    def _list_snapshots(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.list_snapshots(ref)

    def _list_all_snapshots(self, request: Request) -> dict[str, Any]:
        return self._verbs.list_snapshots()

    def _snapshot(self, request: Request, ref: str) -> dict[str, Any]:
        return self._verbs.create_snapshot(ref, _Fields(request, "name").text("name"))

    def _snapshot_several(self, request: Request) -> dict[str, Any]:
        fields = _Fields(request, "members")
        return self._verbs.create_snapshots(fields.pairs("members"))

    def _rename_snapshot(self, request: Request, ref: str, snapshot: str) -> dict[str, Any]:
        name = _Fields(request, "name").text("name")
        return self._verbs.rename_snapshot(ref, snapshot, name)

    def _delete_snapshot(self, request: Request, ref: str, snapshot: str) -> dict[str, Any]:
        return self._verbs.delete_snapshot(ref, snapshot)

    def _diff(self, request: Request, ref: str, snapshot: str) -> dict[str, Any]:
        return self._verbs.diff_snapshots(ref, request.args.get("since"), snapshot)


class _Fields:
    """A JSON object with known fields, each of a known type; anything else is refused."""

    def __init__(self, source: Request | tuple[str, Any], *known: str) -> None:
        if isinstance(source, Request):
            self.what = f"{source.method} {source.path}"
            try:
                body = json.loads(source.get_data() or b"{}")
            except ValueError as failure:
                raise _bad(self.what, f"the body is not JSON ({failure})") from failure
        else:
            self.what, body = source
        if not isinstance(body, dict):
            raise _bad(self.what, "a JSON object was expected")
        unknown = sorted(body.keys() - set(known))
        if unknown:
            raise _bad(self.what, f"unknown fields {', '.join(unknown)}")
        self._body: Mapping[str, Any] = body

    def has(self, name: str) -> bool:
        return self._body.get(name) is not None

    def text(self, name: str) -> str:
        return self._typed(name, str)

    def text_or_none(self, name: str) -> str | None:
        return self.text(name) if self.has(name) else None

    def integer(self, name: str) -> int:
        return self._typed(name, int)

    def integer_or_none(self, name: str) -> int | None:
        return self.integer(name) if self.has(name) else None

    def object_or_none(self, name: str) -> dict[str, Any] | None:
        value = self._body.get(name)
        if value is not None and not isinstance(value, dict):
            raise _bad(self.what, f"{name!r} must be an object, not {value!r}")
        return value

    def pairs(self, name: str) -> list[tuple[str, str]]:
        value = self._body.get(name)
        match value:
            case list() if all(_is_pair(one) for one in value):
                return [(first, second) for first, second in value]
        raise _bad(self.what, f"{name!r} must be a list of pairs of texts")

    def flag(self, name: str) -> bool:
        return self._typed(name, bool)

    def inner(self, name: str, *known: str) -> _Fields:
        return _Fields((f"{self.what} ({name})", self._body.get(name)), *known)

    def _typed(self, name: str, kind: type[_Kind]) -> _Kind:
        value = self._body.get(name)
        # JSON's true is an int to Python, but not to the one who sent it.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _bad(self.what, f"{name!r} must be {_JSON_TYPES[kind]}, not {value!r}")
        return value


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and [type(one) for one in value] == [str, str]


def _flag(request: Request, name: str) -> bool:
    text = request.args.get(name, "false")
    if text not in ("true", "false"):
        raise _bad(f"{request.method} {request.path}", f"{name!r} is neither true nor false")
    return text == "true"


def _bad(what: str, why: str) -> VStorageError:
    return VStorageError(Code.BAD_REQUEST, what, why, "correct the request")


def _http_status(failure: VStorageError) -> HTTPStatus:
    if failure.code in list(Code):
        return _STATUS.get(Code(failure.code), HTTPStatus.INTERNAL_SERVER_ERROR)
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _failure(code: int, failure: VStorageError) -> Response:
    return _json(code, {"error": failure.to_dict()})


def _json(code: int, body: Mapping[str, Any]) -> Response:
    return Response(json.dumps(body) + "\n", status=int(code), content_type="application/json")
