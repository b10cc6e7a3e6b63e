"""What a client knows about a volume: per sector, which contents a read may return.

A sector's content is identified by the number of the write that put it there; 0 is "zeroes". Every
512-byte sector of write ``n`` is filled with {n, sector index}, so that a sector that is found in
the wrong place, or that mixes two writes, is recognised.

An acknowledged write leaves one possible content. A write whose connection broke before the answer
has an unknown outcome: old or new, sector by sector. The first read afterwards decides, and from
then on the answer must not change again.
"""

from __future__ import annotations

import struct

SECTOR_BYTES = 512
STAMP = struct.Struct(">QQ")
REPEATS = SECTOR_BYTES // STAMP.size
ZEROES = bytes(SECTOR_BYTES)


class Lost(AssertionError):
    """A read returned what no acknowledged or outstanding write explains."""


def sector_content(number: int, sector: int) -> bytes:
    """Return the 512 bytes that write ``number`` puts into ``sector``."""
    return STAMP.pack(number, sector) * REPEATS if number else ZEROES


def describe(content: bytes) -> str:
    """Say in words what a sector holds."""
    if content == ZEROES:
        return "zeroes"
    number, sector = STAMP.unpack_from(content)
    if content == sector_content(number, sector):
        return f"write {number} of sector {sector}"
    return f"no write's content, it starts with {content[:32].hex()}"


class Journal:
    """The possible contents of a volume of ``sectors`` sectors, all zeroes at first."""

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors
        self.acknowledged = [0] * sectors
        self.unsure: dict[int, set[int]] = {}

    def payload(self, number: int, start: int, count: int) -> bytes:
        """Return the data of write ``number`` to ``count`` sectors from ``start``."""
        return b"".join(sector_content(number, sector) for sector in range(start, start + count))

    def acknowledge(self, content: int, start: int, count: int) -> None:
        """Note that ``content`` was acknowledged for the sectors."""
        for sector in range(start, start + count):
            self.acknowledged[sector] = content
            self.unsure.pop(sector, None)

    def lose_answer(self, content: int, start: int, count: int) -> None:
        """Note that nobody knows whether ``content`` was written."""
        for sector in range(start, start + count):
            self.unsure.setdefault(sector, set()).add(content)

    def check(self, start: int, data: bytes) -> None:
        """Compare what was read from ``start``; raise Lost at the first unexplained sector.

        An unknown outcome that the data decides is decided from now on.
        """
        count = len(data) // SECTOR_BYTES
        if not self.unsure and data == self._expected(start, count):
            return
        for index in range(count):
            sector = start + index
            content = data[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES]
            possible = {self.acknowledged[sector]} | self.unsure.get(sector, set())
            for number in possible:
                if content == sector_content(number, sector):
                    self.acknowledge(number, sector, 1)
                    break
            else:
                raise Lost(
                    f"sector {sector} holds {describe(content)}; acknowledged is write "
                    f"{self.acknowledged[sector]} (0: zeroes), without an answer are "
                    f"{sorted(self.unsure.get(sector, set()))}"
                )

    def _expected(self, start: int, count: int) -> bytes:
        known = self.acknowledged
        return b"".join(sector_content(known[s], s) for s in range(start, start + count))

    def copy(self) -> Journal:
        """Return an independent copy: what a snapshot taken now must hold."""
        twin = Journal(self.sectors)
        twin.acknowledged = list(self.acknowledged)
        twin.unsure = {sector: set(numbers) for sector, numbers in self.unsure.items()}
        return twin
