"""`vstorage volume snapshot` and `vstorage snapshot list | rename | group | diff | delete`."""

from __future__ import annotations

import argparse
from typing import Any

from ovs_daemon.cli import base


class Create(base.Show):
    """Take a snapshot of a volume, attached or not."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        parser.add_argument("name", metavar="SNAPSHOT", help="name of the snapshot")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Take it."""
        return self.client.create_snapshot(parsed.volume, parsed.name)


class List(base.Rows):
    """List the snapshots of a volume, or of all volumes."""

    shown = ("volume", "name", "size", "state", "clones", "created_at")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", nargs="?", help="name or UUID")
        return parser

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """List them."""
        return self.client.list_snapshots(parsed.volume)


class Rename(base.Show):
    """Give a snapshot another name."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        parser.add_argument("snapshot", metavar="SNAPSHOT", help="name or UUID")
        parser.add_argument("name", metavar="NAME", help="the new name")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Rename it."""
        return self.client.rename_snapshot(parsed.volume, parsed.snapshot, parsed.name)


class Group(base.Rows):
    """Take snapshots of several volumes at one instant: all of them or none."""

    shown = ("volume", "name", "size", "state", "created_at")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="SNAPSHOT", help="name of each snapshot")
        parser.add_argument("volumes", metavar="VOLUME", nargs="+", help="name or UUID")
        return parser

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """Take them."""
        return self.client.create_snapshots([(one, parsed.name) for one in parsed.volumes])


class Diff(base.Rows):
    """List where two snapshots may differ, or where a volume was written at all."""

    shown = ("offset", "length")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        parser.add_argument("snapshot", metavar="SNAPSHOT", help="name or UUID")
        parser.add_argument("--since", metavar="SNAPSHOT", help="an earlier one")
        return parser

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """Compare them."""
        found = self.client.diff_snapshots(parsed.volume, parsed.since, parsed.snapshot)
        return [{"offset": offset, "length": length} for offset, length in found]


class Delete(base.Say):
    """Delete a snapshot; clones of it go on.

    Given by UUID, a snapshot that is not there counts as deleted.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        parser.add_argument("snapshot", metavar="SNAPSHOT", help="name or UUID")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Delete it."""
        deleted = self.client.delete_snapshot(parsed.volume, parsed.snapshot)
        return {"volume": parsed.volume, "snapshot": parsed.snapshot, "deleted": deleted}

    def sentence(self, answer: Any) -> str:
        """What happened."""
        happened = "deleted" if answer["deleted"] else "was not there"
        return f"snapshot {answer['snapshot']} of volume {answer['volume']} {happened}"
