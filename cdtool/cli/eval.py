"""cdtool eval: how well a concept follows prompts and resembles its photos, with its base beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool.cli import options, output
from cdtool.errors import NotFoundError
from cdtool.settings import SampleSettings

if TYPE_CHECKING:
    from cdtool.evaluation import Interval, Scores
    from cdtool.measuring import Evaluation

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
Steps = Annotated[int | None, options.setting(SampleSettings, "steps", "--steps", help="Denoising steps.", metavar="N")]
Guidance = Annotated[
    float | None, options.setting(SampleSettings, "guidance", "--guidance", help="Guidance scale.", metavar="F")
]


def eval_(
    concept: options.Subject,
    photos: Photos = None,
    prompts: options.PromptFile = None,
    images: Images = None,
    count: Count = None,
    seed: options.Seed = None,
    steps: Steps = None,
    guidance: Guidance = None,
    precision: options.Precision = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a concept: how well its samples follow their prompts (text) and resemble its photos (image).

    Text is CLIPScore, image the mean cosine of all pairs of sample and photo. The base draws the same prompts without
    V-words; "difference" is concept minus base with its 95% interval. In a file of prompts {} stands for the
    concept's words.

    Examples:
      cdtool eval dog
      cdtool eval dog --photos ./photos -n 8
      cdtool eval dog --images ./samples --json
    """
    from cdtool import measuring

    out = output.sink(json, quiet)
    flags = {"count": count, "seed": seed, "steps": steps, "guidance": guidance, "precision": precision}
    asked = measuring.read_prompts(_read(prompts)) if prompts else []
    plan = measuring.plan(concept, folders=photos or (), prompts=asked, flags=flags, device=device)
    output.quiet_libraries()
    scores = measuring.score_folder(plan, images) if images else _drawn(plan, out)
    _report(plan, scores, out)


def _read(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.", "Check the path of --prompts.") from None


def _drawn(plan: Evaluation, out: output.Output) -> Scores:
    from cdtool import measuring
    from cdtool.evaluation import Scores

    drawn = out.progress(measuring.run(plan), plan.pictures + 1, label="picture")
    return next(event for event in drawn if isinstance(event, Scores))


def _report(plan: Evaluation, scores: Scores, out: output.Output) -> None:
    names = list(scores.concept)
    data: dict[str, Any] = {"name": plan.subject, "base_name": plan.base, **scores.as_dict()}
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


def _told(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
