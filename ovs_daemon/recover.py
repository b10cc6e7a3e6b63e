"""Objects from the folders of OSDs, without any daemon and without this project's Rust code.

For the day on which nothing else works. The fragments are files in liberasurecode's own format
behind a header page (`doc/format.md`), so that pyeclib decodes them: of each piece of an object
k of its k + m fragments, after the fragments of a Domain that its local parity still gives back.
What was damaged on its disk is noticed by its checksum and left out. Objects that are compressed or
encrypted are unsealed (`unseal.py`).

A delete marks what OSDs that are away would bring back (`<generation>.deleted`, `log.deleted`). A
mark on any of the OSDs outweighs the fragments on all: the daemons would remove those, so here they
count as deleted.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.unseal import Keys, Unsealable, unseal

_PAGE = 4096
_SEALED_AT = 18
_ERASURE_AT = 4016
_ERASURE_BYTES = 80
_METADATA_BYTES = 59
_OBJECT = ".obj"
_LOG_MARK = "log.deleted"
_MARK = re.compile(r"([0-9a-f]{16})\.deleted")
# generation, pieces, k m c domains local, piece, fragment; all hexadecimal
_NAME = re.compile(
    r"([0-9a-f]{16})\.([0-9a-f]{8})\.([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})"
    r"([0-9a-f]{2})\.([0-9a-f]{8})\.([0-9a-f]{2})"
)


@dataclass(frozen=True, order=True)
class Put:
    """What the fragments of one put of an object have in common."""

    generation: int
    pieces: int
    data: int
    parity: int
    acknowledge: int
    domains: int
    local: int

    def members(self, group: int) -> list[int]:
        """Data and global parity fragments of a group, which lies in one Domain."""
        return list(range(group, self.data + self.parity, self.domains))

    def locals(self, group: int) -> list[int]:
        """Local parity fragments of a group."""
        first = self.data + self.parity + group * self.local
        return list(range(first, first + self.local))


# By put, piece and number; several OSDs may have the same fragment, each a copy of its own.
Files = dict[Put, dict[int, dict[int, list[Path]]]]


def _no_files() -> Files:
    return defaultdict(lambda: defaultdict(lambda: defaultdict(list)))


@dataclass(frozen=True)
class Found:
    """Objects of which fragments are in some folders, by name."""

    #: puts that nobody has deleted, as far as can be seen
    standing: dict[str, Files]
    #: puts that were deleted; an object may have puts of both kinds
    deleted: dict[str, Files]

    @property
    def names(self) -> list[str]:
        """All of them."""
        return sorted(self.standing.keys() | self.deleted.keys())


def search(folders: Iterable[Path]) -> Found:
    """All objects of which fragments are in the folders: by put, piece and number their files."""
    objects: dict[str, Files] = defaultdict(_no_files)
    marks: set[tuple[str, int]] = set()
    logs: set[str] = set()
    for folder in folders:
        logs |= {path.parent.name for path in folder.glob(f"*/{_LOG_MARK}")}
        for path in sorted(folder.rglob(f"*{_OBJECT}/*")):
            name = str(path.parent.relative_to(folder))[: -len(_OBJECT)]
            if (mark := _MARK.fullmatch(path.name)) is not None:
                marks.add((name, int(mark[1], 16)))
            match = _NAME.fullmatch(path.name)
            if match is None or not path.is_file():
                continue
            generation, pieces, data, parity, acknowledge, domains, local, piece, fragment = (
                int(text, 16) for text in match.groups()
            )
            put = Put(generation, pieces, data, parity, acknowledge, domains, local)
            objects[name][put][piece][fragment].append(path)
    found = Found({}, {})
    for name, files in sorted(objects.items()):
        of_log = name.partition("/")[0] in logs
        for put, pieces_ in files.items():
            is_deleted = of_log or (name, put.generation) in marks
            puts = found.deleted if is_deleted else found.standing
            puts.setdefault(name, _no_files())[put] = pieces_
    return found


def scan(folders: Iterable[Path]) -> dict[str, Files]:
    """The objects that stand, see `search`."""
    return search(folders).standing


def recover(name: str, files: Files, keys: Keys | None = None) -> Iterator[bytes]:
    """The bytes of an object, piece by piece.

    They are of the put that was acknowledged, as far as can be seen, or else of the latest one that
    can be decoded.

    :param keys: 64 hexadecimal digits by name, for objects that are encrypted
    :raises VStorageError: none of its puts can be
    """
    reasons = []
    for put in sorted(files, key=lambda put: (_is_complete(put, files[put]), put), reverse=True):
        try:
            pieces = [_piece(put, files[put].get(piece, {})) for piece in range(put.pieces)]
            if _is_sealed(files[put]):
                pieces = [unseal(name, b"".join(pieces), keys or {})]
            return iter(pieces)
        except (_Lost, Unsealable) as lost:
            reasons.append(f"put {put.generation:016x}: {lost}")
    raise VStorageError(
        Code.INTERNAL,
        f"recover object {name!r}",
        "; ".join(reasons),
        "give the folders of more OSDs, and all keys by --key-file",
    )


class _Lost(Exception):
    """Too few fragments are left."""


def _is_complete(put: Put, files: dict[int, dict[int, list[Path]]]) -> bool:
    """Whether as many fragments of each piece are there as an acknowledgement asks for."""
    counts = (
        sum(number < put.data + put.parity for number in files.get(piece, {}))
        for piece in range(put.pieces)
    )
    return all(count >= put.acknowledge for count in counts)


def _piece(put: Put, files: dict[int, list[Path]]) -> bytes:
    sound: dict[int, bytes] = {}
    for number, copies in files.items():
        one = next(filter(None, map(_read, copies)), None)
        if one is not None:
            sound[number] = one
    whole = {number: one for number, one in sound.items() if number < put.data + put.parity}
    if len(whole) < put.data and put.local:
        for group in range(put.domains):
            whole |= _heal(put, group, sound)
    if len(whole) < put.data:
        raise _Lost(f"{len(whole)} of {put.data} fragments of a piece are left")
    decoded: bytes = _driver(put.data, put.parity).decode(list(whole.values()))
    return decoded


def _is_sealed(pieces: dict[int, dict[int, list[Path]]]) -> bool:
    """Whether the header pages of most fragments say that the object is sealed."""
    paths = [path for files in pieces.values() for copies in files.values() for path in copies]
    marks = []
    for path in paths:
        with path.open("rb") as file:
            marks.append(file.read(_SEALED_AT + 1)[_SEALED_AT:] == b"\x01")
    return 2 * sum(marks) > len(marks)


def _heal(put: Put, group: int, sound: dict[int, bytes]) -> dict[int, bytes]:
    """The members of a group, those that are lost computed by the group's own parity."""
    members, locals_ = put.members(group), put.locals(group)
    there = [number for number in members + locals_ if number in sound]
    missing = [number for number in members if number not in sound]
    if not missing or len(there) < len(members):
        return {}
    code = [
        _member(sound[number], members.index(number), len(members))
        if number in members
        else sound[number]
        for number in there
    ]
    payloads: bytes = _driver(len(members), put.local).decode(code)
    size = len(payloads) // len(members)
    template = next((sound[n] for n in range(put.data + put.parity) if n in sound), None)
    if template is None:
        return {}
    return {
        number: _global(template, number, payloads[index * size : (index + 1) * size])
        for index, number in enumerate(members)
        if number in missing
    }


def _read(path: Path) -> bytes | None:
    """A fragment as liberasurecode knows it; None when it is damaged."""
    contents = path.read_bytes()
    if len(contents) < _PAGE:
        return None
    (size,) = struct.unpack_from("<I", contents, _ERASURE_AT + 4)
    fragment = contents[_ERASURE_AT : _PAGE + size]
    header, payload = fragment[:_ERASURE_BYTES], fragment[_ERASURE_BYTES:]
    (crc,) = struct.unpack_from("<I", header, 21)
    (metadata_crc,) = struct.unpack_from("<I", header, 67)
    sound = (
        len(payload) == size
        and zlib.crc32(payload) == crc
        and zlib.crc32(header[:_METADATA_BYTES]) == metadata_crc
    )
    return fragment if sound else None


def _with_header(fragment: bytes, index: int, original: int, payload: bytes) -> bytes:
    header = bytearray(fragment[:_ERASURE_BYTES])
    struct.pack_into("<II", header, 0, index, len(payload))
    struct.pack_into("<Q", header, 12, original)
    struct.pack_into("<I", header, 21, zlib.crc32(payload))
    struct.pack_into("<I", header, 67, zlib.crc32(header[:_METADATA_BYTES]))
    return bytes(header) + payload


def _member(fragment: bytes, index: int, members: int) -> bytes:
    """A fragment as a data fragment of its group's own code."""
    payload = fragment[_ERASURE_BYTES:]
    return _with_header(fragment, index, len(payload) * members, payload)


def _global(template: bytes, number: int, payload: bytes) -> bytes:
    """A fragment of the piece's code, of which ``template`` is another one."""
    (original,) = struct.unpack_from("<Q", template, 12)
    return _with_header(template, number, original, payload)


def _driver(data: int, parity: int) -> Any:
    try:
        from pyeclib.ec_iface import ECDriver
    except ImportError as missing:
        raise VStorageError(
            Code.TOOL_FAILED,
            "decode fragments",
            f"pyeclib is not installed ({missing})",
            "install it from PyPI: pip install pyeclib",
        ) from missing
    return ECDriver(k=data, m=parity, ec_type="isa_l_rs_cauchy", chksum_type="inline_crc32")


def folders(texts: Sequence[str]) -> list[Path]:
    """The folders of OSDs that a user gave.

    :raises VStorageError: one is not there
    """
    found = [Path(text) for text in texts]
    for folder in found:
        if not folder.is_dir():
            raise VStorageError(
                Code.BAD_REQUEST,
                f"read the OSD {str(folder)!r}",
                "there is no such folder",
                "leave it out: what is on the others may be enough",
            )
    return found
