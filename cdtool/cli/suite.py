"""cdtool eval --suite: a whole benchmark, as tables beside the published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool.cli import options, output
from cdtool.cli.stopping import asked_to_stop
from cdtool.errors import NameTakenError

if TYPE_CHECKING:
    from cdtool.evaluation.metrics import MetricRequest
    from cdtool.research.recipes import Event
    from cdtool.research.run import Plan

Name = Annotated[
    str | None,
    typer.Option(
        "--suite", metavar="SUITE", help="Run a benchmark: paper, customconcept101, mini, mini-small, or a file."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where --suite keeps cells and tables; suites/SUITE.")
]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Where the photos and prompts of --suite lie.")
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="BASE", help="Of --suite: another base.", autocompletion=options.complete_bases),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="CELLS", help="Of --suite only these cells: ours.dog, '*.dog', 'joint.*'."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Of --suite: print what there is to do and do nothing.")]


@dataclass(frozen=True)
class Where:
    """Which suite, where what it needs and makes lies, and which of its cells."""

    suite: str
    data: Path | None
    out: Path | None
    base: str | None
    only: tuple[str, ...]
    device: str


def run(
    out: output.Output,
    where: Where,
    *,
    flags: Mapping[str, Any],
    metrics: str | None,
    wanted: Callable[[str], MetricRequest],
    dry_run: bool,
) -> None:
    """Run what is missing of a suite, and write and print its tables."""
    from cdtool.research import run as suites

    suite = suites.find(where.suite, where.data)
    scores = wanted(metrics or ",".join(suite.metrics))
    asked = suites.plan(
        suite, base=where.base, out=where.out, only=where.only, flags=flags, wanted=scores, device=where.device
    )
    if dry_run:
        _show(out, asked)
        return
    if asked.out.exists() and not asked.out.is_dir():
        raise NameTakenError(f"{asked.out} is a file.", "Give another --out.")
    output.quiet_libraries()
    with asked_to_stop() as stop:
        events = suites.run(asked, stop=stop)
        first = next(events)
        if first.kept:
            out.talk(f"{first.kept} of {len(asked.cells)} cells are finished already.")
        for _ in out.progress(_counted(events, out), first.total, describe=lambda event: f"{event.cell}  {event.told}"):
            pass
    _tables(out, asked)


def _counted(events: Iterator[Event], out: output.Output) -> Iterator[Event]:
    """What counts as progress; what came out of a cell is told."""
    for event in events:
        if event.kind == "kept":
            continue
        if event.kind == "cell":
            out.talk(f"{event.cell}: {event.told}")
        yield event


def _show(out: output.Output, asked: Plan) -> None:
    suite = asked.suite
    data: dict[str, Any] = {
        "suite": suite.name,
        "base": asked.base,
        "cells": [cell.id for cell in asked.cells],
        "pictures": asked.pictures,
        "out": str(asked.out),
        "settings": asdict(asked.drawing),
        "metrics": list(asked.wanted.metrics),
    }
    singles = [cell for cell in asked.cells if len(cell.concepts) == 1]
    facts = {
        "suite": f"{suite.name}: {suite.about}",
        "base": asked.base,
        "cells": f"{len(asked.cells)}: {len(singles)} of one concept, {len(asked.cells) - len(singles)} of pairs",
        "pictures": f"{asked.pictures}, {_counts(asked)} of each prompt in {asked.drawing.steps} steps",
        "metrics": ", ".join(asked.wanted.metrics),
        "results": str(asked.out),
    }
    out.facts(facts, data)


def _counts(asked: Plan) -> str:
    return " or ".join(map(str, sorted({asked.drawn(cell).count for cell in asked.cells})))


def _tables(out: output.Output, asked: Plan) -> None:
    from cdtool.research import run as suites
    from cdtool.research import tables as suitetables

    results = suites.results(asked)
    tables = suitetables.fill(asked.suite, asked.cells, results)
    encoders = sorted({cell["encoder"] for cell in results.values()})
    about = (
        f"On {asked.base}, {_counts(asked)} pictures of each prompt in {asked.drawing.steps} steps, "
        f"measured with {' and '.join(encoders)}; {len(results)} of {len(asked.suite.cells)} cells."
    )
    data = {
        "suite": asked.suite.name,
        "base": asked.base,
        "settings": asdict(asked.drawing),
        "tables": [asdict(table) for table in tables],
        "scores": {name: cell["scores"] for name, cell in results.items()},
    }
    page = suitetables.markdown(asked.suite, tables, about)
    paths = suitetables.write(asked.out, page, tables, data)
    (asked.out / "sheets").mkdir(exist_ok=True)
    for name, sheet in suites.sheets(asked):
        sheet.save(asked.out / "sheets" / f"{name}.png")
    out.results([str(path) for path in paths] if out.mode == "quiet" else page.splitlines(), data)
    notes = {f"{name}: {why}" for name, cell in results.items() for why in cell["notes"].values()}
    for note in sorted(notes):
        out.talk(f"Not measured: {note}")
    out.talk(f"Tables: {', '.join(map(str, paths))}; pictures: {asked.out / 'sheets'}")
