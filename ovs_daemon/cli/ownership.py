"""`vstorage volume move | takeover | dtl`: who owns a volume, and who keeps its log."""

from __future__ import annotations

import argparse
from typing import Any

from ovs_daemon.cli import base


class _OneVolume(base.Show):
    """A command about one volume."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        return parser


class Move(_OneVolume):
    """Hand a volume of this node, with its clones and ancestors, to another node."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("node", metavar="NODE", help="its new owner")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Move it."""
        return self.client.move_volume(parsed.volume, parsed.node)


class Takeover(_OneVolume):
    """Have this node go on with a volume whose owner is dead.

    Where nothing can be lost this happens by itself. Else it says what would be lost.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--accept-loss",
            action="store_true",
            help="go on although acknowledged writes are lost; what may be missing is recorded",
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Take it over."""
        return self.client.take_over_volume(parsed.volume, parsed.accept_loss)


class Dtl(_OneVolume):
    """Say when a volume's writes are acknowledged.

    sync: when another node has them, too; async: before that; none: no other node has them.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("mode", metavar="MODE", help="sync, async or none")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Change it."""
        return self.client.set_dtl_mode(parsed.volume, parsed.mode)
