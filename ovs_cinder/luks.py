"""LUKS on volumes of encrypted types.

A server gets such a volume over NBD, and its QEMU encrypts. QEMU wants a header to be there, which
nobody else writes: Nova does so only for disks that have a device path. So the driver writes it
when it makes a volume, with the key that Cinder has made, in the form in which Nova gives it to
QEMU. Clones, snapshots, uploads and backups are of the volume with its header.

The header takes :data:`HEADER_BYTES_MAX` at most of the volume's size; servers see the rest. What
nobody has written there reads as noise, since zeroes below are no zeroes above.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from castellan import key_manager
from cinder import exception
from cinder.image import image_utils
from cinder.volume import volume_utils
from oslo_concurrency import processutils
from oslo_config import cfg
from oslo_log import log as logging

from ovs_cinder import qemu_img

LOG = logging.getLogger(__name__)

HEADER_BYTES_MAX = 2 << 20
_SECRET_ID = "passphrase"
# Hashing makes guesses dear. Nobody guesses a random key, and a server stands still while its QEMU
# hashes: a tenth of a second instead of two.
_HASHING_MS = 100
# QEMU measures how fast it hashes. Where the kernel counts CPU time in ticks, and the machine is
# busy, it counts none now and then, and QEMU gives up.
_NO_MEASURE = "Unable to get accurate CPU usage"
_ATTEMPTS = 10


@dataclass(frozen=True)
class Luks:
    """How a volume is encrypted.

    :param cipher: ``cipher_alg``, ``cipher_mode`` and ``ivgen_alg`` as QEMU calls them
    :param passphrase: what opens it
    """

    cipher: Mapping[str, str]
    passphrase: str = field(repr=False)


def luks_of(context: Any, volume: Any) -> Luks:
    """How a volume of an encrypted type is to be encrypted.

    :raises VolumeDriverException: its type asks for what QEMU cannot do
    """
    try:
        encryption = volume_utils.check_encryption_provider(volume, context)
    except exception.VolumeDriverException as failure:
        raise exception.VolumeDriverException(
            message=f"{failure.msg} QEMU encrypts volumes of Open vStorage in servers, and knows "
            "LUKS version 1 only: give the volume type the provider luks, a cipher such as "
            "aes-xts-plain64 and a key size"
        ) from failure
    key = key_manager.API(cfg.CONF).get(context, encryption["encryption_key_id"])
    secret_bytes = key.get_encoded()
    assert secret_bytes, "the key manager does not keep keys"
    return Luks(
        image_utils.decode_cipher(encryption["cipher"], encryption["key_size"]),
        # As Nova and os-brick do.
        secret_bytes.hex(),
    )


def write_header(luks: Luks, uri: str) -> None:
    """Make a new volume one of LUKS; whatever it holds can then no more be read.

    :param uri: of its NBD export
    :raises VolumeBackendAPIException: it could not be written
    """
    options = [
        f"key-secret={_SECRET_ID}",
        f"cipher-alg={luks.cipher['cipher_alg']}",
        f"cipher-mode={luks.cipher['cipher_mode']}",
        f"ivgen-alg={luks.cipher['ivgen_alg']}",
        f"iter-time={_HASHING_MS}",
    ]
    try:
        with secret(luks) as secret_object:
            # The size is no part of the header: it is the volume's, as ever.
            arguments = ["-q", "-f", "luks", *secret_object, "-o", ",".join(options), uri, "0"]
            _create(uri, arguments)
    except processutils.ProcessExecutionError as failure:
        raise exception.VolumeBackendAPIException(
            data=f"cannot write the LUKS header: {(failure.stderr or str(failure)).strip()}"
        ) from failure


def _create(uri: str, arguments: list[str]) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            qemu_img.run(uri, "create", *arguments)
            return
        except processutils.ProcessExecutionError as failure:
            if attempt == _ATTEMPTS or _NO_MEASURE not in (failure.stderr or ""):
                raise
            LOG.info("volume of %s: QEMU could not measure its speed, again", uri)


@contextlib.contextmanager
def secret(luks: Luks) -> Iterator[list[str]]:
    """qemu-img's arguments by which it knows the passphrase; it is no argument itself."""
    with image_utils.temporary_file(prefix="luks_") as path:
        Path(path).write_text(luks.passphrase)
        yield ["--object", f"secret,id={_SECRET_ID},format=raw,file={qemu_img.option(path)}"]


def opened(uri: str) -> str:
    """qemu-img's options for an image: a volume through its LUKS, together with :func:`secret`."""
    socket = qemu_img.option(qemu_img.socket_of(uri))
    server = f"file.driver=nbd,file.server.type=unix,file.server.path={socket}"
    return f"driver=luks,key-secret={_SECRET_ID},{server}"
