"""The report of an evaluation as one page: photos, samples beside the base's, scores and charts, opened from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cdtool.reports import charts, html
from cdtool.reports.charts import Mark
from cdtool.reports.report import PromptResult, Report, ScoreColumn, ScoredImage, gather, verdict
from cdtool.tokens import counted

if TYPE_CHECKING:
    from cdtool.evaluation.alignment import Scores
    from cdtool.evaluation.evaluate import Evaluation
    from cdtool.evaluation.forgetting import ForgettingResult
    from cdtool.evaluation.selection import CheckpointScore
    from cdtool.reports.report import Picture

MANY = 200  # pictures, from which on each is shown smaller, so that the page stays one a browser opens
_SIDES = (512, 256)  # px
_LARGE = ("kid", "fid")  # whose differences are tens where those of cosines are tenths
_MEANINGS = {
    "text": "how well each picture fits its prompt, modifier tokens left out (2.5 × the cosine; higher is better)",
    "image": "how alike pictures and photos are (mean cosine of all pairs; higher is better)",
    "dino": "the same by DINO, which tells single things apart better (higher is better)",
    "dinov2": "the same by DINOv2 (higher is better)",
    "cutout": "the same of the foregrounds alone, without what is behind them (higher is better)",
    "rank": "the share of pictures nearer to these photos than to those of any look-alike (higher is better)",
    "scr": "subject collapse rate: the share of subjects that are not among the nearest photos (lower is better)",
    "kid": "how far class pictures without modifier tokens are from real ones (KID × 1000; lower is better)",
    "fid": "how far pictures of unrelated captions are from real ones (FID; lower is better)",
}


def write(
    path: Path,
    plan: Evaluation,
    pictures: Sequence[Picture],
    scores: Scores,
    *,
    stages: Sequence[CheckpointScore] = (),
    forgetting: Sequence[ForgettingResult] = (),
) -> None:
    """Write the report of an evaluation to one HTML file, over an older one; see `report.gather`."""
    html.save(page(gather(plan, pictures, scores, stages=stages, forgetting=forgetting)), path)


def page(report: Report) -> str:
    """The whole report as one HTML page."""
    headline, details = verdict(report)
    images = sum(len(row.concept) + len(row.base) for row in report.rows)
    return html.render(
        "report.html",
        report=report,
        headline=headline,
        details=details,
        about=_about(report),
        compared=any(score.difference for score in report.scores),
        has_base=any(row.base for row in report.rows),
        scores=[_score(report, score) for score in report.scores],
        meanings=_meanings(report),
        side=_SIDES[images > MANY],
        rows=[{"prompt": row.prompt, "concept": _shots(row.concept), "base": _shots(row.base)} for row in report.rows],
        scatter=_scatter(report),
        numbers=_numbers(report),
        curves=_curves(report),
    )


def _about(report: Report) -> str:
    pictures = sum(len(row.concept) for row in report.rows)
    parts = [
        f"on {report.base}", counted(pictures, "picture"), counted(len(report.rows), "prompt"),
        counted(sum(map(len, report.photos.values())), "photo"), f"measured with {report.encoder}", report.made,
    ]  # fmt: skip
    return " · ".join(filter(None, parts))


def _meanings(report: Report) -> dict[str, str]:
    names = dict.fromkeys(score.name.split()[0] for score in report.scores)
    return {name: _MEANINGS[name] for name in names if name in _MEANINGS}


def _score(report: Report, score: ScoreColumn) -> dict[str, Any]:
    """A row of the table of scores; its bar lies on a line from 4 to 156 with zero in the middle."""
    bar, reach = {}, _reach(report, score)
    if found := score.difference:
        bar = {name: round(80 + 76 * getattr(found, name) / reach, 2) for name in ("mean", "low", "high")}
    return {"name": score.name, "concept": score.concept, "base": score.base, "difference": found, "bar": bar}


def _reach(report: Report, score: ScoreColumn) -> float:
    """What the bar of a difference reaches to: cosines share one scale, and what is far larger has its own."""
    large = score.name.split()[0] in _LARGE
    alike = [one.difference for one in report.scores if (one.name.split()[0] in _LARGE) == large and one.difference]
    return 1.15 * max((max(abs(one.low), abs(one.high)) for one in alike), default=0) or 1.0


def _shots(shots: Sequence[ScoredImage]) -> dict[str, Any] | None:
    """Images with their captions, and their mean scores."""
    if not shots:
        return None
    means = ", ".join(f"{column} {value:.3f}" for column, value in _means(shots).items())
    return {"means": means, "shots": [{"image": shot.image, "title": _caption(shot)} for shot in shots]}


def _caption(shot: ScoredImage) -> str | None:
    parts = [f"seed {shot.seed}"] if shot.seed is not None else []
    return ", ".join(parts + [f"{name} {value:.3f}" for name, value in shot.scores.items()]) or None


def _means(shots: Sequence[ScoredImage]) -> dict[str, float]:
    columns = shots[0].scores if shots else {}
    return {name: fmean(shot.scores[name] for shot in shots) for name in columns}


def _point(shots: Sequence[ScoredImage]) -> tuple[float, float] | None:
    """(image, text) alignment of images: image is the mean over the targets."""
    means = _means(shots)
    likeness = [value for name, value in means.items() if name.split()[0] == "image"]
    return (fmean(likeness), means["text"]) if likeness and "text" in means else None


def _scatter(report: Report) -> str:
    marks, moves = [], []
    own = tuple(shot for row in report.rows for shot in row.concept)
    others = tuple(shot for row in report.rows for shot in row.base)
    whole = PromptResult("all prompts", own, others)
    for row in [*report.rows, whole]:
        pair = []
        for name, shots, first in ((report.name, row.concept, True), (report.base, row.base, False)):
            if point := _point(shots):
                label = f"{name}, {row.prompt}: image {point[0]:.3f}, text {point[1]:.3f}"
                pair.append(Mark(label, *point, first, is_mean=row is whole))
        marks += pair
        moves += [(pair[1], pair[0])] if len(pair) == 2 else []
    if not marks:
        return ""
    text = f"Text alignment of {report.name} against its image alignment; the numbers are in the table below."
    return charts.scatter(marks, moves, "image alignment", "text alignment", text)


def _numbers(report: Report) -> dict[str, Any]:
    """The mean scores of every prompt, as a table."""
    columns = list(_means(report.rows[0].concept)) if report.rows else []
    head = ["prompt", *(f"{report.name} {name}" for name in columns)]
    head += [f"{report.base} {name}" for name in columns if report.rows[0].base]
    rows = []
    for row in report.rows:
        values = [*_means(row.concept).values(), *_means(row.base).values()]
        rows.append((row.prompt, [f"{value:.3f}" for value in values]))
    return {"head": head, "rows": rows}


def _curves(report: Report) -> list[str]:
    curves: list[str] = []
    for first, name in ((True, "text"), (False, "image")) if report.stages else ():
        points = [(float(stage.step), float(getattr(stage, name))) for stage in report.stages]
        text = f"{name} alignment by training steps: " + ", ".join(f"{x:g}: {y:.3f}" for x, y in sorted(points))
        curves.append(charts.curve(points, "steps", f"{name} alignment", text, first=first))
    return curves
