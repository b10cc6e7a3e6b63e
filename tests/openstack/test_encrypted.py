"""Encrypted volumes: what servers write is read with the key only, from whatever copy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openstack.conftest import PREFIX, Made
from tests.openstack.host_side import HostSide
from tests.openstack.lab import layout
from tests.openstack.lab.layout import ZONES
from tests.openstack.nodes import NodeView, traces, traces_in_the_end
from tests.openstack.test_backups import back_up, backups
from tests.openstack.user import Unexpected, User

__all__ = ["backups"]

GIB = 1 << 30
MIB = 1 << 20
MAGIC = b"LUKS\xba\xbe\x00\x01"
HEADER_BYTES_MAX = 2 * MIB
# All that a server or this test writes is near the beginning.
LOOKED_AT_BYTES = 8 * MIB


def make_type(user: User, provider: str) -> Any:
    """A new volume type whose volumes are encrypted."""
    storage = user.cloud.block_storage
    name = f"{PREFIX}{provider}"
    if (left := storage.find_type(name)) is not None:
        storage.delete_type(left)
    made = storage.create_type(name=name, extra_specs={"volume_backend_name": "ovs"})
    storage.create_type_encryption(
        made, provider=provider, cipher="aes-xts-plain64", key_size=256,
        control_location="front-end",
    )  # fmt: skip
    return made


@pytest.fixture
def encrypted(made: Made, user: User) -> Iterator[str]:
    """The name of a volume type; its volumes go before it."""
    kind = make_type(user, "luks")
    yield str(kind.name)
    for volume in [
        one for one in user.cloud.block_storage.volumes() if one.name.startswith(PREFIX)
    ]:
        user.remove([one["server_id"] for one in volume.attachments], [volume.id])
    user.cloud.block_storage.delete_type(kind)


def through_luks(path: Path) -> list[str]:
    """QEMU's arguments for a volume with its key, which is that of the lab."""
    secret = f"secret,id=key,data={layout.ENCRYPTION_KEY}"
    return ["--object", secret, "--image-opts", f"driver=luks,key-secret=key,file.filename={path}"]


def write(host: HostSide, volume: str, text: str) -> None:
    """Write a text to the beginning of what a server will see, as 64 KiB with zeroes."""
    with host.attached(volume) as path:
        source = Path(path.parent.parent / f"{volume}.text")
        source.write_bytes(text.encode().ljust(64 << 10, b"\0"))
        try:
            script = f"write -s {source} 0 64k"
            subprocess.run(
                ["qemu-io", "-c", script, "-c", "flush", *through_luks(path)],
                check=True, capture_output=True,
            )  # fmt: skip
        finally:
            source.unlink()


def decrypted(path: Path, folder: Path) -> bytes:
    """The first KiB that a server would see."""
    target = folder / "decrypted"
    target.unlink(missing_ok=True)
    command = ["qemu-img", "convert", "-O", "raw", "-S", "0"]
    options = through_luks(path)
    window = f"driver=raw,offset=0,size=1024,file.{options[-1].replace(',', ',file.')}"
    subprocess.run([*command, *options[:-1], window, target], check=True, capture_output=True)
    return target.read_bytes()


def check_copy(host: HostSide, volume: str, text: str, folder: Path) -> None:
    """What is below is LUKS and does not hold the text; with the key it is there."""
    with host.attached(volume) as path:
        with path.open("rb") as file:
            below = file.read(LOOKED_AT_BYTES)
        assert below.startswith(MAGIC)
        assert text.encode() not in below
        assert decrypted(path, folder).startswith(text.encode())


def test_a_server_boots_from_one_and_writes_to_another(
    made: Made, user: User, host: HostSide, nodes: list[NodeView], encrypted: str, tmp_path: Path
) -> None:
    before = traces(nodes)
    root, data = made.bootable(volume_type=encrypted), made.volume(volume_type=encrypted)
    # What nobody has written is noise; the guest marks disks that are blank.
    write(host, data, "")
    server = made.server(root)
    user.attach(server, data)
    mark = user.wait_console(server, r"GUEST: marked vdb (\S+)\n").group(1)
    user.cloud.block_storage.extend_volume(data, 2)
    resized = user.wait_console(server, r"GUEST: disk vdb resized to (\d+) sectors\n")
    header_bytes = 2 * GIB - int(resized.group(1)) * 512
    assert 0 < header_bytes <= HEADER_BYTES_MAX
    user.wait_volume(data, "in-use")
    user.wait_tick_after(server, user.tick(server))
    user.detach(server, data)
    user.wait_console(server, r"GUEST: disk vdb gone\n")
    check_copy(host, data, f"mark {mark}", tmp_path)
    user.delete_server(server)
    clone = user.create_volume(made.name(), source_volume_id=root).id
    second = made.server(clone)
    user.wait_console(second, r"GUEST: boot 2\n")
    user.remove([second], [root, data, clone])
    assert traces_in_the_end(nodes, before) == before


def test_every_copy_is_encrypted(
    made: Made, user: User, host: HostSide, encrypted: str, backups: list[Any], tmp_path: Path
) -> None:
    storage = user.cloud.block_storage
    source, text = made.volume(volume_type=encrypted), f"secret of {made.name()}"
    write(host, source, text)
    snapshot = user.create_snapshot(source, made.name())
    copies = [
        user.create_volume(made.name(), 2, snapshot_id=snapshot.id, volume_type=encrypted).id,
        user.create_volume(made.name(), source_volume_id=source).id,
        made.volume(volume_type=encrypted),
    ]
    backup = back_up(user, source, backups)
    storage.restore_backup(backup.id, volume_id=copies[-1])
    user.wait_volume(copies[-1], "available")
    answer = storage.upload_volume_to_image(source, made.name())
    try:
        user.wait_volume(source, "available")
        copies.append(made.volume(volume_type=encrypted, image_id=answer["image_id"]))
    finally:
        user.cloud.image.delete_image(answer["image_id"])
    for volume in (source, *copies):
        check_copy(host, volume, text, tmp_path)


def test_what_qemu_cannot_decrypt_is_refused(made: Made, user: User, nodes: list[NodeView]) -> None:
    before = traces(nodes)
    kind = make_type(user, "luks2")
    try:
        refused = user.cloud.block_storage.create_volume(
            name=made.name(), size=1, volume_type=kind.name, availability_zone=ZONES[0].name
        )
        with pytest.raises(Unexpected, match="is error"):
            user.wait_volume(refused.id, "available")
        user.delete_volume(refused.id)
    finally:
        user.cloud.block_storage.delete_type(kind)
    assert traces_in_the_end(nodes, before) == before
