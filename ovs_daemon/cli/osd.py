"""`vstorage osd list | show | add | claim | decommission | remove | resume`."""

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

    shown = ("uuid", "domain", "node", "address", "role", "standing", "reachable", "size", "free")

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


class _Standing(base.Say):
    """A change of how an OSD stands."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("uuid", metavar="OSD")
        return parser

    def sentence(self, answer: Any) -> str:
        """How it stands, and what will become of it."""
        standing = answer["standing"]
        return f"OSD {answer['uuid']} of {answer['domain']} {_BECOMES[standing]}"


class Decommission(_Standing):
    """Store what is on an OSD on others of its Domain, then remove it; it goes on by itself."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Begin."""
        return self.client.decommission_osd(parsed.uuid)


class Remove(_Standing):
    """Forget an OSD that will never be back, once all that was on it is stored elsewhere."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--lost",
            action="store_true",
            help="its disk will never be back: if it is, nobody will believe what is on it",
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Begin."""
        return self.client.remove_osd(parsed.uuid, parsed.lost)


class Resume(_Standing):
    """Have an OSD stay that is being emptied, or was said to be lost."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Have it stay."""
        return self.client.resume_osd(parsed.uuid)


_BECOMES = {
    "member": "stays",
    "leaving": "is being emptied, and removed then: 'vstorage alba status' shows how far it is",
    "sealed": "is empty, and about to be removed",
    "lost": "counts as lost, and is removed when all that was on it is stored elsewhere: "
    "'vstorage alba status' shows how far that is",
    "removed": "is removed",
}


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
