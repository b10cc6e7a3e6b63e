"""`vstorage volume attach | detach`."""

from __future__ import annotations

import argparse
from typing import Any

from ovs_daemon.cli import base


class Attach(base.Say):
    """Serve a volume over NBD on a unix socket, and print its URI.

    Through the Edge process, so that the daemon may restart under the guest; with --direct from
    the daemon's own process.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        parser.add_argument(
            "--direct", action="store_true", help="serve it in the daemon's own process"
        )
        parser.add_argument("--read-only", action="store_true", help="refuse writes")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Attach it."""
        return self.client.attach_volume(parsed.volume, parsed.direct, parsed.read_only)

    def sentence(self, answer: Any) -> str:
        """The URI alone, for $(...)."""
        return str(answer["uri"])


class Detach(base.Say):
    """Stop serving a volume."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Detach it."""
        return self.client.detach_volume(parsed.volume)

    def sentence(self, answer: Any) -> str:
        """What happened."""
        return f"volume {answer['name']} detached"
