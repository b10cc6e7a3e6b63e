"""What was written is read, whatever the offset, length, connection and order (libnbd)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.libnbd import load
from tests.support.server import Export

nbd = load()

KIB = 1 << 10
MIB = 1 << 20
CLUSTER_BYTES = 4096
SEED = 11
ANSWER_MS_MAX = 60_000

Fresh = Callable[[int], Export]


def connect(export: Export, *, contexts: bool = False) -> Any:
    """Return a libnbd handle in transmission, with base:allocation if ``contexts``."""
    handle = nbd.NBD()
    handle.set_export_name(export.name)
    if contexts:
        handle.add_meta_context("base:allocation")
    allow_any_alignment(handle)
    handle.connect_unix(str(export.socket))
    return handle


def allow_any_alignment(handle: Any) -> None:
    """Have libnbd send what the server's announced minimum block size would make it refuse."""
    handle.set_strict_mode(handle.get_strict_mode() & ~nbd.STRICT_ALIGN)


def wait_for(handle: Any, cookie: int) -> None:
    """Poll ``handle`` until the command is complete; its error raises nbd.Error."""
    while not handle.aio_command_completed(cookie):
        assert handle.poll(ANSWER_MS_MAX), f"no answer within {ANSWER_MS_MAX} ms"


@pytest.fixture
def handle(disk: Export) -> Iterator[Any]:
    """A connection to the module's disk."""
    connection = connect(disk)
    yield connection
    connection.shutdown()


@pytest.mark.parametrize("structured", [True, False])
def test_random_operations_agree_with_an_array(disk: Export, structured: bool) -> None:
    chaos = random.Random(SEED)
    base, length = 16 * MIB, 2 * MIB
    handle = nbd.NBD()
    handle.set_export_name(disk.name)
    handle.set_request_structured_replies(structured)
    allow_any_alignment(handle)
    handle.connect_unix(str(disk.socket))
    assert handle.get_structured_replies_negotiated() is structured
    handle.zero(length, base)
    model = bytearray(length)
    for _ in range(1500):
        at = chaos.randrange(length)
        count = min(chaos.choice((1, 7, 512, 3000, 4096, 4097, 20000, 150000)), length - at)
        if chaos.random() < 0.5:
            at, count = at & ~4095, max(4096, count & ~4095)
        operation = chaos.choice(("write", "write", "read", "zero", "trim"))
        if operation == "write":
            data = chaos.randbytes(count)
            handle.pwrite(data, base + at, chaos.choice((0, 0, nbd.CMD_FLAG_FUA)))
            model[at : at + count] = data
        elif operation == "zero":
            handle.zero(count, base + at, chaos.choice((0, nbd.CMD_FLAG_NO_HOLE)))
            model[at : at + count] = bytes(count)
        elif operation == "trim":
            handle.trim(count, base + at)
            # A trimmed byte reads as it was or as zero, and stays what it was read as.
            now = handle.pread(count, base + at)
            for index, (old, new) in enumerate(zip(model[at : at + count], now, strict=True)):
                assert new in (old, 0), f"trimmed byte {at + index} became {new}"
            model[at : at + count] = now
        else:
            assert handle.pread(count, base + at) == model[at : at + count]
    assert handle.pread(length, base) == model
    handle.shutdown()


def test_sectors_of_one_cluster_in_flight_together(disk: Export) -> None:
    """Sub-cluster writes are read-modify-write inside: none may undo another."""
    chaos = random.Random(SEED)
    base, sectors = 32 * MIB, 8 * 128
    handles = [connect(disk), connect(disk)]
    handles[0].pwrite(b"\xaa" * (sectors * 512), base)
    expected = bytearray(b"\xaa" * (sectors * 512))
    for _ in range(4):
        order = list(range(sectors))
        chaos.shuffle(order)
        pending = []
        for position, sector in enumerate(order):
            data = bytes([chaos.randrange(256)]) * 512
            expected[sector * 512 : (sector + 1) * 512] = data
            handle = handles[position % 2]
            buffer = nbd.Buffer.from_bytearray(bytearray(data))
            pending.append((handle, handle.aio_pwrite(buffer, base + sector * 512), buffer))
        for handle, cookie, _ in pending:
            wait_for(handle, cookie)
        assert handles[0].pread(len(expected), base) == expected


def test_256_requests_in_flight(handle: Any) -> None:
    base = 40 * MIB
    writes = []
    for number in range(256):
        buffer = nbd.Buffer.from_bytearray(bytearray([number]) * CLUSTER_BYTES)
        cookie = handle.aio_pwrite(buffer, base + number * CLUSTER_BYTES)
        writes.append((cookie, buffer))
    for cookie, _ in writes:
        wait_for(handle, cookie)
    reads = []
    for number in range(256):
        buffer = nbd.Buffer(CLUSTER_BYTES)
        reads.append((handle.aio_pread(buffer, base + number * CLUSTER_BYTES), buffer))
    for number, (cookie, buffer) in enumerate(reads):
        wait_for(handle, cookie)
        assert buffer.to_bytearray() == bytes([number]) * CLUSTER_BYTES


def test_sixteen_connections_at_once(disk: Export) -> None:
    base = 48 * MIB
    handles = [connect(disk) for _ in range(16)]
    pending = []
    for round_number in range(32):
        for number, handle in enumerate(handles):
            at = base + (number * 32 + round_number) * CLUSTER_BYTES
            fill = (number * 7 + round_number) % 256
            buffer = nbd.Buffer.from_bytearray(bytearray([fill]) * CLUSTER_BYTES)
            pending.append((handle, handle.aio_pwrite(buffer, at), buffer))
    for handle, cookie, _ in pending:
        wait_for(handle, cookie)
    for number in range(16):
        reader = handles[(number + 5) % 16]
        data = reader.pread(32 * CLUSTER_BYTES, base + number * 32 * CLUSTER_BYTES)
        for round_number in range(32):
            piece = data[round_number * CLUSTER_BYTES : (round_number + 1) * CLUSTER_BYTES]
            assert piece == bytes([(number * 7 + round_number) % 256]) * CLUSTER_BYTES


def test_write_on_one_flush_on_another_read_on_a_third(disk: Export) -> None:
    writer, flusher, reader = (connect(disk) for _ in range(3))
    assert writer.can_multi_conn()
    for number in range(50):
        data = bytes([number + 1]) * 12288
        writer.pwrite(data, 56 * MIB + 512)
        flusher.flush()
        assert reader.pread(12288, 56 * MIB + 512) == data


def test_requests_of_32_mib(fresh: Fresh) -> None:
    export = fresh(80 * MIB)
    handle = connect(export)
    data = random.Random(SEED).randbytes(32 * MIB)
    handle.pwrite(data, 4096)
    assert handle.pread(32 * MIB, 4096) == data
    handle.zero(32 * MIB, 16 * MIB)
    assert handle.pread(32 * MIB, 4096) == (data[: 16 * MIB - 4096] + bytes(32 * MIB))[: 32 * MIB]


def test_several_requests_of_32_mib_in_flight(fresh: Fresh) -> None:
    export = fresh(256 * MIB)
    handle = connect(export)
    payloads = [random.Random(number).randbytes(32 * MIB) for number in range(4)]
    pending = []
    for number, data in enumerate(payloads):
        buffer = nbd.Buffer.from_bytearray(bytearray(data))
        pending.append((handle.aio_pwrite(buffer, number * 32 * MIB), buffer))
    for cookie, _ in pending:
        wait_for(handle, cookie)
    for number, data in enumerate(payloads):
        assert handle.pread(32 * MIB, number * 32 * MIB) == data


def test_fresh_volume_reads_as_zeroes(fresh: Fresh) -> None:
    handle = connect(fresh(64 * MIB))
    for at in range(0, 64 * MIB, 16 * MIB):
        assert handle.pread(16 * MIB, at) == bytes(16 * MIB)


def test_odd_sized_volume(fresh: Fresh) -> None:
    """The smallest volume: one cluster, its last bytes included."""
    handle = connect(fresh(CLUSTER_BYTES))
    handle.pwrite(b"first", 0)
    handle.pwrite(b"last!", CLUSTER_BYTES - 5)
    assert handle.pread(CLUSTER_BYTES, 0) == b"first" + bytes(CLUSTER_BYTES - 10) + b"last!"
    handle.set_strict_mode(0)
    with pytest.raises(nbd.Error):
        handle.pwrite(b"x", CLUSTER_BYTES)


def test_fua_on_every_command_that_takes_it(handle: Any) -> None:
    base = 64 * MIB
    assert handle.can_fua()
    handle.pwrite(b"\x42" * 65536, base, nbd.CMD_FLAG_FUA)
    handle.zero(8192, base + 4096, nbd.CMD_FLAG_FUA)
    handle.trim(8192, base + 32768, nbd.CMD_FLAG_FUA)
    data = handle.pread(65536, base)
    assert data[:4096] == b"\x42" * 4096
    assert data[4096:12288] == bytes(8192)
    assert data[12288:32768] == b"\x42" * 20480


def test_fast_zero_of_clusters_is_fast(handle: Any) -> None:
    """A log writes zeroes by writing none, so it never has to refuse."""
    base = 72 * MIB
    assert handle.can_fast_zero()
    handle.pwrite(b"\x99" * MIB, base)
    handle.zero(MIB // 2, base + MIB // 4, nbd.CMD_FLAG_FAST_ZERO)
    data = handle.pread(MIB, base)
    assert data[: MIB // 4] == b"\x99" * (MIB // 4)
    assert data[MIB // 4 : 3 * MIB // 4] == bytes(MIB // 2)
    assert data[3 * MIB // 4 :] == b"\x99" * (MIB // 4)


def test_zeroes_at_odd_places(handle: Any) -> None:
    base = 80 * MIB
    handle.pwrite(b"\xff" * 65536, base)
    handle.zero(5, base + 3)
    handle.zero(10000, base + 4095)
    handle.zero(4097, base + 20479)
    expected = bytearray(b"\xff" * 65536)
    for at, count in ((3, 5), (4095, 10000), (20479, 4097)):
        expected[at : at + count] = bytes(count)
    assert handle.pread(65536, base) == expected


def test_trim_of_clusters_reads_as_zeroes(handle: Any) -> None:
    base = 88 * MIB
    handle.pwrite(b"\x31" * MIB, base)
    handle.trim(MIB // 2, base + 4096)
    assert handle.pread(MIB // 2, base + 4096) == bytes(MIB // 2)
    assert handle.pread(4096, base) == b"\x31" * 4096
    assert handle.pread(4096, base + 4096 + MIB // 2) == b"\x31" * 4096


def test_trim_that_is_no_whole_cluster_spares_its_neighbours(handle: Any) -> None:
    base = 96 * MIB
    handle.pwrite(b"\x32" * 65536, base)
    handle.trim(10000, base + 1000)
    data = handle.pread(65536, base)
    assert data[:1000] == b"\x32" * 1000
    assert data[11000:] == b"\x32" * (65536 - 11000)


def allocation(handle: Any, offset: int, length: int) -> list[tuple[int, int]]:
    """Return merged (length, flags) of base:allocation over the range."""
    merged: list[tuple[int, int]] = []
    at = offset
    while at < offset + length:
        entries: list[int] = []

        def collect(
            context: str, start: int, flat: list[int], error: Any, into: list[int] = entries
        ) -> int:
            if context == "base:allocation":
                into.extend(flat)
            return 0

        handle.block_status(offset + length - at, at, collect)
        assert entries, "block status made no progress"
        for count, flags in zip(entries[::2], entries[1::2], strict=True):
            inside = min(count, offset + length - at)
            at += inside
            if merged and merged[-1][1] == flags:
                merged[-1] = (merged[-1][0] + inside, flags)
            else:
                merged.append((inside, flags))
    return merged


HOLE = 3  # NBD_STATE_HOLE | NBD_STATE_ZERO
DATA = 0


def test_block_status_is_what_was_written(fresh: Fresh) -> None:
    export = fresh(64 * MIB)
    handle = connect(export, contexts=True)
    assert allocation(handle, 0, export.size) == [(export.size, HOLE)]
    handle.pwrite(b"\1" * 8192, 4096)
    handle.pwrite(b"\2" * 4096, MIB)
    handle.pwrite(b"\3" * (2 * MIB), 8 * MIB)
    handle.trim(64 * KIB, 9 * MIB)
    handle.zero(64 * KIB, 9 * MIB + 512 * KIB)
    assert allocation(handle, 0, export.size) == [
        (4096, HOLE),
        (8192, DATA),
        (MIB - 12288, HOLE),
        (4096, DATA),
        (7 * MIB - 4096, HOLE),
        (MIB, DATA),
        (64 * KIB, HOLE),
        (448 * KIB, DATA),
        (64 * KIB, HOLE),
        (448 * KIB, DATA),
        (54 * MIB, HOLE),
    ]


def test_block_status_never_calls_data_zero(fresh: Fresh) -> None:
    chaos = random.Random(SEED)
    export = fresh(16 * MIB)
    handle = connect(export, contexts=True)
    for _ in range(600):
        at = chaos.randrange(export.size - 65536)
        chaos.choice(
            (
                lambda at=at: handle.pwrite(b"\x55" * chaos.randrange(1, 9000), at),
                lambda at=at: handle.zero(chaos.randrange(1, 65536), at),
                lambda at=at: handle.trim(chaos.randrange(1, 65536), at),
            )
        )()
    content = handle.pread(export.size, 0)
    at = 0
    for count, flags in allocation(handle, 0, export.size):
        if flags & 2:
            assert not any(content[at : at + count]), f"{count} bytes at {at} are not zero"
        at += count
    assert at == export.size


def test_block_status_request_one(fresh: Fresh) -> None:
    handle = connect(fresh(16 * MIB), contexts=True)
    handle.pwrite(b"\1" * 4096, 4096)
    seen: list[int] = []

    def collect(context: str, start: int, flat: list[int], error: Any) -> int:
        seen.extend(flat)
        return 0

    handle.block_status(16 * MIB, 0, collect, nbd.CMD_FLAG_REQ_ONE)
    assert seen == [4096, HOLE]


def test_block_status_with_large_and_odd_ranges(disk: Export) -> None:
    handle = connect(disk, contexts=True)
    for offset, length in ((0, disk.size), (1, 1), (4095, 2), (disk.size - 1, 1), (12345, 678901)):
        assert sum(count for count, _ in allocation(handle, offset, length)) == length
