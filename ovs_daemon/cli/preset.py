"""`vstorage preset create | list | show | check | delete`."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ovs_daemon.cli import base
from ovs_daemon.units import parse_size

_POLICY = re.compile(r"(\d+)\+(\d+),c=(\d+),x=(\d+)(?:,domains=(\d+))?(?:,local=(\d+))?")
_NODE = re.compile(r"([^/=]+)/([^/=]+)=(\d{1,4})")
_EVEN = re.compile(r"(\d{1,3})x(\d{1,3})x(\d{1,3})")


def _policy(text: str) -> dict[str, int]:
    match = _POLICY.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no policy: write k+m,c=C,x=X,domains=D,local=L"
        )
    policy = {"k": 0, "m": 0, "c": 0, "x": 0, "domains": 1, "local": 0}
    given = zip(policy, match.groups(), strict=True)
    return policy | {name: int(number) for name, number in given if number is not None}


def _node(text: str) -> list[dict[str, Any]]:
    match = _NODE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no node: write DOMAIN/NODE=DISKS")
    return [{"domain": match[1], "node": match[2], "disks": int(match[3])}]


def _even(text: str) -> list[dict[str, Any]]:
    match = _EVEN.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no cluster: write DOMAINSxNODESxDISKS")
    domains, nodes, disks = (int(number) for number in match.groups())
    return [
        {"domain": f"domain{domain}", "node": f"node{domain}.{node}", "disks": disks}
        for domain in range(domains)
        for node in range(nodes)
    ]


class _OnePreset(base._Answering):
    """A command about one preset."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="PRESET")
        return parser


class Create(_OnePreset, base.Show):
    """Make a preset: how objects are coded and spread over Domains, nodes and disks."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--policy",
            metavar="K+M,c=C,x=X[,domains=D][,local=L]",
            type=_policy,
            action="append",
            required=True,
            help="a policy, the preferred one first (may be repeated; see doc/presets.md)",
        )
        parser.add_argument(
            "--fragment-size", metavar="SIZE", default="4M", help="default: %(default)s"
        )
        parser.add_argument(
            "--sco-size", metavar="SIZE", default="64M", help="default: %(default)s"
        )
        parser.add_argument(
            "--compression",
            choices=("none", "lz4", "zstd"),
            default="none",
            help="of objects; default: %(default)s",
        )
        parser.add_argument(
            "--encryption",
            choices=("none", "aes-256-gcm"),
            default="none",
            help="of objects, with the key that [alba] names; default: %(default)s",
        )
        parser.add_argument(
            "--cache-on-write",
            action="store_true",
            help="bring objects to the Domain's cache OSDs when they are stored, not only when "
            "they are read",
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Create it."""
        sizes = parse_size(parsed.fragment_size), parse_size(parsed.sco_size)
        how = parsed.compression, parsed.encryption, parsed.cache_on_write
        return self.client.create_preset(parsed.name, parsed.policy, *sizes, *how)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        """A line for each policy."""
        return _lines(self.ask(parsed_args))


class List(base.Rows):
    """List the presets."""

    shown = (
        "name",
        "shipped",
        "policies",
        "fragment_size",
        "sco_size",
        "compression",
        "encryption",
        "cache_on_write",
    )

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """List them."""
        return self.client.list_presets()

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        """The notation of each policy instead of all its figures."""
        rows = self.ask(parsed_args)
        for row in rows:
            row["policies"] = "\n".join(policy["notation"] for policy in row["policies"])
        return self.shown, [[base.column(key, row[key]) for key in self.shown] for row in rows]


class Show(_OnePreset, base.Show):
    """Show a preset and what its policies promise."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Show it."""
        return self.client.show_preset(parsed.name)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        """A line for each policy."""
        return _lines(self.ask(parsed_args))


class Check(_OnePreset, base.Show):
    """Tell which policy of a preset a cluster can satisfy, and what the others miss."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        cluster = parser.add_mutually_exclusive_group(required=True)
        cluster.add_argument(
            "--cluster",
            metavar="DOMAINSxNODESxDISKS",
            type=_even,
            help="so many Domains, each with so many nodes, each with so many disks",
        )
        cluster.add_argument(
            "--node",
            metavar="DOMAIN/NODE=DISKS",
            type=_node,
            action="append",
            help="a node, its Domain and the number of its disks (may be repeated)",
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Check it."""
        nodes = parsed.cluster or [node for one in parsed.node for node in one]
        return self.client.check_preset(parsed.name, nodes)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        """The policy's figures, and a line for each policy that cannot be used."""
        answer = self.ask(parsed_args)
        policy = answer["policy"]
        shown = {
            "preset": answer["preset"],
            "policy": "none can be used" if policy is None else policy["notation"],
            "number": answer["number"],
            **{key: policy[key] for key in _PROMISES if policy is not None},
            "shortages": "\n".join(
                f"policy {number}: {why}" for number, why in enumerate(answer["shortages"], 1)
            ),
        }
        return tuple(shown), tuple(base.column(key, value) for key, value in shown.items())


class Delete(_OnePreset, base.Say):
    """Delete a preset."""

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Delete it."""
        return {"preset": parsed.name, **self.client.delete_preset(parsed.name)}

    def sentence(self, answer: Any) -> str:
        """What happened."""
        return f"preset {answer['preset']} deleted"


_PROMISES = (
    "c",
    "x",
    "overhead",
    "survives_disks",
    "survives_node",
    "survives_domain",
    "survives_domain_and_disk",
    "disk_repair_local",
    "node_repair_local",
    "repair_reads",
)


def _lines(preset: dict[str, Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """A preset as a table's keys and values, one line for each policy."""
    shown = dict(preset)
    shown["policies"] = "\n".join(
        f"{policy['notation']}, c={policy['c']}, x={policy['x']}; overhead {policy['overhead']}; "
        f"survives {_survives(policy)}"
        for policy in preset["policies"]
    )
    return tuple(shown), tuple(base.column(key, value) for key, value in shown.items())


def _survives(policy: dict[str, Any]) -> str:
    losses = [f"any {policy['survives_disks']} disks"]
    losses += ["a node"] * policy["survives_node"]
    losses += ["a Domain"] * policy["survives_domain"]
    losses += ["a Domain and a disk"] * policy["survives_domain_and_disk"]
    return ", ".join(losses)
