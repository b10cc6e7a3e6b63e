"""`vstorage volume attach | detach`."""

from __future__ import annotations

import argparse
from typing import Any

from ovs_daemon.cli import base


class Attach(base.Say):
    """Serve a volume over NBD on a unix socket, and print its URI; with --file as a file, and
    print its path.

    Through the Edge process, so that the daemon may restart under the guest; with --direct from
    the daemon's own process. A volume is attached once, unless --shared or --preempt says
    otherwise, or 'vstorage volume set --multi-attach' did.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument(
            "--file", dest="mode", action="store_const", const="file", help="serve it as a file"
        )
        mode.add_argument(
            "--direct",
            dest="mode",
            action="store_const",
            const="direct",
            help="serve it in the daemon's own process",
        )
        parser.add_argument("--read-only", action="store_true", help="refuse writes")
        parser.add_argument("--holder", metavar="HOLDER", help="who uses it (default: local)")
        others = parser.add_mutually_exclusive_group()
        others.add_argument(
            "--shared", action="store_true", help="others may have it attached, too"
        )
        others.add_argument(
            "--preempt", action="store_true", help="take it from others who have it attached"
        )
        parser.add_argument(
            "--reconnects",
            action="store_true",
            help="the guest connects again by itself (QEMU's reconnect-delay), so that a resize "
            "may close its connection: it then sees the new size",
        )
        parser.set_defaults(mode="edge")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Attach it."""
        return self.client.attach_volume(
            parsed.volume,
            parsed.mode,
            parsed.read_only,
            parsed.holder,
            parsed.shared,
            parsed.preempt,
            parsed.reconnects,
        )

    def sentence(self, answer: Any) -> str:
        """The URI alone, for $(...)."""
        return str(answer["uri"])


class Detach(base.Say):
    """Stop serving a volume."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        whom = parser.add_mutually_exclusive_group()
        whom.add_argument("--holder", metavar="HOLDER", help="who used it (default: local)")
        whom.add_argument("--everybody", action="store_true", help="take it from all holders")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Detach it."""
        return self.client.detach_volume(parsed.volume, parsed.holder, parsed.everybody)

    def sentence(self, answer: Any) -> str:
        """What happened."""
        holders = ", ".join(one["holder"] for one in answer["attachments"])
        return f"volume {answer['name']} detached" + (f"; attached by {holders}" if holders else "")
