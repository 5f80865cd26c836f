"""cdtool compress: a concept in a smaller file, and what that costs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool import settings
from cdtool.cli import options, output
from cdtool.cli.parsing import BASICS
from cdtool.errors import UsageError
from cdtool.settings import CompressSettings
from cdtool.store import registry

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.compression import Point, Small, Source
    from cdtool.store.registry import Concept

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(k|m|g|ki|mi|gi|)b?\s*")

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
    wanted = _wanted(energy, rank, max_size)
    entry = registry.find(concept)
    target = name or f"{entry.name}-small"
    saves = name is not None or not curve
    if saves and if_missing and target in registry.names():
        out.talk(f'There is a concept "{target}" already; nothing to do.')
        out.result(target, _data(registry.find(target)))
        return
    if saves and not force:
        registry.check_free(target)
    _check_picture(picture, curve)
    from cdtool import compression
    from cdtool.models import spectra

    source = compression.read(entry)
    parts = list(out.progress(spectra.decompose(source.tensors), source.matrices, label="matrix"))
    points = compression.curve(source, parts) if curve else []
    if picture:
        _plot(out, entry.name, points, picture)
    drawn = {"curve": [asdict(point) for point in points]} if curve else {}
    if curve and not (saves and json):
        out.table(
            ("SPECTRUM", "SIZE", "ERROR", "RANK"), [_row(point) for point in points], {"name": entry.name} | drawn
        )
    if saves:
        small = compression.compress(source, parts, compression.Goal(**wanted), target)
        made = compression.save(source, small, force=force)
        _tell(out, source, small)
        out.result(made.name, _data(made) | _figures(source, small) | drawn)


def _wanted(energy: float | None, rank: int | None, max_size: str | None) -> dict[str, Any]:
    """The one thing the ranks are chosen by. Raises UsageError for two, SettingsError for an impossible share."""
    given = {"--energy": energy, "--rank": rank, "--max-size": max_size}
    flags = [flag for flag, value in given.items() if value is not None]
    if len(flags) > 1:
        raise UsageError(f"{' and '.join(flags)} exclude each other.", "Give one of them.")
    if max_size is not None:
        return {"bytes": parse_bytes(max_size)}
    if rank is not None:
        return {"rank": rank}
    return {"energy": settings.resolve(CompressSettings, {"energy": energy})[0].energy}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as 2MB, 500KB or 1.5MiB. Raises UsageError for anything else."""
    found = _SIZE.fullmatch(text.lower())
    if not found or not (count := int(float(found[1]) * _UNITS[found[2]])):
        raise UsageError(f'"{text}" is not a size.', "Write it like --max-size 2MB, 500KB or 1.5MiB.")
    return count


def _check_picture(picture: Path | None, curve: bool) -> None:
    if picture is None:
        return
    if not curve:
        raise UsageError(f'What is "{picture}"?', f"To plot the curve of size and error there: --curve {picture}")
    from cdtool.reports import charts

    charts.check(picture)


def _plot(out: Output, name: str, points: Sequence[Point], picture: Path) -> None:
    from cdtool.reports import charts

    charts.size_and_error(name, [(point.share, point.bytes, point.error) for point in points], picture)
    out.talk(f"Plot: {picture}")


def _row(point: Point) -> tuple[str, ...]:
    return (f"{point.share:.0%}", output.size(point.bytes), f"{point.error:.4f}", f"{point.rank:g}")


def _tell(out: Output, source: Source, small: Small) -> None:
    used = sorted(rank for rank in small.ranks.values() if rank)
    out.talk(f"before  {output.size(source.entry.bytes):>8}  100.0% of the spectrum  relative error 0")
    out.talk(
        f"after   {output.size(small.bytes):>8}  {small.kept:6.1%} of the spectrum  relative error {small.error:.4f}"
    )
    same = len(small.ranks) - len(used)
    if used:
        out.talk(f"Ranks {used[0]} to {used[-1]}" + (f"; {same} matrices stay as they were." if same else "."))
    else:
        out.talk("No matrix would get smaller that way, so all stay as they were.")


def _figures(source: Source, small: Small) -> dict[str, Any]:
    before = {"name": source.entry.name, "bytes": source.entry.bytes}
    return {"from": before, "error": small.error, "kept": small.kept, "ranks": dict(small.ranks)}


def _data(entry: Concept) -> dict[str, Any]:
    return {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes}
