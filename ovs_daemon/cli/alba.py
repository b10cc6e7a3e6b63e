"""`vstorage alba list | recover`: objects from the folders of OSDs, without any daemon."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ovs_daemon.cli import base
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.keys import read_key_file
from ovs_daemon.recover import folders, recover, scan


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

    shown = ("name", "puts", "fragments")

    def ask(self, parsed: argparse.Namespace) -> list[dict[str, Any]]:
        """List them."""
        return [
            {
                "name": name,
                "puts": len(files),
                "fragments": sum(len(one) for put in files.values() for one in put.values()),
            }
            for name, files in scan(folders(parsed.osd)).items()
        ]


class Recover(_OnFolders, base.Say):
    """Decode objects by pyeclib from what is left in the folders of OSDs; no daemon is asked."""

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
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Recover them."""
        objects = scan(folders(parsed.osd))
        keys = {} if parsed.key_file is None else read_key_file(Path(parsed.key_file))
        names = parsed.object or list(objects)
        recovered, lost = [], {}
        for name in names:
            try:
                _write(Path(parsed.output), name, objects.get(name, {}), keys)
                recovered.append(name)
            except VStorageError as failure:
                lost[name] = failure.why
        if lost and not recovered:
            name, why = next(iter(lost.items()))
            raise VStorageError(
                Code.INTERNAL,
                f"recover object {name!r}",
                why or "no fragment of it was found",
                "give the folders of more OSDs, and the keys of those that are encrypted",
            )
        return {"recovered": recovered, "lost": lost}

    def sentence(self, answer: Any) -> str:
        """What was recovered, and why the rest was not."""
        lines = [f"recovered {len(answer['recovered'])} objects"]
        lines += [f"lost: {name}: {why}" for name, why in answer["lost"].items()]
        return "\n".join(lines)


def _write(output: Path, name: str, files: Any, keys: dict[str, str]) -> None:
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = recover(name, files, keys)
    # Never over something that was recovered before.
    with path.open("xb") as target:
        for piece in pieces:
            target.write(piece)
