"""The control API: HTTP with JSON bodies, version 1, as a WSGI application.

    GET    /                                    {"versions": ["v1"]}
    GET    /v1/status
    GET    /v1/volumes[?all=true]               {"volumes": [...]}; all shows hidden ones, too
    POST   /v1/volumes                          {"name", "size"?, "from": {"volume", "snapshot"?}?}
    GET    /v1/volumes/REF                      REF: name or UUID
    PATCH  /v1/volumes/REF                      {"size"}, {"template": true | false} or
                                                {"multi_attach": true | false}
    DELETE /v1/volumes/REF[?cascade=true]       {"deleted": whether there was something}
    POST   /v1/volumes/REF/revert               {"snapshot"}
    PUT    /v1/volumes/REF/attachment           {"mode": "edge" | "file" | "direct", "read_only"?,
                                                "holder"?, "shared"?, "preempt"?, "reconnects"?}
    DELETE /v1/volumes/REF/attachment[?holder=HOLDER][?everybody=true]
    POST   /v1/volumes/REF/attachment/reconnect {}: guests over NBD connect again, see its size
    GET    /v1/volumes/REF/snapshots            {"snapshots": [...]}
    POST   /v1/volumes/REF/snapshots            {"name"}
    DELETE /v1/volumes/REF/snapshots/SNAPSHOT   {"deleted": whether there was something}
    GET    /v1/snapshots                        {"snapshots": [...]} of all volumes

Verbs on a volume answer with the volume, verbs on a snapshot with the snapshot, as `status.py`
describes them. An error answers {"error": {"code", "what", "why", "fix"}}. Sizes are bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from ovs_daemon.control import attachments, snapshots, volumes
from ovs_daemon.control.host import Host
from ovs_daemon.control.records import LOCAL, Mode, Volume
from ovs_daemon.control.status import describe_snapshot, describe_volume, status
from ovs_daemon.control.volumes import Source
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
    """The WSGI application.

    :param edge_connected: whether the Edge process answers at this moment
    """

    def __init__(self, host: Host, edge_connected: Callable[[], bool]) -> None:
        self._host = host
        self._edge_connected = edge_connected
        self._routes = Map(
            [
                Rule("/", methods=["GET"], endpoint=self._versions),
                Rule("/v1/status", methods=["GET"], endpoint=self._status),
                Rule("/v1/volumes", methods=["GET"], endpoint=self._list_volumes),
                Rule("/v1/volumes", methods=["POST"], endpoint=self._create_volume),
                Rule("/v1/volumes/<ref>", methods=["GET"], endpoint=self._show_volume),
                Rule("/v1/volumes/<ref>", methods=["PATCH"], endpoint=self._change_volume),
                Rule("/v1/volumes/<ref>", methods=["DELETE"], endpoint=self._delete_volume),
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
                Rule("/v1/snapshots", methods=["GET"], endpoint=self._list_all_snapshots),
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
        return status(self._host, self._edge_connected())

    def _list_volumes(self, request: Request) -> dict[str, Any]:
        everything = _flag(request, "all")
        chosen = [one for one in self._host.store.volumes() if everything or one.listed]
        return {"volumes": [self._describe(volume) for volume in chosen]}

    def _create_volume(self, request: Request) -> dict[str, Any]:
        fields = _Fields(request, "name", "size", "from")
        source: Source | None = None
        if fields.has("from"):
            origin = fields.inner("from", "volume", "snapshot")
            source = Source(origin.text("volume"), origin.text_or_none("snapshot"))
        size = fields.integer("size") if fields.has("size") else None
        return self._describe(volumes.create_volume(self._host, fields.text("name"), size, source))

    def _show_volume(self, request: Request, ref: str) -> dict[str, Any]:
        volume = self._host.require(f"show volume {ref!r}", ref)
        counters = self._host.engine.status().get("volumes", [])
        mine = [one for one in counters if one["uuid"] == volume.uuid]
        return {**self._describe(volume), "counters": mine[0] if mine else None}

    def _change_volume(self, request: Request, ref: str) -> dict[str, Any]:
        known = ("size", "template", "multi_attach")
        fields = _Fields(request, *known)
        match [name for name in known if fields.has(name)]:
            case ["size"]:
                changed = volumes.resize_volume(self._host, ref, fields.integer("size"))
            case ["template"]:
                changed = volumes.set_template(self._host, ref, fields.flag("template"))
            case ["multi_attach"]:
                flag = fields.flag("multi_attach")
                changed = attachments.set_multi_attach(self._host, ref, flag)
            case _:
                raise _bad(fields.what, f"give exactly one of {', '.join(known)}")
        return self._describe(changed)

    def _delete_volume(self, request: Request, ref: str) -> dict[str, Any]:
        return {"deleted": volumes.delete_volume(self._host, ref, _flag(request, "cascade"))}

    def _revert(self, request: Request, ref: str) -> dict[str, Any]:
        fields = _Fields(request, "snapshot")
        return self._describe(volumes.revert_volume(self._host, ref, fields.text("snapshot")))

    def _attach(self, request: Request, ref: str) -> dict[str, Any]:
        flags = ("read_only", "shared", "preempt", "reconnects")
        fields = _Fields(request, "mode", "holder", *flags)
        mode = fields.text("mode")
        if mode not in list(Mode):
            raise _bad(fields.what, f"'mode' is {mode!r}, not one of {', '.join(Mode)}")
        holder = fields.text_or_none("holder") or LOCAL
        given = {name: fields.flag(name) for name in flags if fields.has(name)}
        wish = attachments.Wish(Mode(mode), holder=holder, **given)
        return describe_volume(self._host, attachments.attach(self._host, ref, wish), holder)

    def _detach(self, request: Request, ref: str) -> dict[str, Any]:
        holder = request.args.get("holder")
        everybody = _flag(request, "everybody")
        return self._describe(attachments.detach(self._host, ref, holder, everybody))

    def _reconnect(self, request: Request, ref: str) -> dict[str, Any]:
        _Fields(request)
        return self._describe(attachments.reconnect(self._host, ref))

    def _list_snapshots(self, request: Request, ref: str) -> dict[str, Any]:
        volume = self._host.require(f"list the snapshots of volume {ref!r}", ref)
        found = self._host.store.snapshots(volume.uuid)
        return {"snapshots": [describe_snapshot(volume, one) for one in found if one.listed]}

    def _list_all_snapshots(self, request: Request) -> dict[str, Any]:
        owners = {volume.uuid: volume for volume in self._host.store.volumes()}
        found = [one for one in self._host.store.snapshots() if one.listed and one.volume in owners]
        return {"snapshots": [describe_snapshot(owners[one.volume], one) for one in found]}

    def _snapshot(self, request: Request, ref: str) -> dict[str, Any]:
        name = _Fields(request, "name").text("name")
        snapshot = snapshots.create_snapshot(self._host, ref, name)
        return describe_snapshot(self._host.require(f"show volume {ref!r}", ref), snapshot)

    def _delete_snapshot(self, request: Request, ref: str, snapshot: str) -> dict[str, Any]:
        return {"deleted": snapshots.delete_snapshot(self._host, ref, snapshot)}

    def _describe(self, volume: Volume) -> dict[str, Any]:
        return describe_volume(self._host, volume)


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
