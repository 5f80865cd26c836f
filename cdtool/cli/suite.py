"""cdtool suite: benchmarks, run by any number of workers, as tables beside the published ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool.cli import evalflags, options, output
from cdtool.cli.parsing import BASICS, SPEED
from cdtool.cli.stopping import asked_to_stop
from cdtool.errors import InputError, NameTakenError, UsageError
from cdtool.schema import whole_number
from cdtool.tokens import counted

if TYPE_CHECKING:
    from cdtool.research.recipes import Event
    from cdtool.research.run import Plan

_KNOWN = ("paper", "mini", "mini-small", "mini-sets", "customconcept101", "mcpp")


def _complete(incomplete: str) -> list[str]:
    return [name for name in _KNOWN if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name, or a file.", autocompletion=_complete)]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", rich_help_panel=BASICS, help="Folder of results.  [default: suites/SUITE]"),
]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", rich_help_panel=BASICS, help="Folder of photos and prompts.")
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="CELLS", rich_help_panel=BASICS, help="These cells: ours.dog, '*.dog', 'joint.*'."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", rich_help_panel=BASICS, help="Print the plan, and do nothing.")]
Workers = Annotated[
    str,
    typer.Option("--workers", metavar="N", rich_help_panel=SPEED, help="Processes; auto: one per GPU."),
]
Slurm = Annotated[bool, typer.Option("--slurm", rich_help_panel=SPEED, help="Submit the workers as a SLURM array.")]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm-option", metavar="K=V", rich_help_panel=SPEED, help="Of submitit: timeout_min=120, gpus_per_node=1."
    ),
]


def run(
    suite: Name,
    out: Out = None,
    data: Data = None,
    only: Only = None,
    base: options.Base = None,
    scoring: evalflags.Scoring = evalflags.Scoring(),
    sampling: evalflags.Sampling = evalflags.Sampling(),
    device: options.Device = "auto",
    workers: Workers = "1",
    slurm: Slurm = False,
    slurm_option: SlurmOption = None,
    dry_run: DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a benchmark and write its tables.

    Finished cells are kept, so a stopped run goes on with the same command. With --workers several processes share the
    cells; the same command on several machines that share --out does too. See: cdtool suite status SUITE

    Examples:
      cdtool suite run mini-small --out bench
      cdtool suite run mini-small --out bench --only 'ours.*' --metrics text,image,rank
      cdtool suite run mini --workers auto
      cdtool suite run customconcept101 --data ./customconcept101 --dry-run
    """
    from cdtool.evaluation.metrics import request
    from cdtool.research import run as suites

    voice = output.sink(json, quiet)
    chosen = suites.find(suite, data)
    scores = request(**vars(scoring) | {"metrics": scoring.metrics or chosen.metrics})
    plan = suites.plan(chosen, base=base, out=out, only=only or (), flags=vars(sampling), wanted=scores, device=device)
    if dry_run:
        _show(voice, plan)
        return
    if plan.out.exists() and not plan.out.is_dir():
        raise NameTakenError(f"{plan.out} is a file.", "Give another --out.")
    given = {"out": plan.out, "data": data, "base": base, "device": device, **vars(scoring), **vars(sampling)}
    command = _worker_command(suite, given, only or ())
    output.quiet_libraries()
    if slurm:
        _submit(voice, plan, command, workers, slurm_option or ())
    else:
        _run(voice, plan, command, workers)


def _worker_command(suite: str, given: Mapping[str, object], only: Sequence[str]) -> list[str]:
    """What another process runs to work on the same cells; `given` are options by the names of their parameters."""
    command = [sys.executable, "-m", "cdtool", "suite", "run", suite, "--quiet"]
    for name, value in given.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    return command + [word for cells in only for word in ("--only", cells)]


def _run(out: output.Output, plan: Plan, command: list[str], text: str) -> None:
    from cdtool.research import run as suites
    from cdtool.research import workers

    count = 1 if text == "1" else workers.count_of(text)
    failed: list[str] = []
    with asked_to_stop() as stop:
        events = suites.run(plan, stop=stop) if count == 1 else workers.run(plan, command, count, stop=stop)
        first = next(events)
        if first.kept:
            out.talk(f"{first.kept} of {len(plan.cells)} cells are finished already.")
        reported = _reported(events, out, failed)
        for _ in out.progress(reported, first.total, describe=lambda event: f"{event.cell}  {event.told}"):
            pass
    _tables(out, plan)
    if failed:
        raise InputError(f"{counted(len(failed), 'cell')} of {len(plan.cells)} failed: {failed[0]}",
                         f"All of them: cdtool suite status {plan.suite.name} --out {plan.out}")  # fmt: skip


def _submit(out: output.Output, plan: Plan, command: list[str], text: str, given: list[str] | tuple[str, ...]) -> None:
    from cdtool.research import workers

    parameters: dict[str, Any] = {}
    for option in given:
        name, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f'--slurm-option: "{option}" is not a name and a value.', "Like timeout_min=120.")
        number = whole_number(value)
        parameters[name] = value if number is None else number
    if text == "auto":
        raise UsageError("--slurm needs the number of jobs.", "Like --workers 8.")
    job = workers.submit(command, workers.count_of(text), plan.out / "slurm", parameters, "slurm")
    out.result(job, {"job": job, "workers": int(text), "out": str(plan.out)})
    out.talk(f"Follow it with: cdtool suite status {plan.suite.name} --out {plan.out}")


def _reported(events: Iterator[Event], out: output.Output, failed: list[str]) -> Iterator[Event]:
    """The events that count as progress; finished and failed cells are printed."""
    for event in events:
        if event.kind == "cell":
            out.talk(f"{event.cell}: {event.told}")
        if event.kind == "failed":
            failed.append(f"{event.cell}: {event.told}")
            out.warn(failed[-1])
        if event.kind != "kept":
            yield event


def list_(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the benchmarks that are known.

    Examples:
      cdtool suite list
    """
    from cdtool.research import customconcept101
    from cdtool.research import suite as suitefile

    out = output.sink(json, quiet)
    rows = []
    for name, path in suitefile.SHIPPED.items():
        suite = suitefile.read(path)
        rows.append({"name": name, "about": suite.about, "base": suite.base, "cells": len(suite.cells)})
    rows += [{"name": name, "about": about, "base": "sd14", "cells": None}
             for name, about in customconcept101.ABOUT.items()]  # fmt: skip
    if out.mode == "quiet":
        out.results([str(row["name"]) for row in rows], {"suites": rows})
        return
    cells = [[str(row["name"]), str(row["base"]), str(row["cells"] or ""), str(row["about"])] for row in rows]
    out.table(["suite", "base", "cells", ""], cells, {"suites": rows})


def show(suite: Name, data: Data = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show what a benchmark consists of.

    Examples:
      cdtool suite show mini-small
    """
    from cdtool.research import run as suites

    out = output.sink(json, quiet)
    chosen = suites.find(suite, data)
    facts = {
        "suite": f"{chosen.name}: {chosen.about}",
        "base": chosen.base,
        "concepts": ", ".join(concept.name for concept in chosen.concepts),
        "pairs": ", ".join("+".join(member.name for member in pair.members) for pair in chosen.pairs) or "none",
        "methods": ", ".join(method.name for method in chosen.methods),
        "compositions": ", ".join(f"{method.name} ({method.mode})" for method in chosen.compositions) or "none",
        "metrics": ", ".join(chosen.metrics),
        "tables": ", ".join(table.title for table in chosen.tables),
        "cells": str(len(chosen.cells)),
    }
    out.facts(facts, {**facts, "cells": [cell.id for cell in chosen.cells]})


def status(
    suite: Name, out: Out = None, data: Data = None, json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Show which worker runs which cell, and what failed.

    Examples:
      cdtool suite status mini-small --out bench
    """
    from cdtool.research import run as suites

    voice = output.sink(json, quiet)
    plan = suites.plan(suites.find(suite, data), out=out)
    found = suites.status(plan)
    counts = {state: sum(one.state == state for one in found) for state in ("finished", "running", "failed", "waiting")}
    data_ = {"suite": plan.suite.name, "out": str(plan.out), "counts": counts, "cells": [asdict(one) for one in found]}
    if voice.mode == "quiet":
        voice.results([f"{state} {number}" for state, number in counts.items()], data_)
        return
    rows = [[one.cell, one.state, one.worker, _time(one.when), one.why] for one in found]
    voice.table(["cell", "", "worker", "since", ""], rows, data_)
    voice.talk(", ".join(f"{number} {state}" for state, number in counts.items()) + f" of {len(found)} in {plan.out}.")


def _time(when: float) -> str:
    return f"{datetime.fromtimestamp(when):%m-%d %H:%M}" if when else ""


def _show(out: output.Output, plan: Plan) -> None:
    suite = plan.suite
    data: dict[str, Any] = {
        "suite": suite.name,
        "base": plan.base,
        "cells": [cell.id for cell in plan.cells],
        "pictures": plan.pictures,
        "out": str(plan.out),
        "settings": asdict(plan.drawing),
        "metrics": list(plan.wanted.metrics),
    }
    singles = [cell for cell in plan.cells if len(cell.concepts) == 1]
    facts = {
        "suite": f"{suite.name}: {suite.about}",
        "base": plan.base,
        "cells": f"{len(plan.cells)}: {len(singles)} of one concept, {len(plan.cells) - len(singles)} of pairs",
        "pictures": f"{plan.pictures}, {_counts(plan)} of each prompt in {plan.drawing.steps} steps",
        "metrics": ", ".join(plan.wanted.metrics),
        "results": str(plan.out),
    }
    out.facts(facts, data)


def _counts(plan: Plan) -> str:
    return " or ".join(map(str, sorted({plan.drawn(cell).count for cell in plan.cells})))


def _tables(out: output.Output, plan: Plan) -> None:
    from cdtool.research import run as suites
    from cdtool.research import tables as suitetables

    results = suites.results(plan)
    tables = suitetables.fill(plan.suite, plan.cells, results)
    encoders = sorted({cell["encoder"] for cell in results.values()})
    about = (
        f"On {plan.base}, {_counts(plan)} pictures of each prompt in {plan.drawing.steps} steps, "
        f"measured with {' and '.join(encoders)}; {len(results)} of {len(plan.suite.cells)} cells."
    )
    data = {
        "suite": plan.suite.name,
        "base": plan.base,
        "settings": asdict(plan.drawing),
        "tables": [asdict(table) for table in tables],
        "scores": {name: cell["scores"] for name, cell in results.items()},
    }
    page = suitetables.markdown(plan.suite, tables, about)
    paths = suitetables.write(plan.out, page, tables, data)
    suites.save_sheets(plan)
    out.results([str(path) for path in paths] if out.mode == "quiet" else page.splitlines(), data)
    notes = {f"{name}: {why}" for name, cell in results.items() for why in cell["notes"].values()}
    for note in sorted(notes):
        out.talk(f"Not measured: {note}")
    out.talk(f"Tables: {', '.join(map(str, paths))}; pictures: {plan.out / 'sheets'}")
