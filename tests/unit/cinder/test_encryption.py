"""Volumes of encrypted types: Cinder's own key manager, qemu-img, and qemu-nbd as the engine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cinder import exception
from cinder.db import api as db
from cinder.keymgr import conf_key_mgr
from oslo_concurrency import processutils
from oslo_config import cfg

from ovs_cinder import luks, qemu_img
from tests.unit.cinder.conftest import Cloud
from tests.unit.cinder.served import GIB, MIB, Glance, Served

KEY = "00" * 16 + "a5" * 16
#: by which Cinder's key manager of one key knows it
KEY_ID = "00000000-0000-0000-0000-000000000000"
MAGIC = b"LUKS\xba\xbe\x00\x01"


class Type:
    """The encryption of a volume type, as the database would hold it."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            "provider": "luks",
            "cipher": "aes-xts-plain64",
            "key_size": 256,
            "control_location": "front-end",
        }

    def get(self, context: Any, volume_id: str) -> dict[str, Any]:
        return self.values | {"encryption_key_id": KEY_ID}


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Type]:
    found = Type()
    monkeypatch.setattr(db, "volume_encryption_metadata_get", found.get)
    manager = f"{conf_key_mgr.__name__}.{conf_key_mgr.ConfKeyManager.__name__}"
    cfg.CONF.set_override("backend", manager, group="key_manager")
    cfg.CONF.set_override("fixed_key", KEY, group="key_manager")
    yield found
    cfg.CONF.clear_override("backend", group="key_manager")
    cfg.CONF.clear_override("fixed_key", group="key_manager")


@pytest.fixture
def encrypted(served: Served, kind: Type) -> Any:
    """A new volume of 1 GiB."""
    served.serve_new()
    volume = served.cloud.make.volume(encryption_key_id=KEY_ID)
    served.cloud.driver.create_volume(volume)
    return volume


@pytest.fixture
def image(served: Served) -> Path:
    """20 MiB, of which the first and the last are data."""
    image = served.folder / "image.raw"
    with image.open("wb") as file:
        for offset in (0, 19 * MIB):
            file.seek(offset)
            file.write(b"data" * (MIB // 4))
    return image


def qemu_io(file: Path, passphrase: str, *script: str) -> subprocess.CompletedProcess[str]:
    """Do something to a file through its LUKS."""
    words = [word for line in script for word in ("-c", line)]
    secret = f"secret,id=key,data={passphrase}"
    image = f"driver=luks,key-secret=key,file.filename={file}"
    return subprocess.run(
        ["qemu-io", "--object", secret, *words, "--image-opts", image],
        check=False, capture_output=True, text=True,
    )  # fmt: skip


def holds(file: Path, data: bytes) -> bool:
    """Whether it has the bytes in its beginning, where all is that these tests write."""
    with file.open("rb") as opened:
        return data in opened.read(32 * MIB)


def nothing_is_left(cloud: Cloud) -> bool:
    return cloud.verbs.list_volumes(everything=True) == {"volumes": []}


def test_a_blank_volume_has_a_header_for_its_key(served: Served, encrypted: Any) -> None:
    shown = served.cloud.verbs.show_volume(encrypted.name)
    data = served.data(encrypted)
    assert shown["attachments"] == []
    assert data.stat().st_size == shown["size"] == GIB
    with data.open("rb") as file:
        header = file.read(112)
    assert header.startswith(MAGIC)
    assert (header[8:40].rstrip(b"\0"), header[40:72].rstrip(b"\0")) == (b"aes", b"xts-plain64")
    # XTS has two keys, of 256 bits each.
    assert int.from_bytes(header[108:112]) == 64
    # Where the server's disk begins, in sectors.
    assert 0 < int.from_bytes(header[104:108]) * 512 <= luks.HEADER_BYTES_MAX
    assert list(served.folder.glob("luks_*")) == []
    served.stop()
    text = "what the server wrote"
    pattern = served.folder / "pattern"
    pattern.write_text(text)
    written = qemu_io(data, KEY, f"write -s {pattern} 0 4096")
    assert written.returncode == 0, written.stdout + written.stderr
    assert not holds(data, text.encode())
    assert "what.the.server" in qemu_io(data, KEY, "read -v 0 512").stdout
    assert qemu_io(data, "5a" + KEY[2:], "read 0 512").returncode != 0


def test_an_image_is_written_through_luks(served: Served, encrypted: Any, image: Path) -> None:
    glance = Glance(image, "raw")
    cloud = served.cloud
    cloud.driver.copy_image_to_encrypted_volume(cloud.context, encrypted, glance, "image")
    assert cloud.verbs.show_volume(encrypted.name)["attachments"] == []
    assert list(served.folder.glob("luks_*")) == []
    data = served.data(encrypted)
    served.stop()
    assert not holds(data, b"data" * 8)
    # What is no data in the image is zeroes, and must not read as noise.
    read = qemu_io(data, KEY, f"read -P 0x00 {MIB} 18M", f"read -v {20 * MIB - 512} 512")
    assert "Pattern verification failed" not in read.stdout
    assert "datadatadatadata" in read.stdout


def test_an_image_must_leave_room_for_the_header(
    served: Served, encrypted: Any, image: Path
) -> None:
    cloud = served.cloud
    subprocess.run(["qemu-img", "resize", "-q", "-f", "raw", image, "1G"], check=True)
    glance = Glance(image, "raw")
    with pytest.raises(exception.ImageUnacceptable, match="larger by 1 GiB"):
        cloud.driver.copy_image_to_encrypted_volume(cloud.context, encrypted, glance, "image")
    # An image of an encrypted volume has its header, and fits.
    cloud.driver.copy_image_to_volume(cloud.context, encrypted, glance, "image")
    with served.data(encrypted).open("rb") as file:
        assert file.read(4096) == b"data" * 1024


@pytest.mark.parametrize("provider", ["luks2", "plain"])
def test_what_qemu_cannot_do_is_refused(cloud: Cloud, kind: Type, provider: str) -> None:
    kind.values["provider"] = provider
    volume = cloud.make.volume(encryption_key_id=KEY_ID)
    with pytest.raises(exception.VolumeDriverException, match=f"{provider}.*provider luks"):
        cloud.driver.create_volume(volume)
    assert nothing_is_left(cloud)


def test_no_volume_without_its_header(served: Served, kind: Type) -> None:
    cloud = served.cloud
    # Nobody serves it on this host.
    volume = cloud.make.volume(encryption_key_id=KEY_ID)
    with pytest.raises(exception.VolumeBackendAPIException, match="no daemon of its cluster"):
        cloud.driver.create_volume(volume)
    assert nothing_is_left(cloud)
    served.serve_new()
    kind.values["cipher"] = "aes-odd-plain64"
    with pytest.raises(exception.VolumeBackendAPIException, match=r"LUKS header.*odd"):
        cloud.driver.create_volume(volume)
    assert nothing_is_left(cloud)
    assert list(served.folder.glob("luks_*")) == []


def test_qemu_measures_again(served: Served, kind: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it cannot always tell how fast it hashes."""
    run, seen = qemu_img.run, []

    def interrupted(uri: str, command: str, *arguments: str) -> None:
        seen.append(command)
        if len(seen) < 3:
            reason = "qemu-img: x.sock: Unable to get accurate CPU usage"
            raise processutils.ProcessExecutionError(stderr=reason)
        run(uri, command, *arguments)

    monkeypatch.setattr(qemu_img, "run", interrupted)
    served.serve_new()
    volume = served.cloud.make.volume(encryption_key_id=KEY_ID)
    served.cloud.driver.create_volume(volume)
    with served.data(volume).open("rb") as file:
        assert file.read(8) == MAGIC
    assert seen[:3] == ["create"] * 3


def test_a_copy_needs_room_for_the_header(cloud: Cloud) -> None:
    plain, encrypted = cloud.make.volume(), cloud.make.volume(encryption_key_id=KEY_ID)
    for source, target in ((plain, plain), (encrypted, encrypted), (encrypted, plain)):
        cloud.driver.before_volume_copy(cloud.context, source, target)
    with pytest.raises(exception.InvalidVolume, match="LUKS header takes 2 MiB"):
        cloud.driver.before_volume_copy(cloud.context, plain, encrypted)
