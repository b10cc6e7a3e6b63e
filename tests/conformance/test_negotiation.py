"""The handshake: options in every order and shape, good and bad.

Source of every expectation: doc/proto.md of the NetworkBlockDevice project, sections "Fixed
newstyle negotiation" and "Option types".
"""

from __future__ import annotations

import struct

import pytest

from tests.support import nbdwire as nbd
from tests.support.nbdwire import Wire, meta_context_query, name_with_info_requests
from tests.support.server import Export, Server

UNKNOWN_EXPORT = "no-such-export"
UNKNOWN_OPTION = 0x7FFF


def enter_transmission(wire: Wire, disk: Export) -> None:
    """Show that the connection is still good: NBD_OPT_GO and a read."""
    replies = wire.option(nbd.NBD_OPT_GO, name_with_info_requests(disk.name))
    assert replies[-1].kind == nbd.NBD_REP_ACK
    assert wire.command(nbd.NBD_CMD_FLUSH) == 0


def read_export_name_answer(wire: Wire, padding: int) -> tuple[int, int]:
    size, flags = struct.unpack(">QH", wire.receive(10))
    assert wire.receive(padding) == bytes(padding)
    return size, flags


def test_greeting_offers_fixed_newstyle_without_zeroes(wire: Wire) -> None:
    flags = wire.handshake()
    assert flags == nbd.NBD_FLAG_FIXED_NEWSTYLE | nbd.NBD_FLAG_NO_ZEROES


def test_go_tells_size_and_flags(wire: Wire, disk: Export) -> None:
    wire.go(disk.name)
    assert wire.size == disk.size
    required = (
        nbd.NBD_FLAG_HAS_FLAGS
        | nbd.NBD_FLAG_SEND_FLUSH
        | nbd.NBD_FLAG_SEND_FUA
        | nbd.NBD_FLAG_SEND_TRIM
        | nbd.NBD_FLAG_SEND_WRITE_ZEROES
        | nbd.NBD_FLAG_SEND_FAST_ZERO
        | nbd.NBD_FLAG_CAN_MULTI_CONN
    )
    assert wire.transmission_flags & required == required
    assert not wire.transmission_flags & nbd.NBD_FLAG_READ_ONLY


def test_export_name_pads_with_zeroes_unless_declined(disk: Export) -> None:
    for flags, padding in ((nbd.NBD_FLAG_FIXED_NEWSTYLE, 124), (3, 0)):
        with Wire(disk.socket) as wire:
            wire.handshake(flags)
            wire.send_option(nbd.NBD_OPT_EXPORT_NAME, disk.name.encode())
            size, transmission = read_export_name_answer(wire, padding)
            assert size == disk.size
            assert transmission & nbd.NBD_FLAG_HAS_FLAGS
            assert len(wire.read(512, 1024)) == 1024


def test_export_name_of_unknown_export_closes(wire: Wire, bystander: Wire) -> None:
    wire.handshake()
    wire.send_option(nbd.NBD_OPT_EXPORT_NAME, UNKNOWN_EXPORT.encode())
    assert wire.closed_by_server()


def test_list_names_the_export(wire: Wire, disk: Export) -> None:
    wire.handshake()
    *servers, ack = wire.option(nbd.NBD_OPT_LIST)
    assert ack.kind == nbd.NBD_REP_ACK
    assert all(reply.kind == nbd.NBD_REP_SERVER for reply in servers)
    names = [r.data[4 : 4 + struct.unpack(">I", r.data[:4])[0]].decode() for r in servers]
    assert len(names) >= 1
    for name in names:
        replies = wire.option(nbd.NBD_OPT_INFO, name_with_info_requests(name))
        assert replies[-1].kind == nbd.NBD_REP_ACK
    enter_transmission(wire, disk)


def test_list_with_data_is_invalid(wire: Wire, disk: Export) -> None:
    wire.handshake()
    assert [r.kind for r in wire.option(nbd.NBD_OPT_LIST, b"x")] == [nbd.NBD_REP_ERR_INVALID]
    enter_transmission(wire, disk)


def test_info_tells_block_sizes_and_stays_in_negotiation(wire: Wire, disk: Export) -> None:
    wire.handshake()
    request = name_with_info_requests(disk.name, nbd.NBD_INFO_BLOCK_SIZE)
    *infos, ack = wire.option(nbd.NBD_OPT_INFO, request)
    assert ack.kind == nbd.NBD_REP_ACK
    by_type = {struct.unpack(">H", r.data[:2])[0]: r.data[2:] for r in infos}
    assert struct.unpack(">QH", by_type[nbd.NBD_INFO_EXPORT])[0] == disk.size
    minimum, preferred, maximum = struct.unpack(">III", by_type[nbd.NBD_INFO_BLOCK_SIZE])
    # Any alignment is served (test_data.py); the minimum says what is sensible.
    assert minimum in (1, 512)
    assert preferred == 4096
    assert maximum == 32 << 20
    enter_transmission(wire, disk)


@pytest.mark.parametrize("option", [nbd.NBD_OPT_INFO, nbd.NBD_OPT_GO])
def test_unknown_export_is_refused_and_negotiation_goes_on(
    wire: Wire, disk: Export, option: int
) -> None:
    wire.handshake()
    replies = wire.option(option, name_with_info_requests(UNKNOWN_EXPORT))
    assert [r.kind for r in replies] == [nbd.NBD_REP_ERR_UNKNOWN]
    enter_transmission(wire, disk)


@pytest.mark.parametrize("data", [b"", b"x" * 4096])
def test_unknown_option_is_unsupported(wire: Wire, disk: Export, data: bytes) -> None:
    wire.handshake()
    for _ in range(3):
        replies = wire.option(UNKNOWN_OPTION, data)
        assert [r.kind for r in replies] == [nbd.NBD_REP_ERR_UNSUP]
    enter_transmission(wire, disk)


@pytest.mark.parametrize("option", [nbd.NBD_OPT_INFO, nbd.NBD_OPT_GO])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0\0\0\0",
        b"\0\0\0\0\0",
        b"\0\0\0\0\0\1",
        b"\0\0\0\0\0\0\0",
        b"\0\0\0\5ab\0\0",
        b"\xff\xff\xff\xff\0\0",
        b"\0\0\0\0\xff\xff\0\3",
    ],
)
def test_malformed_info_request_is_invalid(
    wire: Wire, disk: Export, option: int, data: bytes
) -> None:
    wire.handshake()
    assert [r.kind for r in wire.option(option, data)] == [nbd.NBD_REP_ERR_INVALID]
    enter_transmission(wire, disk)


def test_overlong_export_name_is_refused(wire: Wire, disk: Export) -> None:
    wire.handshake()
    (reply,) = wire.option(nbd.NBD_OPT_INFO, name_with_info_requests("n" * 4097))
    assert reply.kind in (
        nbd.NBD_REP_ERR_TOO_BIG,
        nbd.NBD_REP_ERR_INVALID,
        nbd.NBD_REP_ERR_UNKNOWN,
    )
    enter_transmission(wire, disk)


def test_option_of_a_mebibyte_is_refused(wire: Wire, disk: Export, bystander: Wire) -> None:
    wire.handshake()
    try:
        wire.send_option(nbd.NBD_OPT_INFO, bytes(1 << 20))
        reply = wire.option_reply(nbd.NBD_OPT_INFO)
    except nbd.Disconnected:
        return
    assert reply.is_error
    enter_transmission(wire, disk)


def test_claim_of_a_huge_option_allocates_nothing(
    wire: Wire, bystander: Wire, server: Server
) -> None:
    before = resident_bytes(server)
    wire.handshake()
    wire.send_option(nbd.NBD_OPT_GO, b"", length=0xFFFFFFFF)
    try:
        for _ in range(16):
            wire.send(bytes(1 << 16))
    except nbd.Disconnected:
        pass
    assert len(bystander.read(0, 4096)) == 4096
    assert resident_bytes(server) - before < 64 << 20


def resident_bytes(server: Server) -> int:
    total = 0
    for pid in server.pids():
        with open(f"/proc/{pid}/status") as file:
            (line,) = (line for line in file if line.startswith("VmRSS"))
        total += int(line.split()[1]) << 10
    return total


def test_bad_option_magic_closes_this_connection_only(wire: Wire, bystander: Wire) -> None:
    wire.handshake()
    wire.send_option(nbd.NBD_OPT_LIST, magic=nbd.IHAVEOPT ^ 1)
    assert wire.closed_by_server()


def test_unknown_client_flag_closes_this_connection_only(wire: Wire, bystander: Wire) -> None:
    wire.handshake(nbd.NBD_FLAG_FIXED_NEWSTYLE | 1 << 9)
    assert wire.closed_by_server()


@pytest.mark.parametrize("length", [1, 3, 8, 15])
def test_half_an_option_then_close(wire: Wire, bystander: Wire, length: int) -> None:
    wire.handshake()
    wire.send(struct.pack(">QII", nbd.IHAVEOPT, nbd.NBD_OPT_LIST, 0)[:length])
    wire.close()


def test_starttls_is_refused(wire: Wire, disk: Export) -> None:
    wire.handshake()
    (reply,) = wire.option(nbd.NBD_OPT_STARTTLS)
    assert reply.kind in (nbd.NBD_REP_ERR_UNSUP, nbd.NBD_REP_ERR_POLICY)
    enter_transmission(wire, disk)


def test_abort_is_acknowledged_and_closes(wire: Wire, bystander: Wire) -> None:
    wire.handshake()
    assert [r.kind for r in wire.option(nbd.NBD_OPT_ABORT)] == [nbd.NBD_REP_ACK]
    assert wire.closed_by_server()


def test_structured_reply_takes_no_data(wire: Wire, disk: Export) -> None:
    wire.handshake()
    (reply,) = wire.option(nbd.NBD_OPT_STRUCTURED_REPLY, b"x")
    assert reply.kind == nbd.NBD_REP_ERR_INVALID
    # Refused: so replies stay simple, which enter_transmission checks by reading one.
    enter_transmission(wire, disk)


def test_meta_context_needs_structured_replies(wire: Wire, disk: Export) -> None:
    wire.handshake()
    query = meta_context_query(disk.name, "base:allocation")
    (reply,) = wire.option(nbd.NBD_OPT_SET_META_CONTEXT, query)
    assert reply.kind == nbd.NBD_REP_ERR_INVALID
    enter_transmission(wire, disk)


def context_names(replies: list[nbd.OptionReply]) -> list[str]:
    assert replies[-1].kind == nbd.NBD_REP_ACK
    assert all(reply.kind == nbd.NBD_REP_META_CONTEXT for reply in replies[:-1])
    return [reply.data[4:].decode() for reply in replies[:-1]]


@pytest.mark.parametrize(
    ("queries", "expected"),
    [
        ((), True),
        (("base:allocation",), True),
        (("base:",), True),
        (("unknown:context",), False),
        (("base:unknown",), False),
    ],
)
def test_list_meta_contexts(
    wire: Wire, disk: Export, queries: tuple[str, ...], expected: bool
) -> None:
    wire.handshake()
    wire.option(nbd.NBD_OPT_STRUCTURED_REPLY)
    query = meta_context_query(disk.name, *queries)
    names = context_names(wire.option(nbd.NBD_OPT_LIST_META_CONTEXT, query))
    assert ("base:allocation" in names) is expected


@pytest.mark.parametrize(
    ("queries", "expected"),
    [
        ((), []),
        (("base:allocation",), ["base:allocation"]),
        (("unknown:context", "base:allocation"), ["base:allocation"]),
        (("unknown:context",), []),
    ],
)
def test_set_meta_context(
    wire: Wire, disk: Export, queries: tuple[str, ...], expected: list[str]
) -> None:
    wire.handshake()
    wire.option(nbd.NBD_OPT_STRUCTURED_REPLY)
    query = meta_context_query(disk.name, *queries)
    assert context_names(wire.option(nbd.NBD_OPT_SET_META_CONTEXT, query)) == expected


def test_set_meta_context_for_unknown_export(wire: Wire, disk: Export) -> None:
    wire.handshake()
    wire.option(nbd.NBD_OPT_STRUCTURED_REPLY)
    query = meta_context_query(UNKNOWN_EXPORT, "base:allocation")
    (reply,) = wire.option(nbd.NBD_OPT_SET_META_CONTEXT, query)
    assert reply.kind == nbd.NBD_REP_ERR_UNKNOWN


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\0",
        b"\0\0\0\0\0\0\0\1",
        b"\0\0\0\0\0\0\0\1\0\0\0\5ab",
        b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0",
        b"\xff\xff\xff\xff\0\0\0\0",
    ],
)
def test_malformed_meta_context_is_invalid(wire: Wire, disk: Export, data: bytes) -> None:
    wire.handshake()
    wire.option(nbd.NBD_OPT_STRUCTURED_REPLY)
    (reply,) = wire.option(nbd.NBD_OPT_SET_META_CONTEXT, data)
    assert reply.kind == nbd.NBD_REP_ERR_INVALID


def test_options_arrive_byte_by_byte(wire: Wire, disk: Export) -> None:
    wire.handshake()
    data = name_with_info_requests(disk.name)
    option = struct.pack(">QII", nbd.IHAVEOPT, nbd.NBD_OPT_INFO, len(data)) + data
    for byte in option:
        wire.send(bytes([byte]))
    assert wire.option_reply(nbd.NBD_OPT_INFO).kind == nbd.NBD_REP_INFO
    while wire.option_reply(nbd.NBD_OPT_INFO).kind != nbd.NBD_REP_ACK:
        pass
    enter_transmission(wire, disk)


def test_options_and_requests_in_one_piece(wire: Wire, disk: Export) -> None:
    wire.receive(18)
    data = name_with_info_requests(disk.name)
    wire.send(
        struct.pack(">I", 3)
        + struct.pack(">QII", nbd.IHAVEOPT, UNKNOWN_OPTION, 2)
        + b"xy"
        + struct.pack(">QII", nbd.IHAVEOPT, nbd.NBD_OPT_GO, len(data))
        + data
        + struct.pack(">IHHQQI", nbd.REQUEST_MAGIC, 0, nbd.NBD_CMD_READ, 7, 4096, 512)
    )
    assert wire.option_reply(UNKNOWN_OPTION).kind == nbd.NBD_REP_ERR_UNSUP
    assert wire.option_reply(nbd.NBD_OPT_GO).kind == nbd.NBD_REP_INFO
    while wire.option_reply(nbd.NBD_OPT_GO).kind != nbd.NBD_REP_ACK:
        pass
    chunk = wire.receive_chunk(512)
    assert (chunk.cookie, chunk.error, len(chunk.data)) == (7, 0, 512)
