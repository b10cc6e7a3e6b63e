"""`vstorage node list | show | set | delete`."""

from __future__ import annotations

import argparse
from typing import Any

from ovs_daemon.cli import base


class List(base.Rows):
    """List the nodes, dead or alive."""

    shown = ("name", "domain", "recovery_domain", "alive", "roles", "volumes", "release")

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """List them."""
        return self.client.list_nodes()


class _OneNode(base._Answering):
    """A command about one node."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NODE")
        return parser


class Show(_OneNode, base.Show):
    """Show a node."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Show it."""
        return self.client.show_node(parsed.name)


class Set(_OneNode, base.Show):
    """Assign a node to a Domain, give it a Recovery Domain, change its roles."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--domain", metavar="DOMAIN", help="the Domain that it is in")
        recovery = parser.add_mutually_exclusive_group()
        recovery.add_argument(
            "--recovery-domain",
            metavar="DOMAIN",
            help="the Domain that keeps a copy of what its volumes have not yet on the backend",
        )
        recovery.add_argument(
            "--no-recovery-domain",
            dest="recovery_domain",
            action="store_const",
            const="",
            help="keep that copy on other nodes of its own Domain",
        )
        parser.add_argument(
            "--roles", metavar="ROLE[,ROLE...]", help="some of edge, router and osd"
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Change it."""
        roles = None if parsed.roles is None else parsed.roles.split(",")
        return self.client.set_node(parsed.name, parsed.domain, parsed.recovery_domain, roles)


class Delete(_OneNode, base.Say):
    """Forget a node that is gone for good."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Delete it."""
        return {"node": parsed.name, **self.client.delete_node(parsed.name)}

    def sentence(self, answer: Any) -> str:
        """What happened."""
        return f"node {answer['node']} deleted"
