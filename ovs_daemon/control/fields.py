"""What a request of the control API holds, checked: fields of a JSON body, flags of the query.

Everything here raises :class:`VStorageError` ``bad_request``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from werkzeug.wrappers import Request

from ovs_daemon.errors import Code, VStorageError

_Kind = TypeVar("_Kind", str, int, bool)

_JSON_TYPES: Mapping[type, str] = {str: "a text", int: "a whole number", bool: "true or false"}


class Fields:
    """A JSON object with known fields, each of a known type; anything else is refused."""

    def __init__(self, source: Request | tuple[str, Any], *known: str) -> None:
        if isinstance(source, Request):
            self.what = f"{source.method} {source.path}"
            try:
                body = json.loads(source.get_data() or b"{}")
            except ValueError as failure:
                raise bad(self.what, f"the body is not JSON ({failure})") from failure
        else:
            self.what, body = source
        if not isinstance(body, dict):
            raise bad(self.what, "a JSON object was expected")
        unknown = sorted(body.keys() - set(known))
        if unknown:
            raise bad(self.what, f"unknown fields {', '.join(unknown)}")
        self._body: Mapping[str, Any] = body

    def has(self, name: str) -> bool:
        """Whether it is given, and not null."""
        return self._body.get(name) is not None

    def text(self, name: str) -> str:
        """A text."""
        return self._typed(name, str)

    def text_or_none(self, name: str) -> str | None:
        """A text, if it is given."""
        return self.text(name) if self.has(name) else None

    def integer(self, name: str) -> int:
        """A whole number."""
        return self._typed(name, int)

    def integer_or_none(self, name: str) -> int | None:
        """A whole number, if it is given."""
        return self.integer(name) if self.has(name) else None

    def object_or_none(self, name: str) -> dict[str, Any] | None:
        """A JSON object, if it is given."""
        value = self._body.get(name)
        if value is not None and not isinstance(value, dict):
            raise bad(self.what, f"{name!r} must be an object, not {value!r}")
        return value

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of JSON objects."""
        value = self._body.get(name)
        match value:
            case list() if all(isinstance(one, dict) for one in value):
                return value
        raise bad(self.what, f"{name!r} must be a list of objects")

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self._body.get(name)
        match value:
            case list() if all(isinstance(one, str) for one in value):
                return value
        raise bad(self.what, f"{name!r} must be a list of texts")

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """A list of pairs of texts."""
        value = self._body.get(name)
        match value:
            case list() if all(_is_pair(one) for one in value):
                return [(first, second) for first, second in value]
        raise bad(self.what, f"{name!r} must be a list of pairs of texts")

    def flag(self, name: str) -> bool:
        """true or false."""
        return self._typed(name, bool)

    def inner(self, name: str, *known: str) -> Fields:
        """A JSON object with known fields of its own."""
        return Fields((f"{self.what} ({name})", self._body.get(name)), *known)

    def _typed(self, name: str, kind: type[_Kind]) -> _Kind:
        value = self._body.get(name)
        # JSON's true is an int to Python, but not to the one who sent it.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise bad(self.what, f"{name!r} must be {_JSON_TYPES[kind]}, not {value!r}")
        return value


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and [type(one) for one in value] == [str, str]


def flag(request: Request, name: str) -> bool:
    """A parameter of the query that is true or false; false when it is not given."""
    text = request.args.get(name, "false")
    if text not in ("true", "false"):
        raise bad(f"{request.method} {request.path}", f"{name!r} is neither true nor false")
    return text == "true"


def bad(what: str, why: str) -> VStorageError:
    """The error for a request that cannot be understood."""
    return VStorageError(Code.BAD_REQUEST, what, why, "correct the request")
