"""`vstorage what-if lose` and `vstorage node drain | resume`."""

from __future__ import annotations

import argparse
from typing import Any

from ovs_daemon.cli import base


class Lose(base.Say):
    """Tell what the loss of a node or of a Domain would do at this moment; nothing is changed."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "name", metavar="NODE|DOMAIN", help="node:NAME or domain:NAME where both exist"
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Ask the daemon's policy."""
        return self.client.what_if(parsed.name)

    def sentence(self, answer: Any) -> str:
        """Worst first."""
        lost = answer["lost"]
        nodes = ", ".join(answer["nodes"]) or "no living node"
        lines = [f"loss of {lost['what']} {lost['name']} ({nodes}):"]
        lines += [f"  STOPS      volume {one['volume']}: {one['why']}" for one in answer["stopped"]]
        lines += [
            f"  UNGUARDED  volume {name}: goes on without a log on another node"
            for name in answer["unprotected"]
        ]
        lines += [
            f"  goes on    volume {one['volume']}: from {one['from']} to {one['to']}"
            for one in answer["continuing"]
        ]
        lines += [
            f"  note       volume {name}: its log would be outside its Recovery Domain"
            for name in answer["outside"]
        ]
        if len(lines) == 1:
            lines.append("  no volume would notice")
        return "\n".join(lines)


class Drain(base.Say):
    """Have a node emptied: its volumes, and the logs that it keeps for others, go elsewhere."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NODE")
        parser.add_argument("--dry-run", action="store_true", help="show the plan, change nothing")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Ask the daemon's policy, and have it done."""
        if parsed.dry_run:
            return self.client.plan_drain(parsed.name)
        return self.client.drain_node(parsed.name)

    def sentence(self, answer: Any) -> str:
        """Worst first, then step by step."""
        lines = [f"plan to drain node {answer['node']}:"]
        lines += [
            f"  STUCK      volume {name}: there is no other node for it" for name in answer["stuck"]
        ]
        lines += [
            f"  WAITS      volume {name}: it is attached and stays until it is not"
            for name in answer["attached"]
        ]
        lines += [
            f"  UNGUARDED  volume {name}: no node would keep its log" for name in answer["exposed"]
        ]
        lines += [f"  volume     {one['volume']}: to {one['to']}" for one in answer["moves"]]
        lines += [
            f"  log        of {one['volume']}: from {one['from'] or 'nowhere'} to "
            f"{one['to'] or 'nowhere'}"
            for one in answer["logs"]
        ]
        if len(lines) == 1:
            lines.append("  nothing to do: it is empty")
        return "\n".join(lines)


class Resume(base.Show):
    """Let a node that was drained own volumes and keep logs again."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NODE")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Resume it."""
        return self.client.resume_node(parsed.name)
