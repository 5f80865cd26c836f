"""Running a suite: what is missing is trained, every cell is drawn and scored once, and a kill costs one cell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import InputError, NotFoundError, UsageError
from cdtool.evaluation import evaluate, metrics, side_effects
from cdtool.evaluation.metrics import MetricRequest
from cdtool.files import read_prompts, sweep, workplace
from cdtool.images import photos
from cdtool.research import customconcept101, recipes
from cdtool.research import suite as suitefile
from cdtool.research.recipes import Event, Recipe, RunContext
from cdtool.research.suite import Cell, Suite
from cdtool.settings import SampleSettings, resolve
from cdtool.store import bases
from cdtool.store import subject as composition
from cdtool.tokens import bind, parse_specs

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.evaluation.alignment import Sample, Scores
    from cdtool.models.encoders import Encoder
    from cdtool.store.subject import Composition


@dataclass(frozen=True)
class Plan:
    """A run as it is asked for, checked before anything is loaded."""

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
        return sum(len(prompts_of(self.suite, cell)) * self.drawn(cell).count for cell in self.cells)

    def drawn(self, cell: Cell) -> SampleSettings:
        """How a cell is drawn."""
        return replace(self.drawing, count=cell.count or self.drawing.count)


def find(name: str, data: Path | None = None) -> Suite:
    """A shipped suite, CustomConcept101 in the folder `data`, or a suite file.

    Raises NotFoundError where there is none, InputError where it cannot be used.
    """
    if name == customconcept101.NAME:
        return customconcept101.read(data or Path())
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
        prompts_of(suite, cell)
    return Plan(suite, found, name, drawing, chosen, out or Path("suites") / suite.name, device)


def prompts_of(suite: Suite, cell: Cell) -> list[str]:
    """A cell's prompts, with {0}, {1} for its concepts. Raises InputError where the file holds none."""
    tokens = parse_specs([concept.token for concept in cell.concepts])
    lines = read_prompts(cell.prompts)
    return [suitefile.template(line, tokens) for line in lines[: suite.most or None]]


# ---------------------------------------------------------------- the run


@dataclass(frozen=True)
class _Encoders:
    """What measures: the encoder of texts and pictures, and those of metrics with one of their own."""

    pair: Encoder
    others: Mapping[str, Encoder]


def run(asked: Plan, *, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Train, draw and score what is not there yet; a finished cell is published whole and not made again.

    The first event tells how much there is to do. Raises InterruptedRun when asked to stop, and what training,
    sampling and scoring raise.
    """
    from cdtool.models import encoders, pipelines

    folder = bases.locate(asked.base)
    metrics.find_encoders(asked.wanted, folder)  # before an hour of training, not after
    (asked.out / "cells").mkdir(parents=True, exist_ok=True)
    sweep(asked.out / "cells")
    context = RunContext(pipelines.load(asked.base, precision=asked.drawing.precision, device=asked.device), stop)
    keys = {cell.id: _key(asked, context, cell) for cell in asked.cells}
    todo = [cell for cell in asked.cells if read_cell(asked.out, cell, keys[cell.id]) is None]
    yield Event("plan", total=_total(asked, context, todo), kept=len(asked.cells) - len(todo))
    yield from (Event("kept", cell.id) for cell in asked.cells if cell not in todo)
    if not todo:
        return
    device = str(context.base.device)
    scorers = _Encoders(encoders.load(metrics.encoder_for(asked.wanted, folder), device),
                 metrics.load_others(asked.wanted, folder, device))  # fmt: skip
    for cell in todo:
        for recipe in recipes.recipes(asked.suite, cell):
            yield from recipes.ensure(context, recipe, cell)
        yield from _measure(asked, context, scorers, cell, keys[cell.id])


def results(asked: Plan) -> dict[str, dict[str, Any]]:
    """What the finished cells of a run hold, by id, as far as they are there."""
    found = {cell.id: read_cell(asked.out, cell) for cell in asked.cells}
    return {name: cell for name, cell in found.items() if cell is not None}


def sheets(asked: Plan) -> Iterator[tuple[str, Image.Image]]:
    """A name and a contact sheet per concept or pair: the photos, then the first image of each prompt by each method.

    Raises nothing for what is not there yet.
    """
    from PIL import Image

    from cdtool.images.sheets import Row, contact_sheet, stacked

    for concepts in dict.fromkeys(cell.concepts for cell in asked.cells):
        rows = [_path(asked.out, cell).with_suffix(".png") for cell in asked.cells if cell.concepts == concepts]
        shown = [
            photos.read(photo)
            for concept in concepts
            for photo in photos.find([concept.photos])[0][: 8 // len(concepts)]
        ]
        names = "+".join(concept.name for concept in concepts)
        drawn = [Image.open(path) for path in rows if path.is_file()]
        if drawn:
            yield names, stacked([contact_sheet([Row(f"{names}: photos", shown)], side=96), *drawn])


def read_cell(out: Path, cell: Cell, key: str = "") -> dict[str, Any] | None:
    """A finished cell, or None where there is none, or (with `key`) where it was made of something else."""
    try:
        found = json.loads(_path(out, cell).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and key in ("", found.get("key")) else None


def _path(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.id}.json"


def _key(asked: Plan, context: RunContext, cell: Cell) -> str:
    """What a cell's result depends on."""
    made = [recipes.described(context, recipe) for recipe in recipes.recipes(asked.suite, cell)]
    targets = [[concept.token, *(photo.sha256 for photo in context.photos(concept))] for concept in cell.concepts]
    drawing = [prompts_of(asked.suite, cell), asdict(asked.drawn(cell))]
    about = [cell.method.mode, made, targets, *drawing, asdict(asked.wanted), context.base.fingerprint]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _total(asked: Plan, context: RunContext, todo: Sequence[Cell]) -> int:
    """Training steps, pictures and cells to come."""
    steps: dict[str, int] = {}

    def add(recipe: Recipe) -> None:
        for parent in recipe.parents:
            add(parent)
        if recipe.concepts and not recipes.is_fresh(context, recipe):
            steps[recipe.name] = recipes.training(context, recipe).settings.steps

    for cell in todo:
        for recipe in recipes.recipes(asked.suite, cell):
            add(recipe)
    return sum(steps.values()) + replace(asked, cells=tuple(todo)).pictures + len(todo)


# ---------------------------------------------------------------- a cell


def _measure(asked: Plan, context: RunContext, scorers: _Encoders, cell: Cell, key: str) -> Iterator[Event]:
    """Draw a cell, score it and publish what came out."""
    from cdtool.evaluation.alignment import Sample
    from cdtool.sampling import sample as sampling

    names = [recipe.name for recipe in recipes.recipes(asked.suite, cell)]
    subject = composition.find("+".join(names) or asked.base, asked.base)
    tokens = subject.tokens or parse_specs([concept.token for concept in cell.concepts])
    prompts = [evaluate.fill(prompt, tokens) for prompt in prompts_of(asked.suite, cell)]
    plain = {prompt: bind(prompt, tokens).plain() for prompt in prompts}
    given = prompts if names else [plain[prompt] for prompt in prompts]
    samples: list[Sample] = []
    for drawn in sampling.generate(context.base, subject.concepts, given, asked.drawn(cell), weights=subject.weights):
        samples.append(Sample(drawn.image, plain.get(drawn.prompt, drawn.prompt)))
        yield Event("picture", cell.id)
        context.check_stop()
    scores = _scores(asked, context, scorers, cell, samples)
    notes: dict[str, str] = {}
    for name in asked.wanted.metrics if names and len(cell.concepts) == 1 else ():
        if name in metrics.SETS:
            try:
                scores = _with_set(asked, context, scorers, name, subject, scores)
            except (NotFoundError, InputError) as error:  # such as a class of which there are no real pictures
                notes[name] = str(error)
    result = _result(cell, key, scores, samples, notes) | {"cost": recipes.cost(subject.concepts)}
    _publish(asked, cell, samples, result)
    yield Event("cell", cell.id, told=", ".join(f"{name} {value:.3f}" for name, value in scores.concept.items()))


def _scores(asked: Plan, context: RunContext, scorers: _Encoders, cell: Cell, samples: Sequence[Sample]) -> Scores:
    """The scores that every picture has."""
    from cdtool.evaluation import alignment

    several = len(cell.concepts) > 1
    pictures = {
        str(place) if several else "photos": [photos.read(photo) for photo in context.photos(concept)]
        for place, concept in enumerate(cell.concepts, 1)
    }
    metrics = [name for name in asked.wanted.metrics if name in alignment.METRICS]
    return alignment.score(samples, pictures, scorers.pair, metrics=metrics, others=scorers.others)


def _with_set(
    asked: Plan, context: RunContext, scorers: _Encoders, name: str, subject: Composition, scores: Scores
) -> Scores:
    """The scores with KID or FID, whose pictures are drawn beside the samples; the base's come along."""
    from cdtool.evaluation import forgetting

    folder = bases.locate(asked.base)
    only = replace(asked.wanted, metrics=(name,), forgetting=False)
    beside = side_effects.plan(only, subject, ["photos"], folder, scores.samples)
    drawn = []
    for probe in side_effects.generate(context.base, subject, beside, (), asked.drawing, context.bare):
        drawn.append(probe)
        context.check_stop()
    encoder = metrics.set_encoder(folder, scorers.pair, str(context.base.device))
    return forgetting.with_sets(scores, beside, drawn, only, encoder)


def _result(cell: Cell, key: str, scores: Scores, samples: Sequence[Sample], notes: dict[str, str]) -> dict[str, Any]:
    return {
        "key": key,
        "cell": cell.id,
        "method": cell.method.name,
        "concepts": [concept.name for concept in cell.concepts],
        "encoder": scores.encoder,
        "prompts": [sample.prompt for sample in samples],
        "scores": scores.concept,
        "base": scores.base,
        "each": scores.each,
        "notes": notes,
    }


def _publish(asked: Plan, cell: Cell, samples: Sequence[Sample], result: Mapping[str, Any]) -> None:
    """Write a cell's first picture of each prompt and, last, its result."""
    from cdtool.images.sheets import Row, contact_sheet

    path = _path(asked.out, cell)
    shown = [sample.image for sample in samples[:: asked.drawn(cell).count]]
    with workplace(path.parent) as work:
        contact_sheet([Row(cell.id, shown)], side=96).save(work / "cell.png")
        (work / "cell.json").write_text(json.dumps(result), encoding="utf-8")
        (work / "cell.png").replace(path.with_name(f"{cell.id}.png"))
        (work / "cell.json").replace(path)
