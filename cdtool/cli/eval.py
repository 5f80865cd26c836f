"""cdtool eval: how well a concept follows prompts and resembles its photos, with its base beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool import files
from cdtool.cli import evalflags, options, output, study
from cdtool.cli import suite as suite_module
from cdtool.errors import GateError, UsageError
from cdtool.settings import SampleSettings
from cdtool.tokens import counted

if TYPE_CHECKING:
    from cdtool.evaluation.alignment import Interval, Scores
    from cdtool.evaluation.evaluate import Evaluation
    from cdtool.evaluation.forgetting import ForgettingResult
    from cdtool.evaluation.selection import CheckpointScore
    from cdtool.evaluation.side_effects import ProbeImage
    from cdtool.reports.reporting import Picture
    from cdtool.sampling.sample import Generated

Photos = Annotated[
    list[Path] | None,
    typer.Option("--photos", metavar="DIR", help="Photos to compare with, once per token. Default: those trained on."),
]
Images = Annotated[
    Path | None,
    typer.Option("--images", metavar="DIR", help="Score what cdtool sample drew into DIR, without the base."),
]
Count = Annotated[
    int | None, options.setting(SampleSettings, "count", "--count", "-n", help="Pictures per prompt.", metavar="N")
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Also write a page to look at: one HTML file.")
]
Compare = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--compare",
        metavar="A B",
        help="Have people choose between two, on a page: add --study FILE.html.",
    ),
]
StudyPage = Annotated[
    Path | None, typer.Option("--study", metavar="FILE", help="The page of --compare: blind, offline, one HTML file.")
]
AnswerFiles = Annotated[
    list[Path] | None, typer.Option("--answers", metavar="FILE...", help="Score what people answered on such a page.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The key of --answers; else the one beside them or here.")
]
Subject = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONCEPT",
        help="A concept, several (dog+moongate, dog:0.8+cat), or a base.",
        autocompletion=options.complete_subjects,
    ),
]


def eval_(
    concept: Subject = None,
    photos: Photos = None,
    prompts: options.PromptFile = None,
    images: Images = None,
    count: Count = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    precision: options.Precision = None,
    device: options.Device = "auto",
    metrics: evalflags.Metrics = None,
    forgetting: evalflags.Forgetting = False,
    sheet: evalflags.Sheet = None,
    kid: evalflags.Kid = None,
    fid: evalflags.Fid = None,
    fid_count: evalflags.FidCount = None,
    encoder: evalflags.Encoder = None,
    least: evalflags.Least = "",
    most: evalflags.Most = "",
    report: Report = None,
    compare: Compare = None,
    study_page: StudyPage = None,
    answers: AnswerFiles = None,
    key: KeyFile = None,
    suite: suite_module.Name = None,
    out_dir: suite_module.Out = None,
    data: suite_module.Data = None,
    only: suite_module.Only = None,
    base: suite_module.Base = None,
    dry_run: suite_module.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how well samples fit their prompts and photos.

    Text is CLIPScore, image the mean cosine of all pairs of sample and photo. The base draws the same prompts without
    modifier tokens; "difference" is concept minus base with its 95% interval. In a file of prompts {} stands for the
    concept's words, {0}, {1}... for those of one token of several. Concepts joined by + are measured together, with a
    column of image alignment to the photos of each.

    Dino is image by another encoder. Kid (×1000) and fid compare pictures drawn for the plain class and for unrelated
    captions with real ones: the lower, the better. What --forgetting tells is 0 where nothing changed.

    Examples:
      cdtool eval dog
      cdtool eval dog --photos ./photos -n 8
      cdtool eval dog+moongate --prompts pairs.txt
      cdtool eval dog --images ./samples --json
      cdtool eval dog --metrics text,image,kid --forgetting --report dog.html
      cdtool eval dog --min text=0.7,image=0.6
      cdtool eval --compare dog dog-2 --study study.html
      cdtool eval --answers answers-*.json --key study.key.json
      cdtool eval --suite mini-small --out bench
      cdtool eval --suite customconcept101 --data ./customconcept101 --only 'ours.*' --dry-run
    """
    out = output.sink(json, quiet)
    _check_together(
        {"--answers": answers, "--suite": suite, "--compare": compare},
        {"--report": report, "--sheet": sheet, "--images": images, "--min": least, "--max": most},
    )
    if answers is not None:
        study.score(out, [*answers, *map(Path, concept or ())], key)
        return
    flags = {"count": count, "seed": seed, "steps": steps, "guidance": guidance, "precision": precision}
    lines = files.read_prompts(prompts) if prompts else []
    how: dict[str, Any] = {"folders": photos or (), "prompts": lines, "flags": flags, "device": device}
    scores = evalflags.Asked(
        metrics=metrics, forgetting=forgetting, sheet=sheet, kid=kid, fid=fid, fid_count=fid_count, encoder=encoder,
        least=least, most=most,
    )  # fmt: skip
    if suite is not None:
        where = suite_module.Where(suite, data, out_dir, base, tuple(only or ()), device)
        suite_module.run(out, where, flags=flags, metrics=metrics, wanted=scores.wanted, dry_run=dry_run)
    elif compare is not None:
        study.make(out, compare, study_page, force=force, **how)
    else:
        _measure(out, _one(concept), scores, images, report, **how)


def _measure(
    out: output.Output, subject: str, scores: evalflags.Asked, images: Path | None, report: Path | None, **how: Any
) -> None:
    """Score a subject's pictures, those in `images` or drawn now; write and tell what came out, then hold the gates.

    `how` are the other arguments of `measuring.plan`.
    """
    from cdtool.evaluation import evaluate, gates
    from cdtool.reports import html, reporting

    if report is not None:
        html.check(report, "--report")
    options.check_picture(scores.sheet, "--sheet")
    wanted = scores.wanted()
    bounds = gates.parse(scores.least, scores.most, wanted.scores)
    plan = evaluate.plan(subject, wanted=wanted, **how)
    output.quiet_libraries()
    pictures, found, result = ([], (), evaluate.score_folder(plan, images)) if images else _drawn(plan, out)
    if report is not None:
        pictures = reporting.of_folder(plan, images) if images else pictures
        reporting.write(report, plan, pictures, result, stages=_stages(plan), forgetting=found)
    if scores.sheet is not None:
        _save_sheet(found, scores.sheet)
    _report(plan, result, found, out, {"report": report, "sheet": scores.sheet})
    if fell := gates.failed(bounds, _reached(result)):
        raise GateError(f"{plan.subject} did not pass: {'; '.join(fell)}.")


def _check_together(others: dict[str, object], own: dict[str, object]) -> None:
    """Raises UsageError for flags of a single measurement beside one that asks for something else."""
    for other, asked in others.items():
        for flag, given in own.items():
            if asked is not None and given:
                raise UsageError(f"{flag} is about measuring one concept, not for {other}.", f"Leave {flag} out.")


def _one(concepts: list[str] | None) -> str:
    if concepts and len(concepts) == 1:
        return concepts[0]
    if not concepts:
        raise UsageError("Measure what?", "Like: cdtool eval dog")
    raise UsageError(
        f"eval measures one at a time, not {len(concepts)}.", f"Together: cdtool eval {'+'.join(concepts)}"
    )


def _drawn(plan: Evaluation, out: output.Output) -> tuple[list[Picture], tuple[ForgettingResult, ...], Scores]:
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


def _stages(plan: Evaluation) -> tuple[CheckpointScore, ...]:
    """The checkpoints the concept was picked from."""
    from cdtool.evaluation import selection

    return selection.scores_of_checkpoints(plan.asked.concepts[0]) if plan.asked.is_stored else ()


def _save_sheet(found: Sequence[ForgettingResult], path: Path) -> None:
    from cdtool.images import sheets

    sheets.stacked([one.sheet for one in found if one.sheet]).save(path)


def _report(
    plan: Evaluation,
    scores: Scores,
    found: Sequence[ForgettingResult],
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
    if found and out.mode == "human":
        out.facts({one.name: _told(one.score) for one in found}, data)
    drawn = f"{counted(scores.samples, 'picture')} of {counted(scores.prompts, 'prompt')}"
    photos = [f"{counted(count, 'photo')} of {name}" for name, count in scores.photos.items()]
    out.talk(f"{', '.join([drawn, *photos])}, measured with {scores.encoder}.")
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
        return _told(scores.difference[name])
    return f"{scores.concept[name] - scores.base[name]:+.3f}"


def _told(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
