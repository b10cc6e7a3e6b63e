"""`vstorage volume` create, list, show, delete, resize, clone, rename, limit, revert and set."""

from __future__ import annotations

import argparse
from typing import Any

from ovs_daemon.cli import base
from ovs_daemon.units import parse_size

#: as `ovs_daemon/control/qos.py` names them
LIMITS = (
    *(f"{kind}_{unit}" for kind in ("read", "write", "total") for unit in ("iops", "bytes_s")),
    "burst_s",
)


_PRESET = "by which its objects are kept; the source's or the node's, unless given"


def split_source(text: str) -> tuple[str, str | None]:
    """VOLUME[@SNAPSHOT] as its two parts."""
    volume, at, snapshot = text.partition("@")
    return volume, snapshot if at else None


class Create(base.Show):
    """Create an empty volume, or a clone of another one."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME")
        parser.add_argument(
            "size",
            metavar="SIZE",
            nargs="?",
            help="such as 10G, 512MiB or bytes; may be left out with --from",
        )
        parser.add_argument(
            "--from",
            dest="source",
            metavar="VOLUME[@SNAPSHOT]",
            help="clone this volume as it is now, or this snapshot of it",
        )
        parser.add_argument("--preset", help=_PRESET)
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Create it."""
        size = None if parsed.size is None else parse_size(parsed.size)
        source: tuple[str | None, str | None] = (None, None)
        if parsed.source is not None:
            source = split_source(parsed.source)
        return self.client.create_volume(parsed.name, size, *source, preset=parsed.preset)


class Clone(base.Show):
    """Clone a volume as it is now, or a snapshot of it."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("source", metavar="VOLUME[@SNAPSHOT]")
        parser.add_argument("name", metavar="NAME", help="of the new volume")
        parser.add_argument("--size", help="of the new volume, if it is to be larger")
        parser.add_argument("--preset", help=_PRESET)
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Clone it."""
        size = None if parsed.size is None else parse_size(parsed.size)
        source = split_source(parsed.source)
        return self.client.create_volume(parsed.name, size, *source, preset=parsed.preset)


class List(base.Rows):
    """List the volumes."""

    shown = ("name", "size", "state", "template", "attached", "uuid")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--all", action="store_true", help="also deleted ones that clones still need"
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """List them."""
        return self.client.list_volumes(parsed.all)


class _OneVolume(base._Answering):
    """A command about one volume."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        return parser


class Show(_OneVolume, base.Show):
    """Show a volume and its counters."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Show it."""
        return self.client.show_volume(parsed.volume)


class Delete(_OneVolume, base.Say):
    """Delete a volume; clones of it go on.

    Given by UUID, a volume that is not there counts as deleted.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--cascade", action="store_true", help="delete its snapshots as well")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Delete it."""
        deleted = self.client.delete_volume(parsed.volume, parsed.cascade)
        return {"volume": parsed.volume, "deleted": deleted}

    def sentence(self, answer: Any) -> str:
        """What happened."""
        happened = "deleted" if answer["deleted"] else "was not there"
        return f"volume {answer['volume']} {happened}"


class Resize(_OneVolume, base.Show):
    """Grow a volume; a guest that has it attached sees the new size."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("size", metavar="SIZE", help="the new size, such as 20G")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Grow it."""
        return self.client.resize_volume(parsed.volume, parse_size(parsed.size))


class Rename(_OneVolume, base.Show):
    """Give a volume that is not attached another name."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="the new name")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Rename it."""
        return self.client.rename_volume(parsed.volume, parsed.name)


class Limit(_OneVolume, base.Show):
    """Limit what a volume's users may ask of it; limits that are not given are taken away."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        for kind in ("read", "write", "total"):
            parser.add_argument(f"--{kind}-iops", type=float, help="requests a second")
            parser.add_argument(f"--{kind}-bytes-s", help="bytes a second, such as 100MiB")
        parser.add_argument("--burst-s", type=float, help="seconds' worth of a burst beyond them")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Limit it."""
        limits: dict[str, float] = {}
        for name in LIMITS:
            value = getattr(parsed, name)
            if value is not None:
                limits[name] = parse_size(value) if name.endswith("bytes_s") else value
        return self.client.set_limits(parsed.volume, limits or None)


class Revert(_OneVolume, base.Show):
    """Make a volume's content that of one of its snapshots."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("snapshot", metavar="SNAPSHOT", help="name or UUID")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Revert it."""
        return self.client.revert_volume(parsed.volume, parsed.snapshot)


class Set(_OneVolume, base.Show):
    """Make a volume a template (read-only, quick to clone) or writable again; let several attach
    it, or one at a time."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "--template", action=argparse.BooleanOptionalAction, help="a template, or not"
        )
        which.add_argument(
            "--multi-attach",
            action=argparse.BooleanOptionalAction,
            help="several may attach it, or one at a time",
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Change it."""
        if parsed.template is not None:
            return self.client.set_template(parsed.volume, parsed.template)
        return self.client.set_multi_attach(parsed.volume, parsed.multi_attach)
