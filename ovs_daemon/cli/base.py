"""How a command answers: as JSON when asked, else as a table, a sentence or a line.

With `--json` a command prints exactly what the control API said. Tables show the same keys, sizes
with units; cliff's own `-f json`, `-c COLUMN` and so on work on the tables.
"""

from __future__ import annotations

import abc
import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from cliff.columns import FormattableColumn
from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from ovs_daemon.cli.app import VStorage
from ovs_daemon.client import Client
from ovs_daemon.errors import VStorageError
from ovs_daemon.units import format_size

_SIZES = frozenset({"size", "free", "sco_size", "mapped_bytes", "buffer_bytes", "map_ram_bytes"})


class SizeColumn(FormattableColumn[int]):
    """A number of bytes: with a unit for people, plain for machines."""

    def human_readable(self) -> str:
        """Such as "1.5 GiB"."""
        return format_size(self._value)


class TextColumn(FormattableColumn[Any]):
    """Nothing is shown as "-", an object as its parts, a list with commas."""

    def human_readable(self) -> str:
        """One line of text."""
        if self._value is None:
            return "-"
        if isinstance(self._value, Mapping):
            parts = (f"{key}={value}" for key, value in self._value.items() if value is not None)
            return "\n".join(parts)
        if isinstance(self._value, list):
            return ", ".join(map(str, self._value)) or "-"
        return str(self._value)


class _Answering(Command):
    """What all commands share."""

    @property
    def vstorage(self) -> VStorage:
        """The application, by its own type."""
        return cast(VStorage, self.app)

    @property
    def client(self) -> Client:
        """The daemon's control API."""
        return self.vstorage.client

    @abc.abstractmethod
    def ask(self, parsed: argparse.Namespace) -> Any:
        """Do what the command is for; returns the answer that `--json` prints."""

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run, and show an error as one."""
        try:
            if self.vstorage.json:
                print(json.dumps(self.ask(parsed_args)), file=self.app.stdout)
                return 0
            return super().run(parsed_args)
        except VStorageError as failure:
            self.vstorage.complain(failure)
            return 1


class Say(_Answering):
    """A command that answers with a line of text."""

    @abc.abstractmethod
    def sentence(self, answer: Any) -> str:
        """The answer for people."""

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask and say."""
        print(self.sentence(self.ask(parsed_args)), file=self.app.stdout)


class Show(_Answering, ShowOne):
    """A command that answers with one object."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask and show all keys."""
        answer = self.ask(parsed_args)
        return tuple(answer), tuple(column(key, value) for key, value in answer.items())


class Rows(_Answering, Lister):
    """A command that answers with a list of objects."""

    #: keys that the table shows
    shown: tuple[str, ...] = ()

    @property
    def need_sort_by_cliff(self) -> bool:
        """The daemon's order is the right one."""
        return False

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Ask and list."""
        answer = self.ask(parsed_args)
        return self.shown, [[column(key, row[key]) for key in self.shown] for row in answer]


def column(key: str, value: Any) -> Any:
    """A value as a table shows it."""
    if key in _SIZES and value is not None:
        return SizeColumn(value)
    return TextColumn(value)
