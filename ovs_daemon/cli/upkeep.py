"""`vstorage alba status | repair | scrub | rebalance`: the upkeep of the erasure-coded backend."""

from __future__ import annotations

import argparse
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ovs_daemon.cli import base
from ovs_daemon.cli.cache import describe_cache
from ovs_daemon.units import format_size

_LOOK_S = 0.2


def describe_safety(figures: dict[str, Any]) -> list[str]:
    """How safe the objects are, least safe first."""
    by_safety = sorted((int(losses), count) for losses, count in figures["by_safety"].items())
    lines = [
        f"{count} objects can bear the loss of {losses} more disks, whichever they are"
        for losses, count in by_safety
    ]
    if figures["missing"]:
        lines.append(f"{figures['missing']} fragments of {figures['to_mend']} objects are missing")
    if figures["unknown"]:
        lines.append(f"of {figures['unknown']} objects it cannot be told whether they are stored")
    return lines


class Status(base._Answering):
    """Show how safe the objects are, what this node has repaired, and how its cache tier does."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Ask the daemon."""
        return self.client.upkeep()

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask and show."""
        print(_told(self.ask(parsed_args)), file=self.app.stdout)


class _Work(base.Say):
    """Work that begins now, and is waited for."""

    kind = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--no-wait", action="store_true", help="return at once: it goes on by itself"
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Begin, and wait for the end."""
        counter = f"{self.kind}s"
        before = self.client.start_upkeep(self.kind)
        figures = before
        # What was under way when this was asked for has seen less.
        enough = before[counter] + (1 if before["doing"] == "idle" else 2)
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bars: dict[str, Any] = {}
            while not parsed.no_wait:
                figures = self.client.upkeep()
                # One that cannot be ended says why.
                ended = figures[counter] > before[counter] or (
                    figures["failures"] > before["failures"]
                )
                if (figures["doing"] == "idle" and ended) or figures[counter] >= enough:
                    break
                doing = figures["doing"]
                if doing != "idle":
                    if doing not in bars:
                        bars[doing] = progress.add_task(doing, total=None)
                    total = figures["of"] or None
                    progress.update(bars[doing], completed=figures["done"], total=total)
                time.sleep(_LOOK_S)
        return figures

    def sentence(self, answer: Any) -> str:
        """What is known now."""
        return _told(answer)


class Repair(_Work):
    """Look at all objects now, and store what is lost of them anew, least safe first."""

    kind = "repair"


class Scrub(_Work):
    """Compare all fragments of this node's Domain with their checksums now; renew damaged ones."""

    kind = "scrub"


class Rebalance(_Work):
    """Move fragments of this node's Domains to emptier disks now, until all are about as full."""

    kind = "rebalance"


def _told(figures: dict[str, Any]) -> str:
    lines = [f"node {figures['node']}: {_doing(figures)}"]
    lines += describe_safety(figures) if figures["surveys"] else ["no look at the objects yet"]
    lines += [_leaving(uuid, one) for uuid, one in sorted(figures["leaving"].items())]
    repaired, scrubbed = figures["repaired"], figures["scrubbed"]
    lines.append(
        f"repaired since the start: {repaired['fragments']} fragments, "
        f"{format_size(repaired['bytes'])} moved, "
        f"{format_size(repaired['bytes_between_domains'])} of it between Domains"
    )
    lines.append(
        f"scrubbed since the start: {format_size(scrubbed['bytes'])}, {scrubbed['damaged']} "
        "damaged fragments renewed"
    )
    lines += _rebalanced(figures)
    lines += describe_cache(figures["cache"])
    if figures["why"]:
        lines.append(f"the last failure: {figures['why']}")
    return "\n".join(lines)


def _doing(figures: dict[str, Any]) -> str:
    if figures["doing"] == "idle":
        return "idle"
    if figures["doing"] == "rebalancing":
        done, of = format_size(figures["done"]), format_size(figures["of"])
        return f"rebalancing, {done} of about {of} moved"
    return f"{figures['doing']}, {figures['done']} of {figures['of']} objects"


def _rebalanced(figures: dict[str, Any]) -> list[str]:
    """What was moved, and how equal the disks are."""
    moved = figures["rebalanced"]
    lines = [
        f"rebalanced since the start: {moved['fragments']} fragments, "
        f"{format_size(moved['bytes'])} moved, "
        f"{format_size(moved['bytes_between_domains'])} of it between Domains"
    ]
    if moved["trimmed"]:
        lines.append(f"copies that were there twice, deleted: {moved['trimmed']}")
    lines += [
        f"the fullest disk of {domain} is {100 * spread:.1f} percent of its size fuller than the "
        "emptiest one"
        for domain, spread in sorted(figures["spread"].items())
    ]
    return lines


def _leaving(uuid: str, one: dict[str, Any]) -> str:
    told = f"OSD {uuid} is {one['standing']}"
    if one["standing"] == "lost":
        if one["short"] is not None:
            told += f": {one['short']} objects have too few fragments elsewhere"
        if one["hidden"]:
            told += ", and others could be hidden"
    elif one["alone"] is not None:
        told += f": {one['alone']} fragments are on it alone"
    return told if one["why"] is None else f"{told}: {one['why']}"
