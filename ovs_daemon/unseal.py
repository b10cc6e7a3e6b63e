"""Sealed objects in plain Python: decrypted and decompressed for `vstorage alba recover`.

The format is in `doc/format.md`. What an object needs is imported only when one needs it:
`cryptography`, `lz4` or `zstandard`.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ovs_daemon.errors import Code, VStorageError

_SEAL = 256
_TAG = 16
_PACKED = 1 << 31
_SEAL_NUMBER = 2**64 - 1
_PURPOSE = b"open-vstorage sealed object 1"
_MAGIC = b"OVSSEAL1"
# magic, version, compression, encryption, chunk size, key name length, plain length, table crc,
# salt, tag, key name
_FIELDS = struct.Struct("<8sHBBBxHQI4x32s16s128s")

Keys = Mapping[str, str]


class Unsealable(Exception):
    """What is wrong with a sealed object."""


@dataclass(frozen=True)
class _Seal:
    compression: int
    encrypted: bool
    chunk_bytes: int
    plain_bytes: int
    salt: bytes
    tag: bytes
    key: str
    signed: bytes

    @property
    def chunks(self) -> int:
        return -(-self.plain_bytes // self.chunk_bytes)


def unseal(name: str, sealed: bytes, keys: Keys) -> bytes:
    """The plain bytes of an object.

    :param name: of the object, which its tags are over
    :param keys: 64 hexadecimal digits, by name
    :raises Unsealable: it is damaged, or its key was not given
    :raises VStorageError: ``tool_failed``, a package that it needs is not installed
    """
    seal = _seal(sealed)
    table = sealed[-_SEAL - 8 * seal.chunks : -_SEAL]
    cipher = _cipher(name, seal, table, keys) if seal.encrypted else None
    unpack = _unpacker(seal.compression)
    plain, at = bytearray(), 0
    for number in range(seal.chunks):
        word, _ = struct.unpack_from("<II", table, 8 * number)
        packed, size = bool(word & _PACKED), word & ~_PACKED
        chunk, at = sealed[at : at + size], at + size
        if cipher is not None:
            chunk = cipher(number, packed, chunk)
        wanted = min(seal.chunk_bytes, seal.plain_bytes - len(plain))
        if packed:
            chunk = unpack(chunk, wanted)
        if len(chunk) != wanted:
            raise Unsealable(f"chunk {number} has {len(chunk)} bytes instead of {wanted}")
        plain += chunk
    return bytes(plain)


def _seal(sealed: bytes) -> _Seal:
    seal = sealed[-_SEAL:]
    if len(seal) < _SEAL or not seal.startswith(_MAGIC):
        raise Unsealable("it has no seal at its end")
    (
        _,
        _,
        compression,
        encryption,
        chunk_log2,
        key_bytes,
        plain_bytes,
        _,
        salt,
        tag,
        key,
    ) = _FIELDS.unpack_from(seal)
    if compression > 2 or encryption > 1 or not 12 <= chunk_log2 <= 20:
        raise Unsealable("its seal is damaged, or of a newer release")
    signed = seal[:64] + bytes(_TAG) + seal[80:252] + bytes(4)
    found = _Seal(
        compression,
        encryption == 1,
        1 << chunk_log2,
        plain_bytes,
        salt,
        tag,
        key[:key_bytes].decode(errors="replace"),
        signed,
    )
    if 8 * found.chunks + _SEAL > len(sealed):
        raise Unsealable("its table is damaged")
    return found


def _cipher(
    name: str, seal: _Seal, table: bytes, keys: Keys
) -> Callable[[int, bool, bytes], bytes]:
    """What decrypts a chunk: number, whether it is packed, and its bytes with their tag."""
    if seal.key not in keys:
        raise Unsealable(f"it is encrypted with the key {seal.key!r}, which was not given")
    secret = hmac.digest(seal.salt, bytes.fromhex(keys[seal.key]), hashlib.sha256)
    # HKDF (RFC 5869): one block is all that is needed.
    own = hmac.digest(secret, _PURPOSE + b"\x01", hashlib.sha256)
    aesgcm = _imported("cryptography.hazmat.primitives.ciphers.aead", "cryptography").AESGCM(own)
    invalid = _imported("cryptography.exceptions", "cryptography").InvalidTag

    def decrypt(number: int, sealed: bytes, about: bytes) -> bytes:
        try:
            plain: bytes = aesgcm.decrypt(struct.pack("<4xQ", number), sealed, about)
        except invalid as failure:
            raise Unsealable(
                f"a tag is wrong: it was changed, or the key {seal.key!r} is another one"
            ) from failure
        return plain

    decrypt(_SEAL_NUMBER, seal.tag, seal.signed + table + name.encode())
    return lambda number, packed, chunk: decrypt(
        number, chunk, struct.pack("<QB", number, packed) + name.encode()
    )


def _unpacker(compression: int) -> Callable[[bytes, int], bytes]:
    """What decompresses a chunk to so many bytes."""
    if compression == 0:
        return lambda chunk, wanted: chunk
    if compression == 1:
        block = _imported("lz4.block", "lz4")
        return _guarded(lambda chunk, wanted: block.decompress(chunk, uncompressed_size=wanted))
    zstd = _imported("zstandard", "zstandard").ZstdDecompressor()
    return _guarded(lambda chunk, wanted: zstd.decompress(chunk, max_output_size=wanted))


def _guarded(unpack: Callable[[bytes, int], bytes]) -> Callable[[bytes, int], bytes]:
    def call(chunk: bytes, wanted: int) -> bytes:
        try:
            return unpack(chunk, wanted)
        # Each library has an exception of its own for bytes that it cannot read.
        except Exception as failure:
            raise Unsealable(f"a chunk cannot be decompressed: {failure}") from failure

    return call


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        raise VStorageError(
            Code.TOOL_FAILED,
            "unseal objects",
            f"{package} is not installed ({missing})",
            f"install it from PyPI: pip install {package}",
        ) from missing
