"""cdtool open: the newest picture of a concept, or a file, in the program that the system shows such files with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cdtool.cli import options, output
from cdtool.errors import NotFoundError, ResourceError
from cdtool.store import subject

Target = Annotated[
    str,
    typer.Argument(metavar="CONCEPT", help="A concept, several joined, a base, or a file or folder.",
                   autocompletion=options.complete_subjects),
]  # fmt: skip
From = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where its images went." + options.default_of("samples/CONCEPT")),
]


def open_(target: Target, out: From = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show a concept's newest image in the system's viewer.

    Where there is no screen, as over ssh, it prints the path alone.

    Examples:
    cdtool open dog
    cdtool open pair --out ./pictures
    cdtool open report.html
    """
    talk = output.sink(json, quiet)
    path = Path(target) if out is None and Path(target).exists() else _newest(target, out)
    if not _has_screen():
        talk.talk("There is no screen here to show it on.")
    elif typer.launch(str(path)) != 0:
        raise ResourceError(f"{path} could not be shown.", "The system has no program for such files.")
    talk.result(str(path), {"path": str(path)})


def _newest(target: str, out: Path | None) -> Path:
    """The image that was last written for a concept. Raises NotFoundError where there is none."""
    folder = out or Path("samples") / subject.find(target).label
    there = [path for path in folder.glob("*.png") if path.is_file()] if folder.is_dir() else []
    if not there:
        raise NotFoundError(f"There is no image in {folder}.", f'Make some: cdtool sample {target} "PROMPT"')
    return max(there, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _has_screen() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
