"""The guest image tells the truth: tokens survive, and I/O errors are reported.

Both run on a peer (qemu-nbd on a raw file), because they test the guest, which the demo then
believes: a guest that never reports an error would make every demo succeed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.guest import build
from tests.support.guest import Guest
from tests.support.process import Process, ProcessError, accepts, find_program

SECONDS_MAX = 120.0


def serve(folder: Path) -> tuple[Process, Path]:
    disk = folder / "disk.raw"
    if not disk.exists():
        shutil.copyfile(build.image(), disk)
    socket = folder / "nbd.sock"
    command = [find_program("qemu-nbd"), "-k", str(socket), "-t", "-f", "raw", str(disk)]
    server = Process("qemu-nbd", command, folder / "log")
    server.wait_until(lambda: accepts(socket), f"a listener on {socket}")
    return server, socket


def test_token_survives_the_loss_of_power(tmp_path: Path) -> None:
    server, socket = serve(tmp_path)
    with server:
        with Guest(socket) as guest:
            token = guest.wait_for(r"GUEST: synced (\S+)", SECONDS_MAX).group(1)
            guest.wait_for(r"GUEST: tick 3", SECONDS_MAX)
        with Guest(socket) as guest:
            found = guest.wait_for(r"GUEST: (?:found|synced) (\S+)", SECONDS_MAX)
    assert found.group(0) == f"GUEST: found {token}"


def test_guest_reports_io_errors(tmp_path: Path) -> None:
    server, socket = serve(tmp_path)
    with server, Guest(socket) as guest:
        guest.wait_for(r"GUEST: tick 3", SECONDS_MAX)
        server.kill9()
        with pytest.raises(ProcessError, match="reports a failure"):
            guest.wait_for(r"no such line", SECONDS_MAX)
