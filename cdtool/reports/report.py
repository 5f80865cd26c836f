"""The report of an evaluation as plain data, gathered from its images and scores, and the verdict on it in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from typing import TYPE_CHECKING

from cdtool import __version__
from cdtool.evaluation import samples
from cdtool.images import photos
from cdtool.reports.html import signed

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.evaluation.alignment import Interval, Scores
    from cdtool.evaluation.evaluate import Evaluation
    from cdtool.evaluation.forgetting import ForgettingResult
    from cdtool.evaluation.selection import CheckpointScore

    Picture = tuple[Image.Image, str, int | None]  # with its prompt and its seed

_SHOWN = ("steps", "guidance", "scheduler", "eta", "negative", "size", "precision")  # of the sampling settings
_TRAINED = ("steps", "lr", "batch", "prior", "seed")  # of the settings a concept was trained with
_LIBRARIES = ("torch", "diffusers", "transformers")
# How much of the base's text alignment a concept may lose before the verdict says so, and says so loudly.
_LOSS = (0.05, 0.15)


@dataclass(frozen=True)
class ScoredImage:
    """A picture, its seed where known, and its own score in each column."""

    image: Image.Image
    seed: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptResult:
    """A prompt as it was asked, the concept's pictures for it, and the base's for the same without modifier tokens."""

    prompt: str
    concept: tuple[ScoredImage, ...]
    base: tuple[ScoredImage, ...] = ()


@dataclass(frozen=True)
class ScoreColumn:
    """A column of scores: the concept's mean, the base's, and the paired difference with its interval."""

    name: str
    concept: float
    base: float | None = None
    difference: Interval | None = None


@dataclass(frozen=True)
class Report:
    """Everything a report shows; what is left empty is left out of the page."""

    name: str
    base: str
    encoder: str
    photos: Mapping[str, Sequence[Image.Image]]
    rows: Sequence[PromptResult]
    scores: Sequence[ScoreColumn]
    stages: Sequence[CheckpointScore] = ()
    forgetting: Sequence[ForgettingResult] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    made: str = ""  # a date


def verdict(report: Report) -> tuple[str, list[str]]:
    """A headline and a sentence per column: whether it came nearer to its photos, and whether prompts still count."""
    text = next((score for score in report.scores if score.name == "text"), None)
    likeness = [score for score in report.scores if score.name.split()[0] == "image"]
    compared = [score for score in report.scores if score.difference and score.base is not None]
    details = [_compared(score, report.base) for score in compared if score is text or score in likeness]
    if not details or not likeness:
        return "Nothing to compare with.", ["The base's own pictures are not beside these, so the scores stand alone."]
    learned = [score for score in likeness if score.difference and score.difference.low > 0]
    if not learned:
        return "Not learned: no nearer to its photos than the base.", details
    if len(learned) < len(likeness):
        near, far = (
            " and ".join(one.name.removeprefix("image ") for one in likeness if (one in learned) == come)
            for come in (True, False)
        )
        return f"Nearer to the photos of {near} than the base, but not to those of {far}.", details
    return f"Nearer to its photos than the base, {_obedience(text)}.", details


def _obedience(text: ScoreColumn | None) -> str:
    if text is None or text.difference is None or not text.base or text.difference.high >= 0:
        return "and prompts count as much as before"
    loss = -text.difference.mean / abs(text.base)
    little, much = _LOSS
    return (
        "and prompts count almost as much as before" if loss < little
        else "but prompts count somewhat less than before" if loss < much
        else "but prompts count much less than before"
    )  # fmt: skip


def _compared(score: ScoreColumn, base: str) -> str:
    found = score.difference
    assert found is not None
    what = "It follows its prompts" if score.name == "text" else "It looks like the photos"
    if score.name.startswith("image "):
        what = f"It looks like the photos of {score.name.removeprefix('image ')}"
    how = "more than" if found.low > 0 else "less than" if found.high < 0 else "neither clearly more nor less than"
    return f"{what} {how} {base} does with the plain words ({_told(found)})."


def _told(found: Interval) -> str:
    return f"{signed(found.mean)}, 95% from {signed(found.low)} to {signed(found.high)}"


# ---------------------------------------------------------------- from an evaluation


def gather(
    plan: Evaluation,
    pictures: Sequence[Picture],
    scores: Scores,
    *,
    stages: Sequence[CheckpointScore] = (),
    forgetting: Sequence[ForgettingResult] = (),
) -> Report:
    """A report's data: `pictures` are what `evaluate.run` yielded, the concept's and then as many of the base's."""
    own = _scored_images(pictures[: scores.samples], scores.each)
    others = _scored_images(pictures[scores.samples :], scores.base_each) if scores.base_each else []
    places: dict[str, list[int]] = {}
    for index, (_, prompt, _) in enumerate(pictures[: scores.samples]):
        places.setdefault(prompt, []).append(index)
    return Report(
        name=plan.subject,
        base=plan.base,
        encoder=scores.encoder,
        photos={name: [photos.read(photo) for photo in found] for name, found in plan.photos.items()},
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
        settings=_settings(plan, pictures),
        versions={"cdtool": __version__, **{name: metadata.version(name) for name in _LIBRARIES}},
        made=date.today().isoformat(),
    )


def of_folder(plan: Evaluation) -> list[Picture]:
    """The images of an evaluation that scores a folder's. Raises what `samples.read` raises."""
    scored = samples.read(plan.folder, plan.subject, plan.tokens) if plan.folder else []
    return [(sample.image, sample.prompt, None) for sample in scored]


def _scored_images(pictures: Sequence[Picture], each: Mapping[str, Sequence[float]]) -> list[ScoredImage]:
    return [
        ScoredImage(image, seed, {name: values[index] for name, values in each.items()})
        for index, (image, _, seed) in enumerate(pictures)
    ]


def _settings(plan: Evaluation, pictures: Sequence[Picture]) -> dict[str, str]:
    seeds = [seed for _, _, seed in pictures if seed is not None]
    facts = {"base": plan.base, "tokens": ", ".join(token.words() for token in plan.tokens)}
    if seeds:
        facts["seeds"] = f"{min(seeds)} to {max(seeds)}, the same for every prompt"
        facts |= {name: f"{getattr(plan.settings, name)}" for name in _SHOWN}
    for entry, weight in zip(plan.composition.concepts, plan.composition.weights, strict=True):
        if entry.manifest:
            chosen = entry.manifest.settings
            parts = [entry.manifest.method, *(f"{name} {chosen[name]}" for name in _TRAINED if name in chosen)]
            parts += [f"weight {weight:g}"] if weight != 1 else []
            facts[f"concept {entry.name}"] = ", ".join(parts)
    return {name: value for name, value in facts.items() if value}
