"""cdtool eval: how well a concept follows prompts and resembles its photos, with its base beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool.cli import options, output, study
from cdtool.errors import NotFoundError, UsageError
from cdtool.settings import SampleSettings

if TYPE_CHECKING:
    from cdtool.evaluation import Interval, Scores
    from cdtool.measuring import Evaluation
    from cdtool.reporting import Picture

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
Steps = Annotated[int | None, options.setting(SampleSettings, "steps", "--steps", help="Denoising steps.", metavar="N")]
Guidance = Annotated[
    float | None, options.setting(SampleSettings, "guidance", "--guidance", help="Guidance scale.", metavar="F")
]


def eval_(
    concept: Subject = None,
    photos: Photos = None,
    prompts: options.PromptFile = None,
    images: Images = None,
    count: Count = None,
    seed: options.Seed = None,
    steps: Steps = None,
    guidance: Guidance = None,
    precision: options.Precision = None,
    device: options.Device = "auto",
    report: Report = None,
    compare: Compare = None,
    study_page: StudyPage = None,
    answers: AnswerFiles = None,
    key: KeyFile = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a concept: how well its samples follow their prompts (text) and resemble its photos (image).

    Text is CLIPScore, image the mean cosine of all pairs of sample and photo. The base draws the same prompts without
    V-words; "difference" is concept minus base with its 95% interval. In a file of prompts {} stands for the
    concept's words, {0}, {1}... for those of one token of several. Concepts joined by + are measured together, with a
    column of image alignment to the photos of each.

    Examples:
      cdtool eval dog
      cdtool eval dog --photos ./photos -n 8
      cdtool eval dog+moongate --prompts pairs.txt
      cdtool eval dog --images ./samples --json
      cdtool eval dog --report dog.html
      cdtool eval --compare dog dog-2 --study study.html
      cdtool eval --answers answers-*.json --key study.key.json
    """
    from cdtool import measuring, reporting, webpage

    out = output.sink(json, quiet)
    flags = {"count": count, "seed": seed, "steps": steps, "guidance": guidance, "precision": precision}
    if answers is not None:
        study.score(out, [*answers, *map(Path, concept or ())], key)
        return
    asked = measuring.read_prompts(_read(prompts)) if prompts else []
    if compare is not None:
        study.make(
            out, compare, study_page, folders=photos or (), prompts=asked, flags=flags, device=device, force=force
        )
        return
    if report is not None:
        webpage.check(report, "--report")
    plan = measuring.plan(_one(concept), folders=photos or (), prompts=asked, flags=flags, device=device)
    output.quiet_libraries()
    pictures, scores = ([], measuring.score_folder(plan, images)) if images else _drawn(plan, out)
    if report is not None:
        pictures = reporting.of_folder(plan, images) if images else pictures
        reporting.write(report, plan, pictures, scores)
    _report(plan, scores, out, report)


def _one(concepts: list[str] | None) -> str:
    if concepts and len(concepts) == 1:
        return concepts[0]
    if not concepts:
        raise UsageError("Measure what?", "Like: cdtool eval dog")
    raise UsageError(
        f"eval measures one at a time, not {len(concepts)}.", f"Together: cdtool eval {'+'.join(concepts)}"
    )


def _read(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.", "Check the path of --prompts.") from None


def _drawn(plan: Evaluation, out: output.Output) -> tuple[list[Picture], Scores]:
    from cdtool import measuring
    from cdtool.evaluation import Scores

    pictures: list[Picture] = []
    for event in out.progress(measuring.run(plan), plan.pictures + 1, label="picture"):
        if isinstance(event, Scores):
            return pictures, event
        pictures.append(event)
    raise AssertionError("an evaluation ends with its scores")


def _report(plan: Evaluation, scores: Scores, out: output.Output, page: Path | None) -> None:
    names = list(scores.concept)
    data: dict[str, Any] = {"name": plan.subject, "base_name": plan.base, **scores.as_dict()}
    if page is not None:
        data["report"] = str(page)
    if out.mode == "quiet":
        out.results([f"{name} {scores.concept[name]:.4f}" for name in names], data)
        return
    rows = [[plan.subject, *(f"{scores.concept[name]:.3f}" for name in names)]]
    if scores.base:
        rows.append([plan.base, *(f"{scores.base[name]:.3f}" for name in names)])
        rows.append(["difference", *(_told(scores.difference[name]) for name in names)])
    out.table(["", *names], rows, data)
    found = ", ".join(f"{count} photos of {name}" for name, count in scores.photos.items())
    out.talk(f"{scores.samples} pictures of {scores.prompts} prompts, {found}, measured with {scores.encoder}.")
    if page is not None:
        out.talk(f"Report: {page}")


def _told(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
