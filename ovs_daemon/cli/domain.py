"""`vstorage domain create | list | show | set | delete`."""

from __future__ import annotations

import argparse
from typing import Any

from ovs_daemon.cli import base


class _OneDomain(base._Answering):
    """A command about one Domain."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="DOMAIN")
        return parser


class _Described(_OneDomain):
    """A command that says something about a Domain."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--description", metavar="TEXT", help="what people should know")
        parser.add_argument(
            "--availability-zone",
            metavar="ZONE",
            help="OpenStack's name for it; an empty one takes it away",
        )
        return parser


class Create(_Described, base.Show):
    """Make a Domain: nodes that can fail together, such as a rack, a room or a datacenter."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Create it."""
        return self.client.create_domain(parsed.name, parsed.description, parsed.availability_zone)


class List(base.Rows):
    """List the Domains."""

    shown = ("name", "availability_zone", "nodes", "nodes_alive", "recovery_domain_of")

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """List them."""
        return self.client.list_domains()


class Show(_OneDomain, base.Show):
    """Show a Domain and its nodes."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Show it."""
        return self.client.show_domain(parsed.name)


class Set(_Described, base.Show):
    """Change what is said about a Domain."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Change it."""
        return self.client.set_domain(parsed.name, parsed.description, parsed.availability_zone)


class Delete(_OneDomain, base.Say):
    """Delete a Domain that nobody uses."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Delete it."""
        return {"domain": parsed.name, **self.client.delete_domain(parsed.name)}

    def sentence(self, answer: Any) -> str:
        """What happened."""
        return f"Domain {answer['domain']} deleted"
