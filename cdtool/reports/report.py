"""What the report of an evaluation holds, as plain data, and the verdict on it in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdtool.reports.html import signed

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.evaluation.alignment import Interval
    from cdtool.evaluation.forgetting import ForgettingResult
    from cdtool.evaluation.selection import CheckpointScore

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
