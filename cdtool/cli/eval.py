"""cdtool eval: how well a concept's samples follow prompts and resemble its photos, its base's beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool import files
from cdtool.cli import evalflags, options, output
from cdtool.cli.parsing import BASICS, METHOD, OUTPUT
from cdtool.errors import GateError, UsageError
from cdtool.tokens import counted

if TYPE_CHECKING:
    from cdtool.evaluation.alignment import Interval, Scores
    from cdtool.evaluation.evaluate import Evaluation
    from cdtool.evaluation.forgetting import ForgettingResult
    from cdtool.evaluation.side_effects import ProbeImage
    from cdtool.reports.report import Picture
    from cdtool.sampling.sample import Generated

Subject = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONCEPT",
        help="A concept, several (dog+moongate, dog:0.8+cat), or a base.",
        autocompletion=options.complete_subjects,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", rich_help_panel=BASICS, help="Score what cdtool sample wrote, without the base."
    ),
]
Forgetting = Annotated[
    bool,
    typer.Option("--forgetting", rich_help_panel=BASICS, help="Also score how plain and unrelated images moved."),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", rich_help_panel=OUTPUT, help="Also write a page: one HTML file."),
]
Sheet = Annotated[
    Path | None,
    typer.Option("--sheet", metavar="FILE", rich_help_panel=OUTPUT, help="Also write the images of --forgetting."),
]
Least = Annotated[
    str,
    typer.Option(
        "--min", metavar="LIST", rich_help_panel=METHOD, help="Exit with 6 for a score below: text=0.7,rank=0.5."
    ),
]
Most = Annotated[
    str,
    typer.Option(
        "--max", metavar="LIST", rich_help_panel=METHOD, help="Exit with 6 for a score above: kid=30,leak=0.05."
    ),
]


def eval_(
    concept: Subject = None,
    photos: evalflags.Photos = None,
    prompts: options.PromptFile = None,
    images: Images = None,
    scoring: evalflags.Scoring = evalflags.Scoring(),
    forgetting: Forgetting = False,
    sampling: evalflags.Sampling = evalflags.Sampling(),
    device: options.Device = "auto",
    least: Least = "",
    most: Most = "",
    report: Report = None,
    sheet: Sheet = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score how samples follow prompts and resemble photos.

    Text is CLIPScore, image the mean cosine of all pairs of sample and photo. The base samples the same prompts without
    modifier tokens; "difference" is concept minus base with its 95% interval. In a file of prompts {} stands for the
    concept's words, {0}, {1}... for those of one token of several. Concepts joined by + are scored together, with a
    column of image alignment to the photos of each.

    Dino and dinov2 are image by other encoders, cutout is image of the foregrounds. Rank is the share of samples nearer
    to the own photos than to those of any look-alike; scr, the subject collapse rate, is the share of asked subjects
    that are not among the nearest photos. Kid (×1000) and fid compare images of the plain class and of unrelated
    captions with real ones: lower is better. Scores of --forgetting are 0 where nothing changed.

    Examples:
      cdtool eval dog
      cdtool eval dog --photos ./photos -n 8
      cdtool eval dog+moongate --prompts pairs.txt
      cdtool eval dog --images ./samples/dog --json
      cdtool eval dog --metrics text,image,kid --forgetting --report dog.html
      cdtool eval dog --metrics text,image,rank
      cdtool eval dog --min text=0.5,image=0.5
    """
    from cdtool.evaluation import evaluate, gates

    out = output.sink(json, quiet)
    subject = _one(concept)
    _check_files(report, sheet, forgetting)
    lines = files.read_prompts(prompts) if prompts else ()
    plan = evaluate.plan(subject, photos=photos or (), prompts=lines, images=images, forgetting=forgetting,
                         device=device, **vars(scoring), **vars(sampling))  # fmt: skip
    bounds = gates.parse(least, most, plan.request.scores)
    output.quiet_libraries()
    pictures, results, scores = _evaluated(plan, out)
    if report is not None:
        _write_report(report, plan, pictures, scores, results)
    if sheet is not None:
        _save_sheet(results, sheet)
    _print(plan, scores, results, out, {"report": report, "sheet": sheet})
    if failures := gates.failed(bounds, _reached(scores)):
        raise GateError(f"{plan.subject} did not pass: {'; '.join(failures)}.")


def _one(concepts: list[str] | None) -> str:
    if concepts and len(concepts) == 1:
        return concepts[0]
    if not concepts:
        raise UsageError("cdtool eval needs the concept to measure.", "Like: cdtool eval dog")
    raise UsageError(
        f"eval measures one at a time, not {len(concepts)}.", f"Together: cdtool eval {'+'.join(concepts)}"
    )


def _check_files(report: Path | None, sheet: Path | None, forgetting: bool) -> None:
    """Whether the files can be written; before the work."""
    from cdtool.reports import html

    if sheet is not None and not forgetting:
        raise UsageError("--sheet shows the images of --forgetting.", "Add --forgetting.")
    if report is not None:
        html.check(report, "--report")
    options.check_picture(sheet, "--sheet")


def _evaluated(plan: Evaluation, out: output.Output) -> tuple[list[Picture], tuple[ForgettingResult, ...], Scores]:
    """The images of the samples, the results of forgetting, and the scores, with a bar of the images."""
    from cdtool.evaluation import evaluate
    from cdtool.evaluation.alignment import Scores
    from cdtool.evaluation.forgetting import ForgettingResult
    from cdtool.evaluation.side_effects import ProbeImage

    results: list[ForgettingResult] = []

    def images_and_scores() -> Iterator[Generated | ProbeImage | Scores]:
        for event in evaluate.run(plan):
            if isinstance(event, ForgettingResult):
                results.append(event)
            else:
                yield event

    pictures: list[Picture] = []
    for event in out.progress(images_and_scores(), plan.pictures + 1, label="picture"):
        if isinstance(event, Scores):
            return pictures, tuple(results), event
        if not isinstance(event, ProbeImage):
            pictures.append(event)
    raise AssertionError("an evaluation ends with its scores")


def _write_report(
    path: Path, plan: Evaluation, pictures: list[Picture], scores: Scores, results: tuple[ForgettingResult, ...]
) -> None:
    from cdtool.evaluation import selection
    from cdtool.reports import page, report

    stages = selection.scores_of_checkpoints(plan.composition.concepts[0]) if plan.composition.is_stored else ()
    page.write(path, plan, pictures or report.of_folder(plan), scores, stages=stages, forgetting=results)


def _save_sheet(results: Sequence[ForgettingResult], path: Path) -> None:
    from cdtool.images import sheets

    sheets.stacked([one.sheet for one in results if one.sheet]).save(path)


def _print(
    plan: Evaluation,
    scores: Scores,
    results: Sequence[ForgettingResult],
    out: output.Output,
    files: dict[str, Path | None],
) -> None:
    names = list(scores.concept)
    data: dict[str, Any] = {"name": plan.subject, "base_name": plan.base, **scores.as_dict()}
    data |= {name: str(path) for name, path in files.items() if path is not None}
    if out.mode == "quiet":
        out.results([f"{name} {value:.4f}" for name, value in _reached(scores).items()], data)
        return
    rows = [[plan.subject, *(f"{scores.concept[name]:.3f}" for name in names)]]
    if scores.base:
        rows.append([plan.base, *(f"{scores.base[name]:.3f}" for name in names)])
        rows.append(["difference", *(_difference(scores, name) for name in names)])
    out.table(["", *names], rows, data)
    if results and out.mode == "human":
        out.facts({one.name: _interval(one.score) for one in results}, data)
    sampled = f"{counted(scores.samples, 'picture')} of {counted(scores.prompts, 'prompt')}"
    photos = [f"{counted(count, 'photo')} of {name}" for name, count in scores.photos.items()]
    out.talk(f"{', '.join([sampled, *photos])}, measured with {scores.encoder}.")
    for name, encoder in scores.encoders.items():
        out.talk(f"{name}: measured with {encoder}.")
    if plan.lookalikes:
        out.talk(f"Look-alikes: {', '.join(plan.lookalikes)}.")
    for name, about in scores.sets.items():
        sides = f"{about['drawn']} pictures of {about['prompt']} against {about['real']} real ones"
        out.talk(f"{name}: {sides}, measured with {about['encoder']}.")
    for name, path in files.items():
        if path is not None:
            out.talk(f"{name.capitalize()}: {path}")


def _reached(scores: Scores) -> dict[str, float]:
    """Every score of the concept by name, those of forgetting by their means."""
    return scores.concept | {name: one.mean for name, one in scores.forgetting.items()}


def _difference(scores: Scores, name: str) -> str:
    if name in scores.difference:
        return _interval(scores.difference[name])
    return f"{scores.concept[name] - scores.base[name]:+.3f}"


def _interval(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
