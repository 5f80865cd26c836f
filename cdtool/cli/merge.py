"""cdtool merge: several concepts in one file, and how good the merge is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool.cli import options, output
from cdtool.merging import run as merging
from cdtool.store import registry

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.merging.diagnostics import Report
    from cdtool.store.registry import Concept
    from cdtool.store.subject import Composition

WELL = 0.7  # fidelity from which a merged concept looks as it did alone
Captions = Annotated[
    Path | None,
    typer.Option("--captions", metavar="FILE", help="Regularization captions to leave as they are, one a line."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what has this name; save though a concept is lost; another --base.")
]


def merge(
    concept: options.Concepts,
    name: options.Name = None,
    captions: Captions = None,
    base: options.Base = None,
    force: Force = False,
    if_missing: options.IfMissing = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Merge several concepts of one base into one file.

    It takes no training, and the file is small; on a base of SDXL's size it takes minutes, on smaller ones seconds.
    Their tokens become V1, V2... in the order given. What the merge kept of each concept is told and recorded; where it
    lost one, nothing is saved and the exit code is 6.

    Examples:
    cdtool merge dog moongate -o pair
    cdtool sample pair "V1 dog in front of V2 moongate"
    cdtool merge pair cat -o three --captions my-captions.txt
    """
    out = output.sink(json, quiet)
    plan = merging.plan(*concept, name=name, captions=captions, base=base, force=force)
    if if_missing and plan.name in registry.names():
        out.talk(f'There is a concept "{plan.name}" already; nothing to do.')
        out.result(plan.name, _data(registry.find(plan.name)))
        return
    for step in out.follow(merging.run(plan), label="caption"):
        for warning in step.warnings:
            out.warn(warning)
        if step.concept is not None and step.report is not None:
            out.talk(f'Saved. Try: cdtool sample {step.concept.name} "{_example(plan.composition)}"')
            out.result(step.concept.name, _data(step.concept) | {"saved": True, "report": step.report.data()})
        elif step.report is not None:
            _tell(out, step.report)
            if json and step.report.lost and not force:
                out.result(plan.name, {"name": plan.name, "saved": False, "report": step.report.data()})


def _tell(out: Output, report: Report) -> None:
    """What came out, in words on stderr; the figures are in `cdtool show` and --json."""
    for warning in report.warnings:
        out.warn(warning)
    for name, kept in report.fidelity.items():
        out.talk(f"{name}: {_verdict(kept)} ({kept:.0%} of what it changes)")
    out.talk(
        f"Other captions move by {report.drift:.0%} of what the concepts change. All figures: cdtool show, --json."
    )


def _verdict(kept: float) -> str:
    """A fidelity in words."""
    from cdtool.merging.diagnostics import LOST

    if not kept >= LOST:
        return "lost"
    return "kept well" if kept >= WELL else "kept in part"


def _example(found: Composition) -> str:
    words = [f"V{place} {token.noun}" for place, token in enumerate(found.tokens, 1)]
    return " in front of ".join(words[:2]) + "".join(f" and {word}" for word in words[2:])


def _data(entry: Concept) -> dict[str, Any]:
    return {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes}
