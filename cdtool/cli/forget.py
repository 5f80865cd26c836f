"""cdtool forget: a concept that makes its base forget something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdtool.cli import options, output
from cdtool.cli.parsing import BASICS, METHOD
from cdtool.erasure import run as erasing
from cdtool.store import registry

Phrases = Annotated[
    list[str], typer.Argument(metavar="WHAT...", help="Words the base forgets: a thing, a style, a name.")
]
Instead = Annotated[
    str | None,
    typer.Option("--as", metavar="WHAT", rich_help_panel=BASICS,
                 help="What is read in their place; other things of the base unless given."),
]  # fmt: skip
Keep = Annotated[
    Path | None,
    typer.Option("--keep", metavar="FILE", rich_help_panel=METHOD,
                 help="Prompts that must stay as they are, one a line; beside the base's nouns and captions."),
]  # fmt: skip


def forget(
    what: Phrases,
    instead: Instead = None,
    keep: Keep = None,
    name: options.Name = None,
    base: options.Base = None,
    force: options.Force = False,
    if_missing: options.IfMissing = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a concept that erases something from a base.

    It needs no training; the base stays as it was. The concept, no-WHAT unless named, is listed, merged,
    compressed, exported and measured as any other, and joined with others by +. Whatever prompt it acts on, what it
    does not erase stays nearly as it was; eval --forgetting says how nearly.

    Examples:
    cdtool forget "Van Gogh" --as art
    cdtool sample no-van-gogh "a house in the style of Van Gogh"
    cdtool forget cat dog --keep animals.txt -o no-pets
    """
    out = output.sink(json, quiet)
    plan = erasing.plan(*what, instead=instead, keep=keep, name=name, base=base, force=force)
    if if_missing and plan.name in registry.names():
        out.talk(f'There is a concept "{plan.name}" already; nothing to do.')
        entry = registry.find(plan.name)
        out.result(plan.name, {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes})
        return
    for step in out.follow(erasing.run(plan), label="caption"):
        if step.concept is not None:
            entry = step.concept
            measure = f"To measure it: cdtool eval {entry.name} --forgetting"
            out.talk(f"Other text moves by {step.drift:.1%} of what is forgotten. {measure}")
            out.talk(f'Saved. Try: cdtool sample {entry.name} "{plan.phrases[0]}"')
            data = {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes, "drift": step.drift}
            out.result(entry.name, data)
