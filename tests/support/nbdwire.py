"""A raw NBD client: every byte on the wire is chosen by the test.

It exists beside libnbd because libnbd refuses to send what a broken or hostile client would send,
and because the journalled client of the crash suite needs many requests in flight over
connections that break. Names are those of the protocol:
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
REPLY_MAGIC_OPTION = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

NBD_FLAG_FIXED_NEWSTYLE = 1 << 0
NBD_FLAG_NO_ZEROES = 1 << 1

NBD_FLAG_HAS_FLAGS = 1 << 0
NBD_FLAG_READ_ONLY = 1 << 1
NBD_FLAG_SEND_FLUSH = 1 << 2
NBD_FLAG_SEND_FUA = 1 << 3
NBD_FLAG_SEND_TRIM = 1 << 5
NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6
NBD_FLAG_SEND_DF = 1 << 7
NBD_FLAG_CAN_MULTI_CONN = 1 << 8
NBD_FLAG_SEND_FAST_ZERO = 1 << 11

NBD_OPT_EXPORT_NAME = 1
NBD_OPT_ABORT = 2
NBD_OPT_LIST = 3
NBD_OPT_STARTTLS = 5
NBD_OPT_INFO = 6
NBD_OPT_GO = 7
NBD_OPT_STRUCTURED_REPLY = 8
NBD_OPT_LIST_META_CONTEXT = 9
NBD_OPT_SET_META_CONTEXT = 10

NBD_REP_ACK = 1
NBD_REP_SERVER = 2
NBD_REP_INFO = 3
NBD_REP_META_CONTEXT = 4
NBD_REP_ERR_UNSUP = (1 << 31) | 1
NBD_REP_ERR_POLICY = (1 << 31) | 2
NBD_REP_ERR_INVALID = (1 << 31) | 3
NBD_REP_ERR_UNKNOWN = (1 << 31) | 6
NBD_REP_ERR_TOO_BIG = (1 << 31) | 9

NBD_INFO_EXPORT = 0
NBD_INFO_BLOCK_SIZE = 3

NBD_CMD_READ = 0
NBD_CMD_WRITE = 1
NBD_CMD_DISC = 2
NBD_CMD_FLUSH = 3
NBD_CMD_TRIM = 4
NBD_CMD_WRITE_ZEROES = 6
NBD_CMD_BLOCK_STATUS = 7

NBD_CMD_FLAG_FUA = 1 << 0
NBD_CMD_FLAG_NO_HOLE = 1 << 1
NBD_CMD_FLAG_DF = 1 << 2
NBD_CMD_FLAG_FAST_ZERO = 1 << 4

NBD_EPERM = 1
NBD_EIO = 5
NBD_EINVAL = 22
NBD_ENOSPC = 28
NBD_EOVERFLOW = 75
NBD_ENOTSUP = 95

NBD_REPLY_FLAG_DONE = 1 << 0
NBD_REPLY_TYPE_NONE = 0
NBD_REPLY_TYPE_OFFSET_DATA = 1
NBD_REPLY_TYPE_OFFSET_HOLE = 2
NBD_REPLY_TYPE_BLOCK_STATUS = 5
NBD_REPLY_TYPE_ERROR = (1 << 15) | 1
NBD_REPLY_TYPE_ERROR_OFFSET = (1 << 15) | 2

# A reply that never comes is a failure, not a hang.
TIMEOUT_SECONDS = 60.0


class Disconnected(Exception):
    """The server closed the connection."""


@dataclass(frozen=True)
class OptionReply:
    """One reply to an option: its type (NBD_REP_*) and its data."""

    kind: int
    data: bytes

    @property
    def is_error(self) -> bool:
        """Tell whether the server refused the option."""
        return bool(self.kind & (1 << 31))


@dataclass(frozen=True)
class Chunk:
    """One reply, simple or structured, to a request."""

    cookie: int
    kind: int | None
    flags: int
    error: int
    data: bytes


class Wire:
    """One connection to the NBD server on a unix socket, from the greeting on."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_SECONDS)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.structured = False
        self.size = 0
        self.transmission_flags = 0
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close without a word, as a killed client would."""
        self.socket.close()

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send raw bytes; raise Disconnected if the server is gone."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Disconnected(str(error)) from error

    def receive(self, count: int) -> bytes:
        """Receive exactly ``count`` bytes; raise Disconnected if the server closes before."""
        while len(self._received) < count:
            try:
                piece = self.socket.recv(max(1 << 16, count - len(self._received)))
            except ConnectionResetError as error:
                raise Disconnected(str(error)) from error
            if not piece:
                raise Disconnected(f"{len(self._received)} of {count} bytes arrived")
            self._received += piece
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def closed_by_server(self) -> bool:
        """Wait for the server's next byte or its close; tell whether it closed."""
        try:
            self.receive(1)
        except Disconnected:
            return True
        return False

    def handshake(self, flags: int = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES) -> int:
        """Read the greeting, answer with client ``flags``, return the server's flags."""
        magic, option_magic, server_flags = struct.unpack(">QQH", self.receive(18))
        if (magic, option_magic) != (NBDMAGIC, IHAVEOPT):
            raise AssertionError(f"greeting starts with {magic:#x} {option_magic:#x}")
        self.send(struct.pack(">I", flags))
        return int(server_flags)

    def send_option(
        self, option: int, data: bytes = b"", *, length: int | None = None, magic: int = IHAVEOPT
    ) -> None:
        """Send an option; ``length`` and ``magic`` may lie."""
        length = len(data) if length is None else length
        self.send(struct.pack(">QII", magic, option, length) + data)

    def option_reply(self, option: int) -> OptionReply:
        """Receive one reply to ``option``."""
        magic, answered, kind, length = struct.unpack(">QIII", self.receive(20))
        if magic != REPLY_MAGIC_OPTION or answered != option:
            raise AssertionError(
                f"reply to option {option} has magic {magic:#x}, option {answered}, type {kind:#x}"
            )
        return OptionReply(kind, self.receive(length))

    def option(self, option: int, data: bytes = b"") -> list[OptionReply]:
        """Send an option and return its replies up to the ACK or the error."""
        self.send_option(option, data)
        replies = [self.option_reply(option)]
        while replies[-1].kind != NBD_REP_ACK and not replies[-1].is_error:
            replies.append(self.option_reply(option))
        return replies

    def go(self, export: str, *, structured: bool = False) -> None:
        """From the greeting to transmission: NBD_OPT_GO for ``export``."""
        self.handshake()
        if structured:
            (reply,) = self.option(NBD_OPT_STRUCTURED_REPLY)
            if reply.kind != NBD_REP_ACK:
                raise AssertionError(f"structured replies refused: {reply}")
            self.structured = True
        replies = self.option(NBD_OPT_GO, name_with_info_requests(export))
        if replies[-1].is_error:
            raise AssertionError(f"NBD_OPT_GO for {export!r} refused: {replies[-1]}")
        for reply in replies:
            if reply.kind == NBD_REP_INFO and reply.data[:2] == b"\0\0":
                _, self.size, self.transmission_flags = struct.unpack(">HQH", reply.data)

    def send_request(
        self,
        command: int,
        cookie: int,
        offset: int = 0,
        length: int = 0,
        *,
        flags: int = 0,
        data: bytes | bytearray | memoryview = b"",
        magic: int = REQUEST_MAGIC,
    ) -> None:
        """Send a request header and, for writes, ``data``; nothing is checked."""
        header = struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)
        self.send(header + data if data else header)

    def receive_chunk(self, read_length: int = 0) -> Chunk:
        """Receive one reply.

        ``read_length`` is the length of the payload that follows a successful simple reply to a
        read; structured replies carry theirs.
        """
        (magic,) = struct.unpack(">I", self.receive(4))
        if magic == SIMPLE_REPLY_MAGIC:
            error, cookie = struct.unpack(">IQ", self.receive(12))
            data = self.receive(read_length) if not error else b""
            return Chunk(cookie, None, NBD_REPLY_FLAG_DONE, error, data)
        if magic != STRUCTURED_REPLY_MAGIC or not self.structured:
            raise AssertionError(f"reply has magic {magic:#x}, structured={self.structured}")
        flags, kind, cookie, length = struct.unpack(">HHQI", self.receive(16))
        data = self.receive(length)
        error = struct.unpack(">I", data[:4])[0] if kind & (1 << 15) else 0
        return Chunk(cookie, kind, flags, error, data)

    def receive_simple(self) -> tuple[int, int]:
        """Receive the header of a simple reply: (error, cookie); its data is left to receive."""
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        if magic != SIMPLE_REPLY_MAGIC:
            raise AssertionError(f"simple reply has magic {magic:#x}")
        return error, cookie

    def has_received(self) -> bool:
        """Tell whether bytes that were received wait to be looked at."""
        return bool(self._received)

    def command(
        self,
        command: int,
        offset: int = 0,
        length: int = 0,
        *,
        flags: int = 0,
        data: bytes = b"",
        cookie: int = 0x1122334455667788,
    ) -> int:
        """One simple request, one reply: return its error (0 = success)."""
        self.send_request(command, cookie, offset, length, flags=flags, data=data)
        chunk = self.receive_chunk(length if command == NBD_CMD_READ else 0)
        if chunk.cookie != cookie or not chunk.flags & NBD_REPLY_FLAG_DONE:
            raise AssertionError(f"one final reply to {cookie:#x} expected, got {chunk}")
        return chunk.error

    def read(self, offset: int, length: int) -> bytes:
        """Read over simple replies; raise OSError on an NBD error."""
        self.send_request(NBD_CMD_READ, 1, offset, length)
        chunk = self.receive_chunk(length)
        if chunk.error:
            raise OSError(chunk.error, f"NBD read of {length} at {offset}")
        return chunk.data


def name_with_info_requests(export: str, *infos: int) -> bytes:
    """Return the data of NBD_OPT_INFO and NBD_OPT_GO."""
    name = export.encode()
    return struct.pack(">I", len(name)) + name + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def meta_context_query(export: str, *queries: str) -> bytes:
    """Return the data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT."""
    name = export.encode()
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    for query in queries:
        data += struct.pack(">I", len(query)) + query.encode()
    return data
