"""Sizes as people write them ("1G", "512MiB") and as the daemon keeps them (bytes)."""

from __future__ import annotations

import re

from ovs_daemon.errors import Code, VStorageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

CLUSTER_BYTES = 4 * KIB
VOLUME_BYTES_MAX = 64 * TIB
SCO_BYTES_MIN = MIB
SCO_BYTES_MAX = 256 * MIB

_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes meant by ``text``; units are powers of 1024 whether written G, GB or GiB.

    :raises VStorageError: ``bad_size`` when it is no size, or a fraction of a byte
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise _not_a_size(text)
    number, unit = match[1], match[2].upper()
    whole, _, fraction = number.partition(".")
    scaled = int(whole + fraction) * _FACTORS[unit]
    size, rest = divmod(scaled, int(10 ** len(fraction)))
    if rest:
        raise _not_a_size(text)
    return size


def format_size(size: int) -> str:
    """``size`` bytes for a reader: two decimals at most, exact when it is a whole unit."""
    for name, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor:
            return f"{size / factor:.2f}".rstrip("0").rstrip(".") + f" {name}"
    return f"{size} B"


def check_volume_size(what: str, size: int) -> None:
    """Refuse what cannot be a volume's size.

    :param what: the verb and object, for the error
    :param size: bytes; a multiple of the 4 KiB cluster, over 0, at most 64 TiB
    :raises VStorageError: ``bad_size``
    """
    if size <= 0:
        why = f"{size} bytes is no size for a volume"
    elif size % CLUSTER_BYTES:
        why = f"{size} bytes is not a multiple of 4 KiB"
    elif size > VOLUME_BYTES_MAX:
        why = f"{format_size(size)} is over the limit of {format_size(VOLUME_BYTES_MAX)}"
    else:
        return
    raise VStorageError(
        Code.BAD_SIZE, what, why, "give a multiple of 4 KiB from 4KiB to 64TiB, such as 10GiB"
    )


def _not_a_size(text: str) -> VStorageError:
    return VStorageError(
        Code.BAD_SIZE,
        f"read the size {text!r}",
        "it is not a whole number of bytes",
        "write a number with K, M, G or T, such as 512M or 10GiB",
    )
