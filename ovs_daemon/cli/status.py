"""`vstorage status`."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from ovs_daemon.cli import base
from ovs_daemon.cli.upkeep import describe_safety
from ovs_daemon.units import format_size

# What a terminal that does not tell its width is given: nothing is cut in a file or a pipe.
_WIDTH_UNKNOWN = 200
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
_COLUMNS = (
    *("name", "size", "state", "mapped", "buffered", "throttle", "writes", "reads", "flushes"),
    "followers",
)


class Status(base._Answering):
    """Show what is wrong, worst first; what can still fail; then nodes and volumes."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Ask the daemon."""
        return self.client.status()

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask and show."""
        answer = self.ask(parsed_args)
        console = Console(file=self.app.stdout, highlight=False)
        if not console.is_terminal:
            console.width = _WIDTH_UNKNOWN
        for finding in answer["findings"]:
            severity = str(finding["severity"])
            console.print(
                f"{severity.upper():<9}{finding['object']}: {finding['why']}",
                style=_STYLES.get(severity, "bold red"),
                markup=False,
            )
            console.print(f"{'':<9}{finding['fix']}", markup=False)
        if not answer["findings"]:
            console.print("no findings: all is well")
        for risk in answer["risks"]:
            console.print(f"if {risk['what']} {risk['name']} is lost: {risk['why']}", markup=False)
        edge = "connected" if answer["edge_connected"] else "not there"
        free = answer.get("buffer_free_bytes")
        room = "" if free is None else f", {format_size(free)} free for the write buffer"
        console.print(f"node {answer['node']}: Edge process {edge}{room}", markup=False)
        if (sealed := answer.get("sealed")) and sealed["plain_bytes"]:
            console.print(_saved(**sealed), markup=False)
        if (upkeep := answer.get("upkeep")) and upkeep["surveys"]:
            for line in describe_safety(upkeep):
                console.print(line, markup=False)
        if len(answer["nodes"]) > 1:
            console.print(_cluster(answer["domains"], answer["nodes"]))
        if answer["volumes"]:
            console.print(_table(answer["volumes"]))


def _saved(plain_bytes: int, stored_bytes: int) -> str:
    """What compression has brought since the engine was started."""
    share = 100 * stored_bytes / plain_bytes
    sizes = f"{format_size(plain_bytes)} became {format_size(stored_bytes)}"
    return f"compressed or encrypted since the start: {sizes} ({share:.0f} %)"


def _cluster(domains: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> Table:
    zones = {domain["name"]: domain["availability_zone"] for domain in domains}
    table = Table("domain", "zone", "node", "alive", "recovery", box=None, header_style="bold")
    for node in sorted(nodes, key=lambda one: (one["domain"] or "", one["name"])):
        table.add_row(
            node["domain"] or "-",
            zones.get(node["domain"]) or "-",
            node["name"],
            "yes" if node["alive"] else "NO",
            node["recovery_domain"] or "-",
            style=None if node["alive"] else _STYLES["critical"],
        )
    return table


def _followers(followers: list[dict[str, Any]]) -> str:
    """Who follows a volume's map, and how many batches behind its owner."""
    told = [
        f"{one['node']} -{one['lag_batches']}"
        if one["state"] == "following"
        else f"{one['node']} {one['state']}"
        for one in followers
    ]
    return ", ".join(told) or "-"


def _table(volumes: list[dict[str, Any]]) -> Table:
    table = Table(*_COLUMNS, box=None, header_style="bold")
    for volume in volumes:
        table.add_row(
            str(volume.get("name") or volume["uuid"]),
            format_size(volume["size"]),
            str(volume.get("state")),
            format_size(volume.get("mapped_bytes", 0)),
            format_size(volume.get("buffer_bytes", 0)),
            f"{volume.get('throttle_us', 0)} us",
            str(volume.get("writes", 0)),
            str(volume.get("reads", 0)),
            str(volume.get("flushes", 0)),
            _followers(volume.get("followers", [])),
        )
    return table
