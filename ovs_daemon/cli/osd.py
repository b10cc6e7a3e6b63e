"""`vstorage osd list | show | add | claim`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ovs_daemon.cli import base
from ovs_daemon.errors import Code, VStorageError


class List(base.Rows):
    """List the OSDs of the cluster."""

    shown = ("uuid", "domain", "node", "address", "role", "reachable", "size", "free")

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """List them."""
        return self.client.list_osds()


class Show(base.Show):
    """Show an OSD."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("uuid", metavar="OSD")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Show it."""
        return self.client.show_osd(parsed.uuid)


class Add(base.Rows):
    """Register the OSDs that a vstorage-osd serves; with [osd] server the daemon does it itself."""

    shown = ("uuid", "domain", "node", "address", "role")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("address", metavar="ADDRESS:PORT")
        return parser

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """Register them."""
        return self.client.add_osds(parsed.address)


class Claim(base.Rows):
    """Make folders OSDs of this cluster and node, each for life; vstorage-osd then serves them."""

    shown = ("uuid", "path")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("folders", metavar="FOLDER", nargs="+", help="one for each disk")
        parser.add_argument(
            "--role", choices=("capacity", "cache"), default="capacity", help="what it is for"
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """Claim them."""
        place = self.client.osd_whereabouts()
        options = [
            word for key in ("cluster", "domain", "node") for word in (f"--{key}", place[key])
        ]
        command = [_program(), "claim", *options, "--role", parsed.role, *parsed.folders]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise VStorageError(
                Code.BAD_REQUEST,
                f"claim {', '.join(parsed.folders)}",
                done.stderr.strip().removeprefix("vstorage-osd: "),
                "choose empty folders of disks that no other cluster uses",
            )
        rows = (line.split(" ", 1) for line in done.stdout.splitlines())
        return [{"uuid": uuid, "path": path} for uuid, path in rows]


def _program() -> str:
    """`vstorage-osd`, beside this program or on PATH."""
    beside = Path(sys.argv[0]).resolve().with_name("vstorage-osd")
    found = str(beside) if beside.exists() else shutil.which("vstorage-osd")
    if found is None:
        raise VStorageError(
            Code.INTERNAL,
            "claim folders",
            "the program vstorage-osd is not installed",
            "install the built wheel, or run 'make build'",
        )
    return found
