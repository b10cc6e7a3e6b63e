"""A client that keeps several requests in flight and notes what it asked and what it was told.

Two connections, a seeded mix of writes (of 1 to 24 sectors at any sector), zeroes, trims, reads and
flushes. No two requests in flight overlap, so that each answer has one meaning.
"""

from __future__ import annotations

import random
import select
from dataclasses import dataclass
from pathlib import Path

from tests.crash.journal import SECTOR_BYTES, Journal
from tests.support import nbdwire as nbd
from tests.support.nbdwire import Wire

CONNECTIONS = 2
IN_FLIGHT_PER_CONNECTION = 12
# Small enough that the answers of all requests in flight fit into a socket's buffer: client and
# server can never wait for each other to read.
SECTORS_MAX = 24
READ_SECTORS_MAX = 16
CLUSTER_SECTORS = 8
VERIFY_SECTORS = 2048
FILL_SECTORS = 256
REPLY_SECONDS_MAX = 60.0
MIX = ("write",) * 12 + ("read",) * 4 + ("flush", "zero", "trim")


class RequestFailed(AssertionError):
    """The server answered a request with an error."""


@dataclass(frozen=True)
class Request:
    """A request in flight; ``content`` is what its sectors hold if it succeeds."""

    kind: str
    content: int
    start: int
    count: int


class Client:
    """Performs the mix on one export and keeps the Journal."""

    def __init__(self, journal: Journal, seed: int) -> None:
        self.journal = journal
        self.answers = 0
        self._chaos = random.Random(seed)
        self._number = 0
        self._wires: list[Wire] = []
        self._in_flight: list[dict[int, Request]] = []
        self._busy = bytearray(journal.sectors)

    def connect(self, socket: Path, export: str) -> None:
        """Open the connections."""
        self.disconnect()
        for _ in range(CONNECTIONS):
            wire = Wire(socket)
            self._wires.append(wire)
            self._in_flight.append({})
            wire.go(export)
            wire.socket.settimeout(REPLY_SECONDS_MAX)

    def disconnect(self) -> None:
        """Drop the connections; requests in flight get an unknown outcome."""
        for wire, in_flight in zip(self._wires, self._in_flight, strict=True):
            wire.close()
            for request in in_flight.values():
                if request.kind in ("write", "zero", "trim"):
                    self.journal.lose_answer(request.content, request.start, request.count)
        self._wires, self._in_flight = [], []
        self._busy = bytearray(self.journal.sectors)

    def run(self, answers: int) -> None:
        """Go on until ``answers`` more answers have come; raise Disconnected if the server dies.

        Returns with requests still in flight.
        """
        target = self.answers + answers
        while self.answers < target:
            self.fill()
            self.receive_some()

    def fill(self) -> None:
        """Send requests until every connection has its number in flight."""
        for wire, in_flight in zip(self._wires, self._in_flight, strict=True):
            while len(in_flight) < IN_FLIGHT_PER_CONNECTION:
                self._send(wire, in_flight)

    def settle(self) -> None:
        """Receive the answers of everything in flight."""
        while any(self._in_flight):
            self.receive_some()

    def verify(self) -> None:
        """Read the whole volume over the first connection and hold it against the journal."""
        self.settle()
        wire = self._wires[0]
        for start in range(0, self.journal.sectors, VERIFY_SECTORS):
            count = min(VERIFY_SECTORS, self.journal.sectors - start)
            self.journal.check(start, wire.read(start * SECTOR_BYTES, count * SECTOR_BYTES))

    def write_all(self) -> None:
        """Write the whole volume once, with nothing else in flight."""
        self.settle()
        for start in range(0, self.journal.sectors, FILL_SECTORS):
            count = min(FILL_SECTORS, self.journal.sectors - start)
            self._number += 1
            data = self.journal.payload(self._number, start, count)
            offset = start * SECTOR_BYTES
            error = self._wires[0].command(nbd.NBD_CMD_WRITE, offset, len(data), data=data)
            if error:
                raise RequestFailed(f"writing {len(data)} bytes at {offset}: error {error}")
            self.journal.acknowledge(self._number, start, count)

    def receive_some(self) -> None:
        """Wait for at least one answer and process all that one look at the sockets finds."""
        waiting = [w for w, f in zip(self._wires, self._in_flight, strict=True) if f]
        ready, _, _ = select.select([w.socket for w in waiting], [], [], REPLY_SECONDS_MAX)
        if not ready:
            raise RequestFailed(f"no answer within {REPLY_SECONDS_MAX} s: {self._in_flight}")
        for wire, in_flight in zip(self._wires, self._in_flight, strict=True):
            if wire.socket in ready and in_flight:
                self._receive(wire, in_flight)
                while in_flight and wire.has_received():
                    self._receive(wire, in_flight)

    def _pick(self, kind: str) -> tuple[int, int]:
        """Return a range of sectors that no request in flight touches."""
        while True:
            count = self._chaos.randint(1, READ_SECTORS_MAX if kind == "read" else SECTORS_MAX)
            start = self._chaos.randrange(self.journal.sectors - count + 1)
            if kind == "trim" or self._chaos.random() < 0.5:
                start -= start % CLUSTER_SECTORS
                count = CLUSTER_SECTORS * self._chaos.randint(1, 2)
                count = min(count, self.journal.sectors - start)
            if not any(self._busy[start : start + count]):
                return start, count

    def _send(self, wire: Wire, in_flight: dict[int, Request]) -> None:
        kind = self._chaos.choice(MIX)
        self._number += 1
        cookie = self._number
        start, count = (0, 0) if kind == "flush" else self._pick(kind)
        request = Request(kind, cookie if kind == "write" else 0, start, count)
        # Noted before it is sent: a request that only half left has an unknown outcome too.
        in_flight[cookie] = request
        self._busy[start : start + count] = b"\1" * count
        offset, length = start * SECTOR_BYTES, count * SECTOR_BYTES
        if kind == "write":
            data = self.journal.payload(cookie, start, count)
            flags = nbd.NBD_CMD_FLAG_FUA if self._chaos.random() < 0.05 else 0
            wire.send_request(nbd.NBD_CMD_WRITE, cookie, offset, length, flags=flags, data=data)
            return
        command = {
            "read": nbd.NBD_CMD_READ,
            "flush": nbd.NBD_CMD_FLUSH,
            "zero": nbd.NBD_CMD_WRITE_ZEROES,
            "trim": nbd.NBD_CMD_TRIM,
        }[kind]
        wire.send_request(command, cookie, offset, length)

    def _receive(self, wire: Wire, in_flight: dict[int, Request]) -> None:
        error, cookie = wire.receive_simple()
        request = in_flight[cookie]
        if error:
            raise RequestFailed(f"request {cookie} {request} was answered with error {error}")
        data = wire.receive(request.count * SECTOR_BYTES) if request.kind == "read" else b""
        del in_flight[cookie]
        self._busy[request.start : request.start + request.count] = bytes(request.count)
        self.answers += 1
        if request.kind == "read":
            self.journal.check(request.start, data)
        elif request.kind != "flush":
            self.journal.acknowledge(request.content, request.start, request.count)
