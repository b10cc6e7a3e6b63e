"""Arithmetic on extents: sorted, disjoint [offset, length] pairs in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

Extent = tuple[int, int]


def merge(extents: Iterable[Sequence[int]], unit: int, end: int) -> list[Extent]:
    """Sorted and disjoint, rounded out to ``unit`` bytes, cut at ``end``."""
    merged: list[Extent] = []
    for offset, length in sorted((one[0], one[1]) for one in extents):
        first = offset - offset % unit
        last = min(-(-(offset + length) // unit) * unit, end)
        if last <= first:
            continue
        if merged and first <= sum(merged[-1]):
            start = merged[-1][0]
            merged[-1] = (start, max(last, sum(merged[-1])) - start)
        else:
            merged.append((first, last - first))
    return merged


def gaps(extents: Sequence[Extent], end: int) -> list[Extent]:
    """What the extents leave out, up to ``end``."""
    found: list[Extent] = []
    position = 0
    for offset, length in extents:
        if offset > position:
            found.append((position, offset - position))
        position = offset + length
    if position < end:
        found.append((position, end - position))
    return found


def pieces(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """The same bytes in pieces of at most ``size``."""
    for offset, length in extents:
        for start in range(offset, offset + length, size):
            yield start, min(size, offset + length - start)


def common(some: Sequence[Extent], others: Sequence[Extent]) -> list[Extent]:
    """What both hold."""
    found: list[Extent] = []
    left = right = 0
    while left < len(some) and right < len(others):
        first = max(some[left][0], others[right][0])
        ends = sum(some[left]), sum(others[right])
        if first < min(ends):
            found.append((first, min(ends) - first))
        if ends[0] <= ends[1]:
            left += 1
        else:
            right += 1
    return found
