"""cdtool demo: the user's own commands on sample photos, one after the other."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from cdtool.cli import options, output
from cdtool.cli.stopping import asked_to_stop
from cdtool.errors import InterruptedRun
from cdtool.research import demo as demos

HERE = Path("cdtool-demo")
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where photos and images go.")]


def demo(out: Out = HERE, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """See all of it on sample photos, in a few minutes.

    Trains, merges, compresses and measures on the embedded base: no GPU and no network needed. Run again, it goes on
    where it was stopped.

    Examples:
    cdtool demo
    cdtool demo --out ./try
    """
    voice = output.sink(json, quiet)
    demos.unpack(out)
    with asked_to_stop() as stop:
        for command in demos.demo_commands(out):
            voice.talk(f"\n$ cdtool {shlex.join(command)}")
            code = _run(command, None if voice.mode == "human" else subprocess.DEVNULL)
            if stop() or code == InterruptedRun.exit_code:
                raise InterruptedRun("\nThe demo stopped; nothing is lost.", "Go on with: cdtool demo" + _where(out))
            if code:
                raise typer.Exit(code)
    sheet = demos.demo_sheet(out)
    voice.talk("\nThe photos, and the same prompts before and after:")
    voice.result(str(sheet), {"sheet": str(sheet)})


def _run(command: list[str], talk: int | None) -> int:
    """Run a command to its end, however often Ctrl-C comes: it hears it too, and saves before it stops."""
    with subprocess.Popen([sys.executable, "-m", "cdtool", *command], stdout=sys.stderr, stderr=talk) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def _where(out: Path) -> str:
    return "" if out == HERE else f" --out {shlex.quote(str(out))}"
