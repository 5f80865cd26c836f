"""The report of an evaluation as one page: photos, samples beside the base's, scores and charts, opened from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from cdtool.reports import charts, html
from cdtool.reports.charts import Mark
from cdtool.reports.html import Markup, joined, signed, tag
from cdtool.reports.report import PromptResult, Report, ScoreColumn, ScoredImage, gather, verdict
from cdtool.tokens import counted

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.evaluation.alignment import Scores
    from cdtool.evaluation.evaluate import Evaluation
    from cdtool.evaluation.forgetting import ForgettingResult
    from cdtool.evaluation.selection import CheckpointScore
    from cdtool.reports.report import Picture

MANY = 200  # pictures, from which on each is shown smaller, so that the page stays one a browser opens
_SIDES = (512, 256)  # px
_LARGE = ("kid", "fid")  # whose differences are tens where those of cosines are tenths
_TOLD = {
    "text": "how well each picture fits its prompt, modifier tokens left out (2.5 × the cosine; higher is better)",
    "image": "how alike pictures and photos are (mean cosine of all pairs; higher is better)",
    "dino": "the same by DINO, which tells single things apart better (higher is better)",
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
    sections = [
        _section("Scores", _scores(report)),
        _section("Photos", *_photos(report)),
        _section("Samples", *_samples(report)),
        _section("Text against image alignment", *_scatter(report)),
        _section("Alignment during training", *_stages(report)),
        _section("What else changed", *_forgetting(report)),
        _section("How it was made", _facts(report)),
    ]
    return html.fill(
        "report.html",
        title=f"{report.name}: evaluation",
        name=report.name,
        headline=headline,
        details=joined(*(tag("p", detail) for detail in details)),
        about=_about(report),
        sections=joined(*sections),
    )


# ---------------------------------------------------------------- sections


def _section(title: str, *parts: str) -> Markup:
    return tag("section", tag("h2", title), *parts) if any(parts) else Markup("")


def _about(report: Report) -> str:
    pictures = sum(len(row.concept) for row in report.rows)
    found = [
        f"on {report.base}", counted(pictures, "picture"), counted(len(report.rows), "prompt"),
        counted(sum(map(len, report.photos.values())), "photo"), f"measured with {report.encoder}", report.made,
    ]  # fmt: skip
    return " · ".join(filter(None, found))


def _scores(report: Report) -> Markup:
    found = [score.difference for score in report.scores if score.difference]
    measured = dict.fromkeys(score.name.split()[0] for score in report.scores)
    heads = ["", report.name, *([report.base, "difference, 95% interval"] if found else [])]
    rows = []
    for score in report.scores:
        cells = [tag("th", score.name, scope="row"), tag("td", html.figure(score.concept), class_="first number")]
        if found:
            cells.append(tag("td", "" if score.base is None else html.figure(score.base), class_="second number"))
        if one := score.difference:
            low_high = tag("span", f"[{signed(one.low)}, {signed(one.high)}]", class_="bounds")
            bar = charts.interval(one.mean, one.low, one.high, _reach(report, score))
            cells.append(tag("td", tag("span", f"{signed(one.mean)} ", low_high, class_="number"), bar))
        rows.append(tag("tr", *cells))
    told = [tag("li", tag("b", name), ": ", _TOLD[name]) for name in measured if name in _TOLD]
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads)))
    table = tag("table", tag("caption", "Mean scores"), head, tag("tbody", *rows))
    return joined(tag("div", table, class_="wide"), tag("ul", *told, class_="note"))


def _reach(report: Report, score: ScoreColumn) -> float:
    """What the bar of a difference reaches to: cosines share one scale, and what is far larger has its own."""
    large = score.name.split()[0] in _LARGE
    alike = [one.difference for one in report.scores if (one.name.split()[0] in _LARGE) == large and one.difference]
    return 1.15 * max((max(abs(one.low), abs(one.high)) for one in alike), default=0) or 1.0


def _photos(report: Report) -> list[Markup]:
    parts = []
    for target, photos in report.photos.items():
        shown = [tag("li", _image(photo, f"Photo {place} of {target}", 384)) for place, photo in enumerate(photos, 1)]
        parts += [tag("h3", target)] if len(report.photos) > 1 else []
        parts.append(tag("ul", *shown, class_="strip"))
    return parts


def _samples(report: Report) -> list[Markup]:
    side = _SIDES[sum(len(row.concept) + len(row.base) for row in report.rows) > MANY]
    told = f"{report.base} was asked for the same without modifier tokens, with the same seeds."
    parts = [tag("p", told, class_="note")] if any(row.base for row in report.rows) else []
    for row in report.rows:
        sides = [_shots(report.name, "first", row.prompt, row.concept, side)]
        if row.base:
            sides.append(_shots(report.base, "second", row.prompt, row.base, side))
        beside = tag("div", *sides, class_="beside" if row.base else "alone")
        parts.append(tag("article", tag("h3", row.prompt, class_="prompt"), beside))
    return parts


def _shots(name: str, look: str, prompt: str, shots: Sequence[ScoredImage], side: int) -> Markup:
    means = _means(shots)
    told = ", ".join(f"{column} {value:.3f}" for column, value in means.items())
    heading = tag("p", tag("b", name, class_=look), " ", tag("span", told, class_="number"))
    pictures = [tag("li", _image(shot.image, f"{name}: {prompt}", side, _caption(shot))) for shot in shots]
    return tag("div", heading, tag("ul", *pictures, class_="strip"))


def _caption(shot: ScoredImage) -> str | None:
    parts = [f"seed {shot.seed}"] if shot.seed is not None else []
    return ", ".join(parts + [f"{name} {value:.3f}" for name, value in shot.scores.items()]) or None


def _image(image: Image.Image, alt: str, side: int, title: str | None = None) -> Markup:
    tiny = "tiny" if html.is_tiny(image) else None
    width, height = image.size
    source = html.data_uri(image, side)
    return tag("img", src=source, alt=alt, title=title, class_=tiny, width=width, height=height)


def _means(shots: Sequence[ScoredImage]) -> dict[str, float]:
    columns = shots[0].scores if shots else {}
    return {name: fmean(shot.scores[name] for shot in shots) for name in columns}


def _point(shots: Sequence[ScoredImage]) -> tuple[float, float] | None:
    """(image, text) alignment of pictures: image is the mean over the targets."""
    means = _means(shots)
    likeness = [value for name, value in means.items() if name.split()[0] == "image"]
    return (fmean(likeness), means["text"]) if likeness and "text" in means else None


def _scatter(report: Report) -> list[Markup]:
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
        return []
    told = f"Text alignment of {report.name} against its image alignment; the numbers are in the table below."
    chart = charts.scatter(marks, moves, "image alignment", "text alignment", told)
    lines = " A line leads from what the base drew to what the concept drew." if moves else ""
    words = f"One mark per prompt, and a large one for all.{lines} Higher follows the prompt better, further right "
    words += "resembles the photos more; some of one is often paid with some of the other."
    legend = [tag("span", "● ", report.name, class_="first")]
    legend += [tag("span", "◆ ", report.base, class_="second")] if moves else []
    table = tag("details", tag("summary", "The numbers"), tag("div", _numbers(report), class_="wide"))
    return [
        tag("figure", chart, tag("figcaption", tag("p", *legend, class_="legend"), tag("p", words)), class_="plot"),
        table,
    ]


def _numbers(report: Report) -> Markup:
    columns = list(_means(report.rows[0].concept))
    head = ["prompt", *(f"{report.name} {name}" for name in columns)]
    head += [f"{report.base} {name}" for name in columns if report.rows[0].base]
    rows = []
    for row in report.rows:
        values = [*_means(row.concept).values(), *_means(row.base).values()]
        cells = [tag("td", f"{value:.3f}", class_="number") for value in values]
        rows.append(tag("tr", tag("th", row.prompt, scope="row"), *cells))
    return tag("table", tag("thead", tag("tr", *(tag("th", text, scope="col") for text in head))), tag("tbody", *rows))


def _stages(report: Report) -> list[Markup]:
    if not report.stages:
        return []
    curves = []
    for first, name in ((True, "text"), (False, "image")):
        points = [(float(stage.step), float(getattr(stage, name))) for stage in report.stages]
        told = f"{name} alignment by training steps: " + ", ".join(f"{x:g}: {y:.3f}" for x, y in sorted(points))
        curves.append(tag("figure", charts.curve(points, "steps", f"{name} alignment", told, first=first)))
    words = "A good place to stop is where image alignment has risen and text alignment has not yet fallen far."
    return [tag("div", *curves, class_="beside"), tag("p", words, class_="note")]


def _forgetting(report: Report) -> list[Markup]:
    parts = []
    for one in report.forgetting:
        words = tag("p", tag("b", f"{one.score.mean:.3f}", class_="number"), f" {one.meaning}")
        bounds = tag("p", f"95% from {one.score.low:.3f} to {one.score.high:.3f}", class_="note")
        sheet = [tag("div", _image(one.sheet, f"Sheet: {one.name}", 2048), class_="wide")] if one.sheet else []
        parts.append(tag("article", tag("h3", one.name), words, bounds, *sheet))
    return parts


def _facts(report: Report) -> Markup:
    tables = []
    for title, facts in (("Settings", report.settings), ("Versions", report.versions)):
        items = [joined(tag("dt", name), tag("dd", value)) for name, value in facts.items()]
        tables += [tag("div", tag("h3", title), tag("dl", *items))] if items else []
    return tag("div", *tables, class_="beside") if tables else Markup("")
