"""From a finished evaluation to its report: pictures, scores, and how both were made, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cdtool import __version__
from cdtool.evaluation import evaluate
from cdtool.evaluation.forgetting import ForgettingResult
from cdtool.evaluation.selection import CheckpointScore
from cdtool.images import photos
from cdtool.reports import html, page
from cdtool.reports.report import PromptResult, Report, ScoreColumn, ScoredImage

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.evaluation.alignment import Scores
    from cdtool.evaluation.evaluate import Evaluation

    Picture = tuple[Image.Image, str, int | None]  # with its prompt and its seed, as sampling.Generated

_SHOWN = ("steps", "guidance", "scheduler", "eta", "negative", "size", "precision")  # of the sampling settings
_TRAINED = ("steps", "lr", "batch", "prior", "seed")  # of the settings a concept was trained with
_LIBRARIES = ("torch", "diffusers", "transformers")


def write(
    path: Path,
    asked: Evaluation,
    pictures: Sequence[Picture],
    scores: Scores,
    *,
    stages: Sequence[CheckpointScore] = (),
    forgetting: Sequence[ForgettingResult] = (),
) -> None:
    """Write the report of an evaluation to one HTML file, over an older one; see `gather`."""
    html.save(page.page(gather(asked, pictures, scores, stages=stages, forgetting=forgetting)), path)


def gather(
    asked: Evaluation,
    pictures: Sequence[Picture],
    scores: Scores,
    *,
    stages: Sequence[CheckpointScore] = (),
    forgetting: Sequence[ForgettingResult] = (),
) -> Report:
    """A report's data: `pictures` are what `measuring.run` drew, the concept's and then as many of the base's."""
    own = _shots(pictures[: scores.samples], scores.each)
    others = _shots(pictures[scores.samples :], scores.base_each) if scores.base_each else []
    places: dict[str, list[int]] = {}
    for place, (_, prompt, _) in enumerate(pictures[: scores.samples]):
        places.setdefault(prompt, []).append(place)
    return Report(
        name=asked.subject,
        base=asked.base,
        encoder=scores.encoder,
        photos={name: [photos.read(photo) for photo in found] for name, found in asked.photos.items()},
        rows=[
            PromptResult(prompt, tuple(own[i] for i in found), tuple(others[i] for i in found) if others else ())
            for prompt, found in places.items()
        ],
        scores=[
            ScoreColumn(name, value, scores.base.get(name), scores.difference.get(name))
            for name, value in scores.concept.items()
        ],
        stages=stages,
        forgetting=forgetting,
        settings=_settings(asked, pictures),
        versions={"cdtool": __version__, **{name: metadata.version(name) for name in _LIBRARIES}},
        made=date.today().isoformat(),
    )


def of_folder(asked: Evaluation, folder: Path) -> list[Picture]:
    """The pictures `measuring.score_folder` scores. Raises what `measuring.read_samples` raises."""
    found = evaluate.read_samples(folder, asked.subject, asked.tokens)
    return [(sample.image, sample.prompt, None) for sample in found]


def _shots(pictures: Sequence[Picture], each: Mapping[str, Sequence[float]]) -> list[ScoredImage]:
    return [
        ScoredImage(image, seed, {name: values[place] for name, values in each.items()})
        for place, (image, _, seed) in enumerate(pictures)
    ]


def _settings(asked: Evaluation, pictures: Sequence[Picture]) -> dict[str, str]:
    seeds = [seed for _, _, seed in pictures if seed is not None]
    facts = {"base": asked.base, "tokens": ", ".join(token.words() for token in asked.tokens)}
    if seeds:
        facts["seeds"] = f"{min(seeds)} to {max(seeds)}, the same for every prompt"
        facts |= {name: f"{getattr(asked.settings, name)}" for name in _SHOWN}
    for entry, weight in zip(asked.asked.concepts, asked.asked.weights, strict=True):
        if entry.manifest:
            chosen = entry.manifest.settings
            told = [entry.manifest.method, *(f"{name} {chosen[name]}" for name in _TRAINED if name in chosen)]
            told += [f"weight {weight:g}"] if weight != 1 else []
            facts[f"concept {entry.name}"] = ", ".join(told)
    return {name: value for name, value in facts.items() if value}
