"""`vstorage alba list | recover`: objects from the folders of OSDs, without any daemon."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ovs_daemon.cli import base
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.keys import read_key_file
from ovs_daemon.recover import Found, folders, recover, search


class _OnFolders(base._Answering):
    """A command on folders of OSDs."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--osd",
            metavar="FOLDER",
            action="append",
            required=True,
            help="the folder of an OSD that is left (may be repeated)",
        )
        return parser


class List(_OnFolders, base.Rows):
    """List the objects of which fragments are in the folders of OSDs; no daemon is asked."""

    shown = ("name", "puts", "fragments", "deleted_puts")

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """List them; puts and fragments are those that were not deleted."""
        found = search(folders(parsed.osd))
        return [
            {
                "name": name,
                "puts": len(files := found.standing.get(name, {})),
                "fragments": sum(len(one) for put in files.values() for one in put.values()),
                "deleted_puts": len(found.deleted.get(name, {})),
            }
            for name in found.names
        ]


class Recover(_OnFolders, base.Say):
    """Decode objects by pyeclib from what is left in the folders of OSDs; no daemon is asked.

    What one of the OSDs has marked as deleted is left out, unless asked for.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("output", metavar="FOLDER", help="where the objects are written to")
        parser.add_argument(
            "--object",
            metavar="NAME",
            action="append",
            help="only this object (may be repeated); all, unless given",
        )
        parser.add_argument(
            "--key-file",
            metavar="FILE",
            help="keys of encrypted objects, as in the option [alba] key_file",
        )
        parser.add_argument(
            "--with-deleted",
            action="store_true",
            help="bring back what was deleted and is on disks still, too",
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Recover them."""
        found = search(folders(parsed.osd))
        keys = {} if parsed.key_file is None else read_key_file(Path(parsed.key_file))
        answer = _Answer()
        for name in parsed.object or found.names:
            answer.take(Path(parsed.output), name, found, keys, parsed.with_deleted)
        if not answer.recovered and not answer.brought_back:
            answer.refuse(asked_for=parsed.object is not None)
        return vars(answer)

    def sentence(self, answer: Any) -> str:
        """What was recovered, and why the rest was not."""
        lines = [f"recovered {len(answer['recovered'])} objects"]
        lines += [f"was deleted, brought back: {name}" for name in answer["brought_back"]]
        if count := len(answer["deleted"]):
            lines.append(f"left out {count} that were deleted; --with-deleted brings them back:")
            lines += [f"deleted: {name}" for name in answer["deleted"]]
        lines += [f"lost: {name}: {why}" for name, why in answer["lost"].items()]
        return "\n".join(lines)


class _Answer:
    """What became of each object."""

    def __init__(self) -> None:
        self.recovered: list[str] = []
        #: had been deleted, and are recovered nevertheless
        self.brought_back: list[str] = []
        #: were deleted, and are left out
        self.deleted: list[str] = []
        #: name and why
        self.lost: dict[str, str] = {}

    def take(
        self, output: Path, name: str, found: Found, keys: dict[str, str], with_deleted: bool
    ) -> None:
        """Recover an object, if that is possible and wanted."""
        standing, deleted = found.standing.get(name), found.deleted.get(name)
        attempts = []
        # A put that nobody deleted comes before one that somebody did, however much is left of it.
        if standing is not None or deleted is None:
            attempts.append((standing or {}, self.recovered))
        if deleted is not None and with_deleted:
            attempts.append((deleted, self.brought_back))
        if not attempts:
            self.deleted.append(name)
            return
        reasons = []
        for files, names in attempts:
            try:
                _write(output, name, files, keys)
            except VStorageError as failure:
                reasons.append(failure.why)
            else:
                names.append(name)
                return
        if deleted is not None and not with_deleted:
            reasons.append("a put of it that was deleted may be left, see --with-deleted")
        self.lost[name] = "; ".join(filter(None, reasons)) or "no fragment of it was found"

    def refuse(self, asked_for: bool) -> None:
        """Say why nothing at all was recovered, where that is a failure.

        :param asked_for: the objects were named
        :raises VStorageError: it is
        """
        for name, why in self.lost.items():
            raise VStorageError(
                Code.INTERNAL,
                f"recover object {name!r}",
                why,
                "give the folders of more OSDs, and the keys of those that are encrypted",
            )
        for name in self.deleted if asked_for else ():
            raise VStorageError(
                Code.BAD_REQUEST,
                f"recover object {name!r}",
                "it was deleted, as one of the OSDs says",
                "give --with-deleted if it shall be brought back nevertheless",
            )


def _write(output: Path, name: str, files: Any, keys: dict[str, str]) -> None:
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = recover(name, files, keys)
    # Never over something that was recovered before.
    with path.open("xb") as target:
        for piece in pieces:
            target.write(piece)
