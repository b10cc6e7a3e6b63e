"""Build the tiny guest that the demo boots: a raw, BIOS-bootable disk image.

Layout (512-byte sectors)::

    0          MBR: syslinux's boot code, partition table
    2048       partition 1, FAT16, active: syslinux, Debian's cloud kernel, busybox initramfs
    98304      partition 2, ext4: what the guest writes to (see ``init``)
    229376     end (112 MiB)

Neither loop devices nor mounts are used: mtools, syslinux and mke2fs write into the file at an
offset. The only download is Debian's signed kernel package, through apt.

The result is cached under ``build/guest/<hash of everything that went in>/disk.raw`` (or below
``$OVS_GUEST_CACHE``); identifiers and times are fixed so that equal inputs give equal bytes.

    python3 tests/guest/build.py            prints the path of the image, building it if needed
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

SECTOR_BYTES = 512
BOOT_START_SECTOR = 2048
DATA_START_SECTOR = 98304
END_SECTOR = 229376
BOOT_CODE_BYTES = 440
PARTITION_FAT16 = 0x06
PARTITION_LINUX = 0x83

KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk")
BUSYBOX = Path("/bin/busybox")
MBR_CODE = Path("/usr/lib/syslinux/mbr/mbr.bin")
KERNEL_ARGUMENTS = "console=ttyS0 mitigations=off quiet panic=10"
# Any constant will do; it replaces the clock wherever a tool would stamp the time.
FIXED_TIME = "1700000000"
DATA_UUID = "6f76732d-6775-4573-9400-64617461706e"

# Program -> Debian package that holds it.
TOOLS = {
    "apt-get": "apt",
    "cpio": "cpio",
    "dpkg-deb": "dpkg",
    "mcopy": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.fat": "dosfstools",
    "modinfo": "kmod",
    "syslinux": "syslinux",
}


class BuildError(Exception):
    """The image could not be built; the message says what was attempted and what to do."""


def run(command: Sequence[str | Path], *, cwd: Path | None = None, stdin: bytes = b"") -> bytes:
    """Run ``command`` and return its standard output; raise BuildError with its stderr."""
    environment = os.environ | {
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "LC_ALL": "C",
        "SOURCE_DATE_EPOCH": FIXED_TIME,
        "E2FSPROGS_FAKE_TIME": FIXED_TIME,
        # mtools refuses geometries that no floppy has; ours is a partition inside a file.
        "MTOOLS_SKIP_CHECK": "1",
    }
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=environment,
        check=False,
    )
    if result.returncode != 0:
        raise BuildError(
            f"building the guest image: `{' '.join(map(str, command))}` failed with status "
            f"{result.returncode}: {result.stderr.decode(errors='replace').strip()}"
        )
    return result.stdout


def require_tools() -> None:
    """Raise BuildError that names every missing program and the packages to install."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = {pkg for tool, pkg in TOOLS.items() if shutil.which(tool, path=path) is None}
    if not BUSYBOX.exists():
        missing.add("busybox-static")
    if not MBR_CODE.exists():
        missing.add("syslinux-common")
    if missing:
        raise BuildError(
            "building the guest image needs programs that are not installed; run "
            f"`apt-get install {' '.join(sorted(missing))}`"
        )


def kernel_package() -> tuple[str, str]:
    """Return (package, version) of the newest cloud kernel that apt knows."""
    depends = run(["apt-cache", "depends", KERNEL_METAPACKAGE]).decode()
    match = re.search(r"Depends: (linux-image-\S+)", depends)
    if match is None:
        raise BuildError(
            f"apt does not know {KERNEL_METAPACKAGE}; run `apt-get update` with Debian's main "
            "archive enabled"
        )
    package = match.group(1)
    policy = run(["apt-cache", "policy", package]).decode()
    candidate = re.search(r"Candidate: (\S+)", policy)
    if candidate is None or candidate.group(1) == "(none)":
        raise BuildError(f"apt has no candidate for {package}; run `apt-get update`")
    return package, candidate.group(1)


def fetch_kernel(package: str, version: str, work: Path) -> Path:
    """Download and unpack the kernel package below ``work``; return the unpacked root."""
    run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", f"{package}={version}"],
        cwd=work)  # fmt: skip
    (archive,) = work.glob(f"{package}_*.deb")
    root = work / "kernel"
    run(["dpkg-deb", "-x", archive, root])
    return root


def modules_in_load_order(kernel_root: Path, modules: Sequence[str] = MODULES) -> list[Path]:
    """Return the .ko files of ``modules`` and all they depend on, dependencies first."""
    by_name = {path.stem.replace("-", "_"): path for path in kernel_root.rglob("*.ko")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = by_name.get(name.replace("-", "_"))
        if path is None:
            raise BuildError(f"the kernel package has no module {name}")
        if path in ordered:
            return
        for dependency in run(["modinfo", "-F", "depends", path]).decode().strip().split(","):
            if dependency:
                add(dependency)
        ordered.append(path)

    for module in modules:
        add(module)
    return ordered


def build_initramfs(kernel_root: Path, work: Path) -> bytes:
    """Return the gzipped cpio archive: busybox, ``init`` and the modules."""
    root = work / "initramfs"
    for folder in ("bin", "dev", "etc", "lib/modules", "mnt", "proc", "sys"):
        (root / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX.resolve(), root / "bin/busybox")
    shutil.copy(HERE / "init", root / "init")
    (root / "init").chmod(0o755)
    names = []
    for module in modules_in_load_order(kernel_root):
        shutil.copy(module, root / "lib/modules" / module.name)
        names.append(module.stem)
    (root / "etc/modules").write_text("\n".join(names) + "\n")
    return pack(root)


def pack(root: Path) -> bytes:
    """Return a folder as a gzipped cpio archive that is the same whenever it is made."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            os.utime(path, (int(FIXED_TIME), int(FIXED_TIME)))
    entries = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = run(
        ["cpio", "--create", "--format=newc", "--quiet", "--reproducible", "--owner=0:0"],
        cwd=root,
        stdin="\n".join([".", *entries]).encode() + b"\n",
    )
    return gzip.compress(archive, compresslevel=9, mtime=0)


def partition_entry(kind: int, start: int, end: int, *, active: bool) -> bytes:
    """Return one 16-byte MBR partition entry; CHS fields say "use LBA"."""
    unused_chs = b"\xfe\xff\xff"
    flag = 0x80 if active else 0
    return struct.pack("<B3sB3sII", flag, unused_chs, kind, unused_chs, start, end - start)


def write_partition_table(disk: Path) -> None:
    """Write boot code, table and signature into sector 0."""
    code = MBR_CODE.read_bytes()[:BOOT_CODE_BYTES].ljust(446, b"\0")
    table = partition_entry(PARTITION_FAT16, BOOT_START_SECTOR, DATA_START_SECTOR, active=True)
    table += partition_entry(PARTITION_LINUX, DATA_START_SECTOR, END_SECTOR, active=False)
    with disk.open("r+b") as file:
        file.write(code + table.ljust(64, b"\0") + b"\x55\xaa")


def assemble(disk: Path, kernel: Path, initramfs: Path) -> None:
    """Create ``disk`` with both partitions filled."""
    with disk.open("wb") as file:
        file.truncate(END_SECTOR * SECTOR_BYTES)
    write_partition_table(disk)
    boot_kib = (DATA_START_SECTOR - BOOT_START_SECTOR) * SECTOR_BYTES // 1024
    run(["mkfs.fat", "-F16", "-i", "4f565300", "--invariant", "--offset", str(BOOT_START_SECTOR),
         "-h", str(BOOT_START_SECTOR), disk, str(boot_kib)])  # fmt: skip
    partition = f"{disk}@@{BOOT_START_SECTOR * SECTOR_BYTES}"
    config = disk.parent / "syslinux.cfg"
    config.write_text(
        "SERIAL 0 115200\nDEFAULT guest\nPROMPT 0\nLABEL guest\n"
        f" KERNEL vmlinuz\n INITRD initrd.gz\n APPEND {KERNEL_ARGUMENTS}\n"
    )
    for source, name in ((kernel, "vmlinuz"), (initramfs, "initrd.gz"), (config, "syslinux.cfg")):
        os.utime(source, (int(FIXED_TIME), int(FIXED_TIME)))
        run(["mcopy", "-m", "-i", partition, source, f"::{name}"])
    run(["syslinux", "--offset", str(BOOT_START_SECTOR * SECTOR_BYTES), "--install", disk])
    data_kib = (END_SECTOR - DATA_START_SECTOR) * SECTOR_BYTES // 1024
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-U", DATA_UUID,
         "-E", f"offset={DATA_START_SECTOR * SECTOR_BYTES},hash_seed={DATA_UUID},"
         "lazy_itable_init=0,lazy_journal_init=0",
         disk, f"{data_kib}k"])  # fmt: skip


def input_hash(kernel: str) -> str:
    """Return a hash over everything that decides the image's bytes."""
    digest = hashlib.sha256(kernel.encode())
    for path in (Path(__file__), HERE / "init", BUSYBOX.resolve(), MBR_CODE):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def image() -> Path:
    """Return the path of the guest image, building it if its inputs changed.

    The file is shared by all callers: copy or import it, never write to it.
    """
    require_tools()
    package, version = kernel_package()
    cache = Path(os.environ.get("OVS_GUEST_CACHE", REPOSITORY / "build" / "guest"))
    folder = cache / input_hash(f"{package}={version}")
    result = folder / "disk.raw"
    if result.exists():
        return result
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as temporary:
        work = Path(temporary)
        kernel_root = fetch_kernel(package, version, work)
        (kernel,) = (kernel_root / "boot").glob("vmlinuz-*")
        initramfs = work / "initrd.gz"
        initramfs.write_bytes(build_initramfs(kernel_root, work))
        disk = work / "disk.raw"
        assemble(disk, kernel, initramfs)
        # The rename makes a half-built image impossible, whoever is killed when.
        disk.rename(result)
    return result


def main() -> int:
    """Print the image's path; on failure print the reason and return 1."""
    try:
        print(image())
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
