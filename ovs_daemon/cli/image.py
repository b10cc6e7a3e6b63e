"""`vstorage volume import | export`: whole volumes from and to image files.

qemu-img does the copying over the volume's NBD socket, so that every image format it knows works;
the volume is attached directly for as long as that takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ovs_daemon.cli import base
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.units import format_size

_PROGRESS = re.compile(rb"\((\d+\.\d+)/100%\)")
_ERROR_CHARACTERS_MAX = 2000


class _Image(base.Say):
    """What importing and exporting share."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="VOLUME", help="name or UUID")
        parser.add_argument("file", metavar="FILE", type=Path)
        return parser

    @contextlib.contextmanager
    def _attached(self, what: str, volume: dict[str, Any]) -> Iterator[str]:
        """The volume's URI; attached directly for the duration."""
        if volume["attached"] is not None:
            raise VStorageError(
                Code.IN_USE,
                what,
                f"it is attached ({volume['attached']})",
                "detach it first, or take a snapshot and use a clone of that",
            )
        attached = self.client.attach_volume(volume["uuid"], "direct", read_only=volume["template"])
        try:
            yield str(attached["uri"])
        finally:
            self.client.detach_volume(volume["uuid"])

    def _convert(self, what: str, arguments: list[str]) -> None:
        """Run qemu-img convert under a progress bar (on stderr, none with --json)."""
        console = Console(stderr=True, quiet=self.vstorage.json)
        with Progress(console=console) as progress:
            task = progress.add_task(what, total=100.0)
            for percent in _qemu_img_convert(what, arguments):
                progress.update(task, completed=percent)


class Import(_Image):
    """Fill a volume from an image file (raw, qcow2, ...); the rest of the volume stays."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--format", help="of the file; needed if it comes from somebody you do not trust"
        )
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Import it."""
        what = f"import {parsed.file} into volume {parsed.volume!r}"
        volume = self.client.show_volume(parsed.volume)
        image = _image_info(what, parsed.file, parsed.format)
        size = int(image["virtual-size"])
        if size > volume["size"]:
            raise VStorageError(
                Code.BAD_SIZE,
                what,
                f"the image holds {format_size(size)}, the volume {format_size(volume['size'])}",
                f"'vstorage volume resize {parsed.volume} {size}' first",
            )
        with self._attached(what, volume) as uri:
            source = ["-f", str(image["format"]), str(parsed.file.absolute())]
            self._convert(what, ["-n", "-O", "raw", *source, uri])
        return {"volume": volume["name"], "file": str(parsed.file), "bytes": size}

    def sentence(self, answer: Any) -> str:
        """What happened."""
        size = format_size(answer["bytes"])
        return f"{size} imported from {answer['file']} into volume {answer['volume']}"


class Export(_Image):
    """Copy a volume into an image file."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--format", default="raw", help="of the file (default: %(default)s)")
        return parser

    def ask(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Export it."""
        what = f"export volume {parsed.volume!r} to {parsed.file}"
        volume = self.client.show_volume(parsed.volume)
        # Under another name until it is whole: a file that is there is a good one.
        target = parsed.file.absolute()
        part = target.with_name(f"{target.name}.part")
        try:
            with self._attached(what, volume) as uri:
                self._convert(what, ["-f", "raw", "-O", parsed.format, uri, str(part)])
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return {"volume": volume["name"], "file": str(parsed.file), "bytes": volume["size"]}

    def sentence(self, answer: Any) -> str:
        """What happened."""
        size = format_size(answer["bytes"])
        return f"{size} exported from volume {answer['volume']} to {answer['file']}"


def _image_info(what: str, file: Path, image_format: str | None) -> dict[str, Any]:
    chosen = [] if image_format is None else ["-f", image_format]
    command = ["qemu-img", "info", "--output=json", *chosen, str(file.absolute())]
    with _explained(what):
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise _failed(what, done.stderr)
    info: dict[str, Any] = json.loads(done.stdout)
    return info


def _qemu_img_convert(what: str, arguments: list[str]) -> Iterator[float]:
    """Copy, yielding how many per cent are done."""
    command = ["qemu-img", "convert", "-p", *arguments]
    with (
        _explained(what),
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while chunk := os.read(process.stdout.fileno(), 4096):
                for percent in _PROGRESS.findall(chunk):
                    yield float(percent)
        except BaseException:
            process.terminate()
            raise
        error = process.stderr.read()
        if process.wait() != 0:
            raise _failed(what, error)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as missing:
        raise VStorageError(
            Code.TOOL_FAILED, what, "qemu-img is not installed", "apt install qemu-utils"
        ) from missing


def _failed(what: str, error: bytes) -> VStorageError:
    text = error.decode(errors="replace").strip()[:_ERROR_CHARACTERS_MAX]
    return VStorageError(Code.TOOL_FAILED, what, f"qemu-img: {text}", "see qemu-img's message")
