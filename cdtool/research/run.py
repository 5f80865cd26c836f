"""Running a suite: every cell is trained, sampled and scored once, by any number of workers; a kill costs one cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import CdtoolError, InputError, InterruptedRun, NotFoundError, UsageError
from cdtool.evaluation import metrics
from cdtool.evaluation.metrics import MetricRequest
from cdtool.files import replacing, sweep
from cdtool.images import photos
from cdtool.research import cells, customconcept101, recipes
from cdtool.research import suite as suitefile
from cdtool.research.cells import Encoders
from cdtool.research.recipes import Event, Recipe, RunContext
from cdtool.research.suite import Cell, Suite
from cdtool.settings import SampleSettings
from cdtool.sources import resolve
from cdtool.store import bases, claims

if TYPE_CHECKING:
    from PIL import Image


CLAIMS = "claims"  # the folder beside cells/
POLL = 0.5  # s between two looks for a cell that is free


@dataclass(frozen=True)
class Plan:
    """What a run does, checked before anything is loaded."""

    suite: Suite
    cells: tuple[Cell, ...]
    base: str
    drawing: SampleSettings
    wanted: MetricRequest
    out: Path
    device: str = "auto"

    @property
    def pictures(self) -> int:
        """How many pictures all cells need, without those beside them (KID, FID)."""
        return sum(len(cells.prompts_of(self.suite, cell)) * self.drawn(cell).count for cell in self.cells)

    def drawn(self, cell: Cell) -> SampleSettings:
        """How a cell is drawn."""
        return replace(self.drawing, count=cell.count or self.drawing.count)


def find(name: str, data: Path | None = None) -> Suite:
    """A shipped suite, CustomConcept101 in the folder `data`, or a suite file.

    Raises NotFoundError where there is none, InputError where it cannot be used.
    """
    if name in customconcept101.READERS:
        return customconcept101.READERS[name](data or Path())
    suite = suitefile.read(suitefile.SHIPPED.get(name, Path(name)), data or (Path() if name == "paper" else None))
    if not suite.cells:
        raise InputError(f'The suite "{name}" has no cell.', "It needs a [[concept]] and a [[method]].")
    return suite


def plan(
    suite: Suite,
    *,
    base: str | None = None,
    out: Path | None = None,
    only: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    wanted: MetricRequest | None = None,
    device: str = "auto",
) -> Plan:
    """Check what a run needs: its cells (those whose id matches a pattern of `only`), photos, prompts and settings.

    Raises UsageError where no cell matches, NotFoundError for what is missing, InputError and SettingsError.
    """
    found = tuple(cell for cell in suite.cells if not only or any(fnmatchcase(cell.id, one) for one in only))
    if not found:
        raise UsageError(
            f"No cell is called {' or '.join(only)}.", f"Like --only {suite.cells[0].id}, or --only '*.dog'."
        )
    if gone := suitefile.missing(suite, found):
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        named = ", ".join(map(str, gone[:3]))
        raise NotFoundError(f"{suite.name} needs what is not there: {named}{more}.", "Say where it lies: --data DIR.")
    name = base or suite.base
    given = {**suite.drawing, **{key: value for key, value in (flags or {}).items() if value is not None}}
    drawing, _ = resolve(SampleSettings, given, bases.locate(name))
    chosen = wanted or MetricRequest(suite.metrics)
    if flags and flags.get("count"):
        found = tuple(replace(cell, count=0) for cell in found)
    for cell in found:
        cells.prompts_of(suite, cell)
    return Plan(suite, found, name, drawing, chosen, out or Path("suites") / suite.name, device)


# ---------------------------------------------------------------- the run


def run(plan: Plan, *, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Train, sample and score what is not finished, as one of any number of workers on a shared disk.

    A worker claims a cell, so that no other one runs it, and publishes it whole; a cell whose worker died is run again
    by another one. A cell that fails is noted with its reason, and the others go on. The first event tells how much
    there is to do. Raises InterruptedRun when asked to stop, and NotFoundError for a missing encoder.
    """
    from cdtool.models import encoders, pipelines

    folder = bases.locate(plan.base)
    metrics.find_encoders(plan.wanted, folder)  # before an hour of training, not after
    for part in ("cells", CLAIMS):
        (plan.out / part).mkdir(parents=True, exist_ok=True)
    sweep(plan.out / "cells")
    context = RunContext(pipelines.for_sampling(plan.base, plan.drawing, plan.device), stop)
    keys = {cell.id: cells.key_of(plan, context, cell) for cell in plan.cells}
    todo = [cell for cell in plan.cells if cells.read(plan.out, cell, keys[cell.id]) is None]
    yield Event("plan", total=_total(plan, context, todo), kept=len(plan.cells) - len(todo))
    yield from (Event("kept", cell.id) for cell in plan.cells if cell not in todo)
    if not todo:
        return
    device = str(context.base.device)
    scorers = Encoders(encoders.load(metrics.encoder_for(plan.wanted, folder), device),
                        metrics.load_others(plan.wanted, folder, device))  # fmt: skip
    yield from _work(plan, context, scorers, {cell.id: cell for cell in todo}, keys)


def _work(
    plan: Plan, context: RunContext, scorers: Encoders, todo: dict[str, Cell], keys: Mapping[str, str]
) -> Iterator[Event]:
    """Run cells until all are finished or failed, by this worker or another one."""
    folder, began = plan.out / CLAIMS, time.time()

    def untrained(cell: str) -> list[str]:
        return [recipe.name for recipe in recipes.untrained(context, recipes.recipes(plan.suite, todo[cell]))]

    while todo:
        for cell in [cell for name, cell in todo.items() if cells.read(plan.out, cell, keys[name]) is not None]:
            todo.pop(cell.id)
            yield Event("kept", cell.id)
        for name, failure in claims.failures(folder).items():
            if name in todo and failure.when >= began:
                todo.pop(name)
                yield Event("failed", name, told=failure.message)
        claim = claims.take(folder, list(todo), untrained) if todo else None
        if claim is not None:
            cell = todo[claim.cell]
            with claims.kept(folder, claim):
                if cells.read(plan.out, cell, keys[cell.id]) is None:  # else it was finished between the two looks
                    yield from _finish(plan, context, scorers, cell, keys[cell.id], claim)
                    todo.pop(cell.id)
        elif todo:
            context.check_stop()
            time.sleep(POLL)


def _finish(
    plan: Plan, context: RunContext, scorers: Encoders, cell: Cell, key: str, claim: claims.Claim
) -> Iterator[Event]:
    """Make the concepts of a cell and measure it, or note why that is not possible."""
    claims.forget(plan.out / CLAIMS, cell.id)
    try:
        for recipe in recipes.recipes(plan.suite, cell):
            yield from recipes.ensure(context, recipe, cell)
        yield from cells.measure(plan, context, scorers, cell, key)
    except InterruptedRun:
        raise
    except CdtoolError as error:
        claims.fail(plan.out / CLAIMS, claim, error)
        yield Event("failed", cell.id, told=str(error))


def unfinished(plan: Plan) -> dict[str, str]:
    """The key of every cell that is not finished, by id. Raises NotFoundError and BaseError for the base."""
    from cdtool.models import pipelines

    context = RunContext(pipelines.load(plan.base, parts=()))
    keys = {cell.id: cells.key_of(plan, context, cell) for cell in plan.cells}
    return {cell.id: keys[cell.id] for cell in plan.cells if cells.read(plan.out, cell, keys[cell.id]) is None}


def news(plan: Plan, name: str, key: str, began: float) -> Event | None:
    """What became of a cell since `began`: "cell" where it is finished, "failed", or None."""
    cell = next(cell for cell in plan.cells if cell.id == name)
    if found := cells.read(plan.out, cell, key):
        return Event("cell", name, told=cells.in_words(found["scores"]))
    failure = claims.failures(plan.out / CLAIMS).get(name)
    return Event("failed", name, told=failure.message) if failure and failure.when >= began else None


@dataclass(frozen=True)
class CellStatus:
    """Where a cell stands: "finished", "running", "failed" or "waiting", by which worker, since when, and why."""

    cell: str
    state: str
    worker: str = ""
    when: float = 0.0  # s since 1970
    why: str = ""


def status(plan: Plan) -> list[CellStatus]:
    """The state of every cell, from the files of the run alone; whether finished ones are up to date is not checked."""
    folder = plan.out / CLAIMS
    if not folder.is_dir():
        return [CellStatus(cell.id, "waiting") for cell in plan.cells]
    failed, running = claims.failures(folder), {claim.cell: claim for claim in claims.claims(folder)}
    found = []
    for cell in plan.cells:
        path, claim, failure = cells.path_of(plan.out, cell), running.get(cell.id), failed.get(cell.id)
        if claim is not None and claims.alive(folder, claim):
            why = f"worker {claim.attempt}; the one before died" if claim.attempt > 1 else ""
            found.append(CellStatus(cell.id, "running", claim.worker, claim.since, why))
        elif path.is_file():
            found.append(CellStatus(cell.id, "finished", when=path.stat().st_mtime))
        elif failure is not None:
            found.append(CellStatus(cell.id, "failed", failure.worker, failure.when, failure.message))
        else:
            why = f"its worker {claim.worker} died" if claim is not None else ""
            found.append(CellStatus(cell.id, "waiting", why=why))
    return found


def results(plan: Plan) -> dict[str, dict[str, Any]]:
    """What the finished cells of a run hold, by id, as far as they are there."""
    found = {cell.id: cells.read(plan.out, cell) for cell in plan.cells}
    return {name: cell for name, cell in found.items() if cell is not None}


def sheets(plan: Plan) -> Iterator[tuple[str, Image.Image]]:
    """A name and a contact sheet per concept or pair: the photos, then the first image of each prompt by each method.

    Raises nothing for what is not there yet.
    """
    from PIL import Image

    from cdtool.images.sheets import Row, contact_sheet, stacked

    for concepts in dict.fromkeys(cell.concepts for cell in plan.cells):
        rows = [cells.path_of(plan.out, cell).with_suffix(".png") for cell in plan.cells if cell.concepts == concepts]
        shown = [
            photos.read(photo)
            for concept in concepts
            for photo in photos.find([concept.photos])[0][: 8 // len(concepts)]
        ]
        names = "+".join(concept.name for concept in concepts)
        drawn = [Image.open(path) for path in rows if path.is_file()]
        if drawn:
            yield names, stacked([contact_sheet([Row(f"{names}: photos", shown)], side=96), *drawn])


def save_sheets(plan: Plan) -> None:
    """Write the contact sheet of every concept and pair to OUT/sheets."""
    folder = plan.out / "sheets"
    folder.mkdir(exist_ok=True)
    for name, sheet in sheets(plan):
        with replacing(folder / f"{name}.png", durable=False) as temporary:  # other workers may write the same
            sheet.save(temporary)


def _total(plan: Plan, context: RunContext, todo: Sequence[Cell]) -> int:
    """Training steps, pictures and cells to come."""
    steps: dict[str, int] = {}

    def add(recipe: Recipe) -> None:
        for parent in recipe.parents:
            add(parent)
        if recipe.concepts and not recipes.is_fresh(context, recipe):
            steps[recipe.name] = recipes.training(context, recipe).settings.steps

    for cell in todo:
        for recipe in recipes.recipes(plan.suite, cell):
            add(recipe)
    return sum(steps.values()) + replace(plan, cells=tuple(todo)).pictures + len(todo)
