"""Sealed objects that were made here, by the format's page alone, and then damaged."""

from __future__ import annotations

import hashlib
import hmac
import struct

import lz4.block
import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ovs_daemon.unseal import Unsealable, unseal

NAME = "volume/sco/00000001"
KEY = "0f" * 32
CHUNK = 4096
SALT = bytes(range(32))
PLAIN = b"all the same " * 700 + hashlib.shake_256(b"noise").digest(5000)


def packed(compression: int, plain: bytes) -> bytes:
    if compression == 1:
        return bytes(lz4.block.compress(plain, store_size=False))
    return zstandard.ZstdCompressor(level=1).compress(plain)


def sealed(compression: int, encrypted: bool, plain: bytes = PLAIN, name: str = NAME) -> bytes:
    """As `doc/format.md` describes it; its checksums (CRC32C), which only disks need, are zero."""
    secret = hmac.digest(SALT, bytes.fromhex(KEY), hashlib.sha256)
    own = hmac.digest(secret, b"open-vstorage sealed object 1\x01", hashlib.sha256)
    cipher = AESGCM(own)
    chunks, table = b"", b""
    for number in range(-(-len(plain) // CHUNK)):
        chunk = plain[number * CHUNK : (number + 1) * CHUNK]
        smaller = packed(compression, chunk) if compression else chunk
        is_packed = len(smaller) < len(chunk)
        chunk = smaller if is_packed else chunk
        if encrypted:
            about = struct.pack("<QB", number, is_packed) + name.encode()
            chunk = cipher.encrypt(struct.pack("<4xQ", number), chunk, about)
        chunks += chunk
        table += struct.pack("<II", len(chunk) | is_packed << 31, 0)
    key = b"key-1" if encrypted else b""
    head = struct.pack("<8sHBBBxH", b"OVSSEAL1", 1, compression, encrypted, 12, len(key))
    head += struct.pack("<QI4x", len(plain), 0) + (SALT if encrypted else bytes(32))
    rest = key.ljust(128, b"\0") + bytes(44)
    tag = bytes(16)
    if encrypted:
        signed = head + tag + rest + bytes(4) + table + name.encode()
        tag = cipher.encrypt(struct.pack("<4xQ", 2**64 - 1), b"", signed)
    return chunks + table + head + tag + rest + bytes(4)


@pytest.mark.parametrize("compression", [0, 1, 2])
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("plain", [PLAIN, PLAIN[:4096], b"x", b""])
def test_what_went_in_comes_out(compression: int, encrypted: bool, plain: bytes) -> None:
    assert unseal(NAME, sealed(compression, encrypted, plain), {"key-1": KEY}) == plain


@pytest.mark.parametrize("compression", [0, 1, 2])
def test_no_flipped_bit_of_an_encrypted_object_passes(compression: int) -> None:
    whole = sealed(compression, True)
    # Not the checksum at the end, which is for disks.
    for at in range(0, len(whole) - 4, 7):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(Unsealable):
            unseal(NAME, bytes(damaged), {"key-1": KEY})


@pytest.mark.parametrize("compression", [0, 1, 2])
def test_damage_without_tags_is_an_error_or_other_bytes(compression: int) -> None:
    whole = sealed(compression, False)
    for at in range(0, len(whole) - 4, 3):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        try:
            unseal(NAME, bytes(damaged), {})
        except Unsealable:
            continue


def test_whose_object_it_is_and_with_which_key_matters() -> None:
    whole = sealed(1, True)
    for name, key in (("volume/sco/00000002", KEY), (NAME, "f0" * 32)):
        with pytest.raises(Unsealable, match="a tag is wrong"):
            unseal(name, whole, {"key-1": key})
    with pytest.raises(Unsealable, match="encrypted with the key 'key-1', which was not given"):
        unseal(NAME, whole, {"key-2": KEY})
    for short in (whole[: len(whole) // 2], b"", whole[-256:]):
        with pytest.raises(Unsealable):
            unseal(NAME, short, {"key-1": KEY})
