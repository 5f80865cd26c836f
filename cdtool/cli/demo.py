"""cdtool demo: the user's own commands on sample photos, one after the other."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from cdtool.cli import options, output
from cdtool.research import demo as demos

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where photos and pictures go.")]


def demo(out: Out = Path("cdtool-demo"), json: options.Json = False, quiet: options.Quiet = False) -> None:
    """See all of it on sample photos, in a few minutes.

    Trains, merges, compresses and measures on the embedded base: no GPU and no network needed. Run again, it goes on
    where it was stopped.

    Examples:
    cdtool demo
    cdtool demo --out ./try
    """
    voice = output.sink(json, quiet)
    demos.unpack(out)
    for command in demos.demo_commands(out):
        voice.talk(f"\n$ cdtool {shlex.join(command)}")
        talk = None if voice.mode == "human" else subprocess.DEVNULL
        done = subprocess.run([sys.executable, "-m", "cdtool", *command], stdout=sys.stderr, stderr=talk, check=False)
        if done.returncode:
            raise typer.Exit(done.returncode)
    sheet = demos.demo_sheet(out)
    voice.talk("\nThe photos, and the same prompts before and after:")
    voice.result(str(sheet), {"sheet": str(sheet)})
