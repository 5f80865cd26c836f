"""A cell of a suite: its prompts, what its result depends on, and how it is sampled, scored and published."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import InputError, NotFoundError
from cdtool.evaluation import alignment, identity, metrics, samples, side_effects
from cdtool.files import read_prompts, replacing
from cdtool.images import photos
from cdtool.research import recipes
from cdtool.research import suite as suitefile
from cdtool.research.recipes import Event, RunContext
from cdtool.research.suite import Cell, Suite
from cdtool.store import bases
from cdtool.store import subject as composition
from cdtool.tokens import parse_specs

if TYPE_CHECKING:
    from cdtool.evaluation.alignment import Sample, Scores
    from cdtool.images.photos import Photo
    from cdtool.models.encoders import Encoder
    from cdtool.research.run import Plan
    from cdtool.store.subject import Composition


def prompts_of(suite: Suite, cell: Cell) -> list[str]:
    """A cell's prompts, with {0}, {1} for its concepts. Raises InputError where the file holds none."""
    tokens = parse_specs([concept.token for concept in cell.concepts])
    lines = read_prompts(cell.prompts)
    return [suitefile.template(line, tokens) for line in lines[: suite.most or None]]


def read(out: Path, cell: Cell, key: str = "") -> dict[str, Any] | None:
    """A finished cell, or None where there is none, or (with `key`) where it was made of something else."""
    try:
        found = json.loads(path_of(out, cell).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and key in ("", found.get("key")) else None


def path_of(out: Path, cell: Cell) -> Path:
    """The file of a cell's result."""
    return out / "cells" / f"{cell.id}.json"


def key_of(plan: Plan, context: RunContext, cell: Cell) -> str:
    """What a cell's result depends on."""
    made = [recipes.described(context, recipe) for recipe in recipes.recipes(plan.suite, cell)]
    targets = [[concept.token, *(photo.sha256 for photo in context.photos(concept))] for concept in cell.concepts]
    drawn = asdict(plan.drawn(cell)) | {"lora": context.base.lora_sha256}
    for name in ("compile", *(() if drawn["lora"] else ("lora",))):
        del drawn[name]  # as before there was such a setting
    drawing = [prompts_of(plan.suite, cell), drawn]
    rivals = [photo.sha256 for group in _rivals(plan, context, cell).values() for photo in group]
    about = [cell.method.mode, made, targets, *drawing, asdict(plan.wanted), rivals, context.base.fingerprint]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Encoders:
    """The encoder of texts and images, and those of metrics with one of their own."""

    pair: Encoder
    others: Mapping[str, Encoder]


def measure(plan: Plan, context: RunContext, scorers: Encoders, cell: Cell, key: str) -> Iterator[Event]:
    """Sample a cell, score it and publish the result."""
    names = [recipe.name for recipe in recipes.recipes(plan.suite, cell)]
    subject = composition.find("+".join(names) or plan.base, plan.base)
    tokens = subject.tokens or parse_specs([concept.token for concept in cell.concepts])
    prompts = [samples.fill(prompt, tokens) for prompt in prompts_of(plan.suite, cell)]
    scored: list[Sample] = []
    for _, sample in samples.generate(
        context.base, subject.concepts, prompts, tokens, plan.drawn(cell), weights=subject.weights
    ):
        scored.append(sample)
        yield Event("picture", cell.id)
        context.check_stop()
    scores = _scores(plan, context, scorers, cell, scored)
    notes: dict[str, str] = {}
    for name in plan.wanted.metrics if names and len(cell.concepts) == 1 else ():
        if name in metrics.SETS:
            try:
                scores = _with_set(plan, context, scorers, name, subject, scores)
            except (NotFoundError, InputError) as error:  # such as a class of which there are no real pictures
                notes[name] = str(error)
    result = _result(cell, key, scores, scored, notes) | {"cost": recipes.cost(subject.concepts)}
    _publish(plan, cell, scored, result)
    yield Event("cell", cell.id, told=in_words(scores.concept))


def in_words(scores: Mapping[str, float]) -> str:
    """Scores as one line."""
    return ", ".join(f"{name} {value:.3f}" for name, value in scores.items())


def _scores(plan: Plan, context: RunContext, scorers: Encoders, cell: Cell, scored: Sequence[Sample]) -> Scores:
    """The scores that every picture has."""
    several = len(cell.concepts) > 1
    pictures = {
        str(number) if several else "photos": [photos.read(photo) for photo in context.photos(concept)]
        for number, concept in enumerate(cell.concepts, 1)
    }
    names = [name for name in plan.wanted.metrics if name in alignment.METRICS]
    rivals = {name: [photos.read(photo) for photo in group] for name, group in _rivals(plan, context, cell).items()}
    return alignment.score(scored, pictures, scorers.pair, metrics=names, others=scorers.others, rivals=rivals)


def _rivals(plan: Plan, context: RunContext, cell: Cell) -> dict[str, list[Photo]]:
    """The photos of a cell's look-alikes, the suite's other concepts among them; none where no score needs them."""
    if not set(plan.wanted.metrics) & set(alignment.AGAINST_LOOKALIKES):
        return {}
    known = {concept.name: [concept.photos] for concept in plan.suite.concepts if concept not in cell.concepts}
    own = [photo for concept in cell.concepts for photo in context.photos(concept)]
    return identity.lookalikes(own, plan.wanted.lookalikes, bases.locate(plan.base), known)


def _with_set(
    plan: Plan, context: RunContext, scorers: Encoders, name: str, subject: Composition, scores: Scores
) -> Scores:
    """The scores with KID or FID, whose images are sampled beside the others, with the concept and the base."""
    from cdtool.evaluation import forgetting

    folder = bases.locate(plan.base)
    only = replace(plan.wanted, metrics=(name,), forgetting=False)
    beside = side_effects.plan(only, subject, ["photos"], folder, scores.samples)
    drawn = []
    for probe in side_effects.generate(context.base, subject, beside, (), plan.drawing, context.bare):
        drawn.append(probe)
        context.check_stop()
    encoder = metrics.set_encoder(folder, scorers.pair, str(context.base.device))
    return forgetting.with_sets(scores, beside, drawn, only, encoder)


def _result(cell: Cell, key: str, scores: Scores, scored: Sequence[Sample], notes: dict[str, str]) -> dict[str, Any]:
    return {
        "key": key,
        "cell": cell.id,
        "method": cell.method.name,
        "concepts": [concept.name for concept in cell.concepts],
        "encoder": scores.encoder,
        "prompts": [sample.prompt for sample in scored],
        "scores": scores.concept,
        "base": scores.base,
        "each": scores.each,
        "notes": notes,
    }


def _publish(plan: Plan, cell: Cell, scored: Sequence[Sample], result: Mapping[str, Any]) -> None:
    """Write a cell's first picture of each prompt and, last, its result."""
    from cdtool.images.sheets import Row, contact_sheet

    path = path_of(plan.out, cell)
    shown = [sample.image for sample in scored[:: plan.drawn(cell).count]]
    with replacing(path.with_name(f"{cell.id}.png")) as temporary:
        contact_sheet([Row(cell.id, shown)], side=96).save(temporary)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result), encoding="utf-8")
