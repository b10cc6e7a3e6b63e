"""The application: global options, how answers and errors are shown, exit status."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from cliff.app import App
from cliff.command import Command
from cliff.commandmanager import CommandManager

from ovs_daemon.client import Client
from ovs_daemon.errors import VStorageError

_RUN_DIR = "/run/vstorage"


class VStorage(App):
    """`vstorage [--json] [--run-dir DIR] COMMAND ...`."""

    # An answer is all that is printed; -v shows what libraries do.
    DEFAULT_VERBOSE_LEVEL = 0

    def __init__(self) -> None:
        super().__init__(
            description="Volumes of this node.",
            version=metadata.version("open-vstorage"),
            command_manager=CommandManager("vstorage.cli"),
            deferred_help=True,
        )
        self.json = False
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The daemon's control API."""
        if self._client is None:
            self._client = Client(Path(self.options.run_dir) / "control.sock")
        return self._client

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, object] | None = None,
    ) -> argparse.ArgumentParser:
        """Global options."""
        parser = super().build_option_parser(description, version, argparse_kwargs)
        parser.add_argument(
            "--run-dir",
            metavar="DIR",
            default=os.environ.get("VSTORAGE_RUN_DIR", _RUN_DIR),
            help="the daemon's run_dir (environment: VSTORAGE_RUN_DIR; default: %(default)s)",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="answers, and errors on stderr, as JSON; may stand before or after the command",
        )
        return parser

    def run(self, argv: list[str]) -> int:
        """Run one command; `--json` counts wherever it stands."""
        before, separator, after = _split(argv)
        self.json = "--json" in before
        rest = [word for word in before if word != "--json"]
        return super().run([*rest, *separator, *after])

    def interact(self) -> None:
        """Without a command there is nothing to do but to help."""
        self.parser.print_help(self.stderr)

    def complain(self, failure: VStorageError) -> None:
        """Show an error on stderr."""
        if self.json:
            text = json.dumps({"error": failure.to_dict()})
        else:
            text = f"vstorage: cannot {failure.what}: {failure.why}\n  {failure.fix}"
        print(text, file=self.stderr)

    def clean_up(self, cmd: Command, result: int, err: BaseException | None) -> None:
        """Drop the connection after a command."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _split(argv: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Words before a bare "--", the "--" itself, and what follows it untouched."""
    words = list(argv)
    if "--" not in words:
        return words, [], []
    place = words.index("--")
    return words[:place], ["--"], words[place + 1 :]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return VStorage().run(list(sys.argv[1:] if argv is None else argv))
