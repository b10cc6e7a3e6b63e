"""The guest that the cloud boots: Debian's cloud kernel, busybox, an SSH server; 112 MiB.

Like the guest of `make demo` (``tests/guest/build.py`` makes the disk), with more in its initramfs:
drivers of what Nova gives a guest, the config drive, SSH and the programs that Tempest calls.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from tests.guest import build as disk_image
from tests.openstack.lab.processes import LabError

HERE = Path(__file__).resolve().parent
INIT = HERE.parent / "guest" / "init"
_MODULES = (
    "virtio_pci", "virtio_blk", "sd_mod", "virtio_scsi", "virtio_net", "sr_mod", "isofs",
    "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "vfat", "virtio_rng",
)  # fmt: skip
_FOLDERS = (
    "bin", "dev", "etc/dropbear", "lib/modules", "media", "mnt", "proc", "root/.ssh", "run",
    "sbin", "sys", "tmp", "usr", "var/log",
)  # fmt: skip
_PROGRAMS = ("dropbear", "lsblk", "mkfs.vfat", "mkfs.ext4")
_LIBRARIES = ("/lib/x86_64-linux-gnu/libnss_files.so.2",)
_FILES = {
    "etc/passwd": "root::0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root::19000:0:99999:7:::\n",
    "etc/nsswitch.conf": "passwd: files\n",
    "etc/shells": "/bin/sh\n",
}
_SCRIPTS = {
    # Who logs in is root; Tempest calls sudo all the same.
    "bin/sudo": '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n',
    "bin/mkfs":
        '#!/bin/sh\nkind=ext2\nif [ "$1" = -t ]; then kind=$2; shift 2; fi\n'
        'exec mkfs.$kind "$@"\n',
}  # fmt: skip


def _copy_program(name: str, root: Path) -> None:
    """Copy a program of this machine and the libraries that it needs."""
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise LabError(f"{name} is not installed: tools/system-packages.sh openstack")
    shutil.copy(Path(found).resolve(), root / "sbin" / name)
    for library in re.findall(r"/[^ ]+", disk_image.run(["ldd", found]).decode()):
        _copy_library(library, root)


def _copy_library(library: str, root: Path) -> None:
    target = root / library.removeprefix("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(library, target)


def _initramfs(kernel_root: Path, work: Path) -> bytes:
    root = work / "initramfs"
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    shutil.copy(disk_image.BUSYBOX.resolve(), root / "bin/busybox")
    shutil.copy(INIT, root / "init")
    (root / "init").chmod(0o755)
    names = []
    for module in disk_image.modules_in_load_order(kernel_root, _MODULES):
        name = module.stem.replace("-", "_")
        shutil.copy(module, root / "lib/modules" / f"{name}.ko")
        names.append(name)
    (root / "etc/modules").write_text("\n".join(names) + "\n")
    for program in _PROGRAMS:
        _copy_program(program, root)
    for library in _LIBRARIES:
        _copy_library(library, root)
    for name, text in (_FILES | _SCRIPTS).items():
        (root / name).write_text(text)
        (root / name).chmod(0o755 if name in _SCRIPTS else 0o644)
    for folder in ("root", "root/.ssh"):
        (root / folder).chmod(0o700)
    disk_image.run(
        ["dropbearkey", "-t", "ecdsa", "-f", root / "etc/dropbear/dropbear_ecdsa_host_key"]
    )
    return disk_image.pack(root)


def build(cache: Path) -> Path:
    """Return the image as a compressed qcow2 file, made if its inputs changed."""
    disk_image.require_tools()
    package, version = disk_image.kernel_package()
    digest = hashlib.sha256(f"{package}={version}".encode())
    for path in (Path(__file__), INIT, Path(disk_image.__file__), disk_image.BUSYBOX.resolve()):
        digest.update(path.read_bytes())
    result = cache / f"guest-{digest.hexdigest()[:12]}.qcow2"
    if result.exists():
        return result
    with tempfile.TemporaryDirectory(prefix=".guest-", dir=cache) as temporary:
        work = Path(temporary)
        kernel_root = disk_image.fetch_kernel(package, version, work)
        (kernel,) = (kernel_root / "boot").glob("vmlinuz-*")
        initramfs = work / "initrd.gz"
        initramfs.write_bytes(_initramfs(kernel_root, work))
        disk_image.assemble(work / "disk.raw", kernel, initramfs)
        packed = work / "disk.qcow2"
        disk_image.run(["qemu-img", "convert", "-O", "qcow2", "-c", work / "disk.raw", packed])
        packed.rename(result)
    return result
