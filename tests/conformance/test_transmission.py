"""Requests at and beyond the edges, broken requests, and rude clients, byte by byte.

Every test that breaks its own connection has a bystander on the same volume, which must go on.
"""

from __future__ import annotations

import contextlib
import random
import struct

import pytest

from tests.support import nbdwire as nbd
from tests.support.nbdwire import Wire, meta_context_query, name_with_info_requests
from tests.support.server import Export

U64_MAX = (1 << 64) - 1
SEED = 20


@pytest.fixture
def connection(wire: Wire, disk: Export) -> Wire:
    """A connection in transmission with simple replies."""
    wire.go(disk.name)
    return wire


@pytest.fixture
def structured(wire: Wire, disk: Export) -> Wire:
    """A connection in transmission with structured replies and base:allocation (context 1st)."""
    wire.handshake()
    wire.option(nbd.NBD_OPT_STRUCTURED_REPLY)
    wire.structured = True
    query = meta_context_query(disk.name, "base:allocation")
    context, _ = wire.option(nbd.NBD_OPT_SET_META_CONTEXT, query)
    assert context.kind == nbd.NBD_REP_META_CONTEXT
    wire.option(nbd.NBD_OPT_GO, name_with_info_requests(disk.name))
    return wire


def beyond_the_end(size: int) -> list[tuple[int, int]]:
    return [
        (size, 1),
        (size, 4096),
        (size - 1, 2),
        (size - 4096, 8192),
        (size + (1 << 40), 4096),
    ]


# No volume can ever reach these; their ends overflow 63 or 64 bits.
IMPOSSIBLE = [(U64_MAX, 1), (U64_MAX - 4095, 4096), (U64_MAX - 4095, 8192), (1 << 63, 4096)]


def test_read_beyond_the_end_is_einval(connection: Wire, disk: Export) -> None:
    for offset, length in beyond_the_end(disk.size) + IMPOSSIBLE:
        assert connection.command(nbd.NBD_CMD_READ, offset, length) == nbd.NBD_EINVAL


def test_write_beyond_the_end_is_enospc_and_writes_nothing(connection: Wire, disk: Export) -> None:
    last = disk.size - 4096
    before = connection.read(last, 4096)
    for offset, length in beyond_the_end(disk.size):
        data = b"\xee" * length
        error = connection.command(nbd.NBD_CMD_WRITE, offset, length, data=data)
        assert error == nbd.NBD_ENOSPC
    for offset, length in IMPOSSIBLE:
        error = connection.command(nbd.NBD_CMD_WRITE, offset, length, data=bytes(length))
        assert error in (nbd.NBD_ENOSPC, nbd.NBD_EINVAL)
    assert connection.read(last, 4096) == before


def test_write_zeroes_beyond_the_end_is_enospc(connection: Wire, disk: Export) -> None:
    for offset, length in beyond_the_end(disk.size):
        error = connection.command(nbd.NBD_CMD_WRITE_ZEROES, offset, length)
        assert error == nbd.NBD_ENOSPC
    for offset, length in IMPOSSIBLE:
        error = connection.command(nbd.NBD_CMD_WRITE_ZEROES, offset, length)
        assert error in (nbd.NBD_ENOSPC, nbd.NBD_EINVAL)


def test_trim_beyond_the_end_is_einval(connection: Wire, disk: Export) -> None:
    for offset, length in beyond_the_end(disk.size) + IMPOSSIBLE:
        assert connection.command(nbd.NBD_CMD_TRIM, offset, length) == nbd.NBD_EINVAL


def test_last_byte_can_be_written_and_read(connection: Wire, disk: Export) -> None:
    last = disk.size - 1
    assert connection.command(nbd.NBD_CMD_WRITE, last, 1, data=b"\x5a") == 0
    assert connection.read(last, 1) == b"\x5a"


@pytest.mark.parametrize(
    "command", [nbd.NBD_CMD_READ, nbd.NBD_CMD_WRITE, nbd.NBD_CMD_TRIM, nbd.NBD_CMD_WRITE_ZEROES]
)
def test_zero_length_harms_nothing(connection: Wire, command: int) -> None:
    before = connection.read(0, 8192)
    assert connection.command(command, 4096, 0) in (0, nbd.NBD_EINVAL)
    assert connection.read(0, 8192) == before


@pytest.mark.parametrize("command", [8, 9, 100, 0xFFFF])
def test_unknown_command_is_einval_and_the_connection_goes_on(
    connection: Wire, command: int
) -> None:
    assert connection.command(command, 0, 0) == nbd.NBD_EINVAL
    assert len(connection.read(0, 512)) == 512


@pytest.mark.parametrize("flags", [1 << 5, 1 << 15])
def test_unknown_flag_is_einval(connection: Wire, flags: int) -> None:
    assert connection.command(nbd.NBD_CMD_READ, 0, 512, flags=flags) == nbd.NBD_EINVAL
    error = connection.command(nbd.NBD_CMD_WRITE, 0, 512, flags=flags, data=bytes(512))
    assert error == nbd.NBD_EINVAL
    assert len(connection.read(0, 512)) == 512


def test_block_status_without_context_is_einval(connection: Wire) -> None:
    assert connection.command(nbd.NBD_CMD_BLOCK_STATUS, 0, 4096) == nbd.NBD_EINVAL


@pytest.mark.parametrize("length", [(32 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_read_above_the_maximum_is_refused(connection: Wire, bystander: Wire, length: int) -> None:
    error = connection.command(nbd.NBD_CMD_READ, 0, length)
    assert error in (nbd.NBD_EINVAL, nbd.NBD_EOVERFLOW)
    assert len(connection.read(0, 512)) == 512


def test_write_above_the_maximum_is_refused(connection: Wire, bystander: Wire) -> None:
    offset, length = 128 << 20, 33 << 20
    try:
        error = connection.command(nbd.NBD_CMD_WRITE, offset, length, data=b"\xdd" * length)
        assert error in (nbd.NBD_EINVAL, nbd.NBD_EOVERFLOW)
        assert len(connection.read(0, 512)) == 512
    except nbd.Disconnected:
        # The other answer that the protocol allows.
        pass
    assert bystander.read(offset, 4096) == bytes(4096)


def test_claim_of_a_huge_write_harms_nobody(connection: Wire, bystander: Wire) -> None:
    connection.send_request(nbd.NBD_CMD_WRITE, 9, 0, 0xFFFFFFFF)
    with contextlib.suppress(nbd.Disconnected):
        connection.send(bytes(1 << 20))
    assert len(bystander.read(0, 65536)) == 65536


def test_bad_request_magic_is_never_served(connection: Wire, bystander: Wire) -> None:
    connection.send_request(nbd.NBD_CMD_READ, 1, 0, 512, magic=nbd.REQUEST_MAGIC ^ 1)
    try:
        chunk = connection.receive_chunk(512)
    except nbd.Disconnected:
        return
    assert chunk.error == nbd.NBD_EINVAL


@pytest.mark.parametrize("length", [1, 4, 16, 27])
def test_half_a_request_then_close(connection: Wire, bystander: Wire, length: int) -> None:
    header = struct.pack(">IHHQQI", nbd.REQUEST_MAGIC, 0, nbd.NBD_CMD_WRITE, 3, 0, 4096)
    connection.send(header[:length])
    connection.close()


def test_half_a_payload_writes_nothing(connection: Wire, bystander: Wire) -> None:
    offset = 1 << 20
    old = b"\x11" * 65536
    assert bystander.command(nbd.NBD_CMD_WRITE, offset, 65536, data=old) == 0
    connection.send_request(nbd.NBD_CMD_WRITE, 3, offset, 65536, data=b"\x22" * 40000)
    connection.close()
    assert bystander.read(offset, 65536) == old


def test_disconnect_completes_what_was_sent_before(disk: Export, bystander: Wire) -> None:
    with Wire(disk.socket) as leaving:
        leaving.go(disk.name)
        for number in range(64):
            data = bytes([number]) * 4096
            leaving.send_request(
                nbd.NBD_CMD_WRITE, number, (2 << 20) + number * 4096, 4096, data=data
            )
        leaving.send_request(nbd.NBD_CMD_DISC, 99)
        # Replies to outstanding requests may be left out; the requests may not.
        try:
            while True:
                assert leaving.receive_chunk().error == 0
        except nbd.Disconnected:
            pass
    for number in range(64):
        assert bystander.read((2 << 20) + number * 4096, 4096) == bytes([number]) * 4096


def test_client_that_never_reads_its_replies_blocks_nobody(
    connection: Wire, bystander: Wire
) -> None:
    connection.socket.settimeout(1.0)
    try:
        for cookie in range(256):
            connection.send_request(nbd.NBD_CMD_READ, cookie, 0, 1 << 20)
    except TimeoutError:
        pass
    for _ in range(100):
        assert len(bystander.read(0, 65536)) == 65536
    connection.close()


def test_abrupt_close_with_requests_in_flight(disk: Export, bystander: Wire) -> None:
    for round_number in range(20):
        with Wire(disk.socket) as rude:
            rude.go(disk.name)
            for cookie in range(32):
                offset = (4 << 20) + cookie * 65536
                data = bytes([round_number]) * 65536
                rude.send_request(nbd.NBD_CMD_WRITE, cookie, offset, 65536, data=data)
            for cookie in range(32):
                rude.send_request(nbd.NBD_CMD_READ, cookie, 4 << 20, 65536)
    assert len(bystander.read(4 << 20, 1 << 20)) == 1 << 20


def test_requests_arrive_byte_by_byte(connection: Wire) -> None:
    payload = bytes(range(256))
    request = struct.pack(">IHHQQI", nbd.REQUEST_MAGIC, 0, nbd.NBD_CMD_WRITE, 5, 777, 256) + payload
    for byte in request:
        connection.send(bytes([byte]))
    assert connection.receive_chunk().error == 0
    assert connection.read(777, 256) == payload


def test_many_requests_in_one_piece(connection: Wire) -> None:
    base = 8 << 20
    piece = b""
    for number in range(200):
        piece += struct.pack(
            ">IHHQQI", nbd.REQUEST_MAGIC, 0, nbd.NBD_CMD_WRITE, number, base + number * 512, 512
        )
        piece += bytes([number]) * 512
    connection.send(piece)
    chunks = [connection.receive_chunk() for _ in range(200)]
    assert {chunk.cookie for chunk in chunks} == set(range(200))
    assert all(chunk.error == 0 for chunk in chunks)
    expected = b"".join(bytes([number]) * 512 for number in range(200))
    assert connection.read(base, 200 * 512) == expected


def test_cookies_come_back_verbatim_even_when_equal(connection: Wire) -> None:
    cookies = [0, U64_MAX, 0x0102030405060708, 7, 7, 7]
    for cookie in cookies:
        connection.send_request(nbd.NBD_CMD_FLUSH, cookie)
    answered = [connection.receive_chunk().cookie for _ in cookies]
    assert sorted(answered) == sorted(cookies)


def test_garbage_harms_only_its_own_connection(disk: Export, bystander: Wire) -> None:
    chaos = random.Random(SEED)
    for number in range(60):
        with Wire(disk.socket) as wire:
            if number % 3 == 1:
                wire.handshake()
            elif number % 3 == 2:
                wire.go(disk.name)
            with contextlib.suppress(nbd.Disconnected):
                wire.send(chaos.randbytes(chaos.randrange(1, 4000)))
        if number % 10 == 0:
            assert len(bystander.read(0, 4096)) == 4096


def corrupted(request: bytes, chaos: random.Random) -> bytes:
    damaged = bytearray(request)
    for _ in range(chaos.randrange(1, 4)):
        # The magic stays, so that the damage reaches command, cookie, offset and length.
        damaged[chaos.randrange(4, 28)] ^= 1 << chaos.randrange(8)
    return bytes(damaged)


def test_damaged_headers_harm_only_their_own_connection(disk: Export, bystander: Wire) -> None:
    chaos = random.Random(SEED)
    for _ in range(60):
        with Wire(disk.socket) as wire:
            wire.go(disk.name, structured=chaos.random() < 0.5)
            command = chaos.choice((0, 1, 3, 4, 6, 7))
            # High in the volume, which nobody else here looks at.
            header = struct.pack(
                ">IHHQQI", nbd.REQUEST_MAGIC, 0, command, 1, disk.size - (64 << 20), 4096
            )
            with contextlib.suppress(nbd.Disconnected):
                wire.send(corrupted(header, chaos) + bytes(4096 if command == 1 else 0))
        assert len(bystander.read(0, 512)) == 512


def structured_replies(wire: Wire, cookie: int) -> list[nbd.Chunk]:
    chunks = [wire.receive_chunk()]
    while not chunks[-1].flags & nbd.NBD_REPLY_FLAG_DONE:
        chunks.append(wire.receive_chunk())
    assert {chunk.cookie for chunk in chunks} == {cookie}
    return chunks


def assemble(chunks: list[nbd.Chunk], offset: int, length: int) -> bytes:
    """Return the data of a structured read, each byte of which must come exactly once."""
    result = bytearray(length)
    seen = bytearray(length)
    for chunk in chunks:
        if chunk.kind == nbd.NBD_REPLY_TYPE_NONE:
            assert chunk.flags & nbd.NBD_REPLY_FLAG_DONE
            continue
        (start,) = struct.unpack(">Q", chunk.data[:8])
        if chunk.kind == nbd.NBD_REPLY_TYPE_OFFSET_HOLE:
            (count,) = struct.unpack(">I", chunk.data[8:])
            data = bytes(count)
        else:
            assert chunk.kind == nbd.NBD_REPLY_TYPE_OFFSET_DATA
            data = chunk.data[8:]
        at = start - offset
        assert data
        assert 0 <= at <= length - len(data)
        assert not any(seen[at : at + len(data)])
        seen[at : at + len(data)] = b"\1" * len(data)
        result[at : at + len(data)] = data
    assert all(seen)
    return bytes(result)


@pytest.mark.parametrize("flags", [0, nbd.NBD_CMD_FLAG_DF])
def test_structured_read_covers_every_byte_once(
    structured: Wire, bystander: Wire, flags: int
) -> None:
    offset = 12 << 20
    data = random.Random(SEED).randbytes(12288)
    assert bystander.command(nbd.NBD_CMD_WRITE_ZEROES, offset, 65536) == 0
    assert bystander.command(nbd.NBD_CMD_WRITE, offset + 8192, 12288, data=data) == 0
    structured.send_request(nbd.NBD_CMD_READ, 4, offset + 100, 60000, flags=flags)
    chunks = structured_replies(structured, 4)
    if flags & nbd.NBD_CMD_FLAG_DF:
        assert sum(chunk.kind != nbd.NBD_REPLY_TYPE_NONE for chunk in chunks) == 1
    expected = (bytes(8192) + data + bytes(65536))[100:60100]
    assert assemble(chunks, offset + 100, 60000) == expected


def test_structured_error_carries_a_well_formed_message(structured: Wire, disk: Export) -> None:
    structured.send_request(nbd.NBD_CMD_READ, 8, disk.size, 4096)
    (chunk,) = structured_replies(structured, 8)
    assert chunk.kind in (nbd.NBD_REPLY_TYPE_ERROR, nbd.NBD_REPLY_TYPE_ERROR_OFFSET)
    assert chunk.error == nbd.NBD_EINVAL
    (length,) = struct.unpack(">H", chunk.data[4:6])
    tail = 8 if chunk.kind == nbd.NBD_REPLY_TYPE_ERROR_OFFSET else 0
    assert len(chunk.data) == 6 + length + tail
    chunk.data[6 : 6 + length].decode()


def test_block_status_beyond_the_end_is_einval(structured: Wire, disk: Export) -> None:
    structured.send_request(nbd.NBD_CMD_BLOCK_STATUS, 8, disk.size, 4096)
    (chunk,) = structured_replies(structured, 8)
    assert chunk.error == nbd.NBD_EINVAL


def test_write_flush_and_trim_answer_also_with_structured_replies(structured: Wire) -> None:
    offset = 20 << 20
    structured.send_request(nbd.NBD_CMD_WRITE, 1, offset, 512, data=b"\x77" * 512)
    structured.send_request(nbd.NBD_CMD_FLUSH, 2)
    structured.send_request(nbd.NBD_CMD_TRIM, 3, offset + 65536, 65536)
    chunks = [structured.receive_chunk() for _ in range(3)]
    assert {chunk.cookie for chunk in chunks} == {1, 2, 3}
    assert all(chunk.error == 0 for chunk in chunks)
    assert all(chunk.flags & nbd.NBD_REPLY_FLAG_DONE for chunk in chunks)
