"""cdtool compress: a concept in a smaller file, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool.cli import options, output
from cdtool.cli.parsing import BASICS
from cdtool.compression import run as compression
from cdtool.errors import UsageError
from cdtool.settings import CompressSettings
from cdtool.store import registry

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.compression.truncation import Compressed, CurvePoint
    from cdtool.store.registry import Concept

Energy = Annotated[
    float | None,
    options.setting(
        CompressSettings, "energy", "--energy", help="Share of the spectrum to keep.", metavar="F", panel=BASICS
    ),
]
Rank = Annotated[
    int | None,
    typer.Option("--rank", metavar="R", min=1, rich_help_panel=BASICS, help="The same rank for every matrix."),
]
MaxSize = Annotated[
    str | None,
    typer.Option(
        "--max-size",
        metavar="SIZE",
        rich_help_panel=BASICS,
        help="Of the file: 2MB, 500KB, 1.5MiB; ranks where they count.",
    ),
]
Curve = Annotated[
    bool,
    typer.Option("--curve", rich_help_panel=BASICS, help="Show size and error by share; saves nothing without -o."),
]
Picture = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="Where --curve also plots to: .png, .pdf or .svg.")
]


def compress(
    concept: options.Concept,
    picture: Picture = None,
    name: options.Name = None,
    energy: Energy = None,
    rank: Rank = None,
    max_size: MaxSize = None,
    curve: Curve = False,
    force: options.Force = False,
    if_missing: options.IfMissing = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a concept's file smaller, at little cost.

    Each matrix keeps the singular values that matter; the result is NAME-small unless named. Neither the base nor a
    GPU is needed. A matrix that would not get smaller stays as it is.

    Examples:
      cdtool compress dog
      cdtool compress dog --max-size 2MB -o dog-2mb
      cdtool compress dog --curve curve.png
    """
    out = output.sink(json, quiet)
    saves = name is not None or not curve
    plan = compression.plan(concept, name=name, energy=energy, rank=rank, max_size=max_size, saves=saves, curve=curve,
                            force=force)  # fmt: skip
    if saves and if_missing and plan.name in registry.names():
        out.talk(f'There is a concept "{plan.name}" already; nothing to do.')
        out.result(plan.name, _data(registry.find(plan.name)))
        return
    _check_picture(picture, curve)
    *_, last = out.follow(compression.run(plan), label="matrix")
    if picture:
        _plot(out, plan.entry.name, last.curve, picture)
    points = {"curve": [asdict(point) for point in last.curve]} if curve else {}
    if curve and not (saves and json):
        rows = [_row(point) for point in last.curve]
        out.table(("SPECTRUM", "SIZE", "ERROR", "RANK"), rows, {"name": plan.entry.name} | points)
    if last.concept is not None and last.result is not None:
        _tell(out, plan.entry, last.result)
        out.result(last.concept.name, _data(last.concept) | _figures(plan.entry, last.result) | points)


def _check_picture(picture: Path | None, curve: bool) -> None:
    if picture is None:
        return
    if not curve:
        raise UsageError(f'What is "{picture}"?', f"To plot the curve of size and error there: --curve {picture}")
    from cdtool.reports import charts

    charts.check(picture)


def _plot(out: Output, name: str, points: Sequence[CurvePoint], picture: Path) -> None:
    from cdtool.reports import charts

    charts.size_and_error(name, [(point.share, point.bytes, point.error) for point in points], picture)
    out.talk(f"Plot: {picture}")


def _row(point: CurvePoint) -> tuple[str, ...]:
    return (f"{point.share:.0%}", output.size(point.bytes), f"{point.error:.4f}", f"{point.rank:g}")


def _tell(out: Output, entry: Concept, small: Compressed) -> None:
    used = sorted(rank for rank in small.ranks.values() if rank)
    out.talk(f"before  {output.size(entry.bytes):>8}  100.0% of the spectrum  relative error 0")
    out.talk(
        f"after   {output.size(small.bytes):>8}  {small.kept:6.1%} of the spectrum  relative error {small.error:.4f}"
    )
    same = len(small.ranks) - len(used)
    if used:
        out.talk(f"Ranks {used[0]} to {used[-1]}" + (f"; {same} matrices stay as they were." if same else "."))
    else:
        out.talk("No matrix would get smaller that way, so all stay as they were.")


def _figures(entry: Concept, small: Compressed) -> dict[str, Any]:
    before = {"name": entry.name, "bytes": entry.bytes}
    return {"from": before, "error": small.error, "kept": small.kept, "ranks": dict(small.ranks)}


def _data(entry: Concept) -> dict[str, Any]:
    return {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes}
