"""Images into volumes and volumes into images, by qemu-img over the volume's NBD socket.

Only allocated data is read, only data that is not zero is written, and the volume sees requests
in whatever order is fastest; a flush ends it, so that a finished copy survives a loss of power.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from cinder import exception
from cinder.image import accelerator, image_utils
from oslo_concurrency import processutils
from oslo_config import cfg

from ovs_cinder import luks as volume_luks
from ovs_cinder import qemu_img
from ovs_cinder.luks import Luks

CONF = cfg.CONF

_GIB = 1 << 30

# Requests that qemu-img keeps under way; 16 is the most that it takes.
_COROUTINES = "16"


def fill_from_image(
    context: Any,
    image_service: Any,
    image_id: str,
    uri: str,
    size_gb: int,
    zeroed: bool,
    sparse: bool,
    luks: Luks | None = None,
) -> None:
    """Write an image from Glance to a volume.

    :param uri: of the volume's NBD export
    :param size_gb: of the volume
    :param zeroed: the volume reads as zeroes now, so that zeroes need not be written
    :param sparse: False writes zeroes as data, too
    :param luks: write through it; the volume has its header
    :raises ImageUnacceptable: the image is none that we may read, or too large
    """
    image = image_service.show(context, image_id)
    image_utils.check_image_conversion_disable(image["disk_format"], "raw", image_id)
    with _fetched(context, image_service, image) as path:
        data = image_utils.qemu_img_info(path, run_as_root=False)
        image_utils.check_virtual_size(data.virtual_size, size_gb, image_id)
        if luks is not None:
            _check_room_beside_header(data.virtual_size, size_gb, image_id)
        source_format = image_utils.fixup_disk_format(image["disk_format"])
        # Nobody's image may name other files of this host.
        image_utils.check_image_format(path, source_format, image_id, data, False)
        options = ["-n", "-W", "-m", _COROUTINES, "-t", "writeback"]
        if zeroed and sparse:
            options.append("--target-is-zero")
        if not sparse:
            options += ["-S", "0"]
        if source_format not in ("", "ami"):
            options += ["-f", source_format]
        if luks is None:
            _convert(uri, [*options, "-O", "raw", path, uri])
            return
        with volume_luks.secret(luks) as secret:
            target = ["--target-image-opts", path, volume_luks.opened(uri)]
            _convert(uri, [*options, *secret, *target])


def upload_as_image(
    context: Any, image_service: Any, image_meta: dict[str, Any], uri: str, volume: Any
) -> None:
    """Store a volume in Glance, in the format that the image is to have.

    :param uri: of the NBD export of what is to be stored
    """
    disk_format = image_meta["disk_format"]
    image_utils.check_image_conversion_disable(disk_format, "raw", image_meta["id"], upload=True)
    target_format = image_utils.fixup_disk_format(disk_format)
    with image_utils.temporary_file(prefix=f"vol_upload_{image_meta['id']}") as path:
        options = ["-O", target_format, "-f", "raw", "-W", "-m", _COROUTINES]
        compressible = image_utils.COMPRESSIBLE_IMAGE_FORMATS
        if CONF.image_compress_on_upload and target_format in compressible:
            options.append("-c")
        _convert(uri, [*options, uri, path])
        if image_meta.get("container_format") == "compressed":
            accelerator.ImageAccel(path, path).compress_img(run_as_root=False)
        store_id = volume.volume_type and volume.volume_type.extra_specs.get(
            "image_service:store_id"
        )
        base = (volume.glance_metadata or {}).get("image_id")
        with open(path, "rb") as image_file:
            image_service.update(
                context,
                image_meta["id"],
                {},
                image_file,
                store_id=store_id or None,
                base_image_ref=base,
            )


def _check_room_beside_header(image_bytes: int, size_gb: int, image_id: str) -> None:
    if image_bytes > size_gb * _GIB - volume_luks.HEADER_BYTES_MAX:
        raise exception.ImageUnacceptable(
            image_id=image_id,
            reason=f"it has {image_bytes} bytes, which leaves no room for the LUKS header in a "
            f"volume of {size_gb} GiB: make the volume larger by 1 GiB",
        )


def is_local(socket: str) -> bool:
    """Whether a daemon's socket is one of this host."""
    return os.path.exists(socket)


@contextlib.contextmanager
def _fetched(context: Any, image_service: Any, image: dict[str, Any]) -> Iterator[str]:
    """The image as a file: the one that Cinder has fetched and verified already, or our own."""
    image_id = image["id"]
    path = image_utils.TemporaryImages.for_image_service(image_service).get(context, image_id)
    if path and image.get("container_format") != "compressed":
        yield path
        return
    with image_utils.temporary_file(prefix=f"image_download_{image_id}_") as own:
        if image.get("container_format") == "compressed":
            image_utils.fetch(context, image_service, image_id, own, None, None)
            _decompress(image_id, own)
        else:
            image_utils.fetch_verify_image(context, image_service, image_id, own)
        yield own


def _decompress(image_id: str, path: str) -> None:
    if not CONF.allow_compression_on_image_upload:
        raise exception.ImageUnacceptable(
            image_id=image_id,
            reason="its container_format is compressed, which "
            "allow_compression_on_image_upload forbids",
        )
    if not accelerator.is_gzip_compressed(path):
        raise exception.ImageUnacceptable(
            image_id=image_id, reason="only gzip is supported for compressed images"
        )
    accelerator.ImageAccel(path, path).decompress_img(run_as_root=False)


def _convert(uri: str, arguments: list[str]) -> None:
    try:
        qemu_img.run(uri, "convert", *arguments)
    except processutils.ProcessExecutionError as failure:
        if "No space left" in (failure.stderr or ""):
            raise exception.ImageCopyFailure(
                reason=f"{failure.stderr}; see that image_conversion_dir has room"
            ) from failure
        raise exception.ImageCopyFailure(
            reason=(failure.stderr or str(failure)).strip()
        ) from failure
