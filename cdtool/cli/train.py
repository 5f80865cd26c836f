"""cdtool train: photos in, a concept out."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from cdtool import tokens
from cdtool.cli import options, output
from cdtool.cli import trainflags as flag
from cdtool.cli.stopping import asked_to_stop
from cdtool.errors import NotFoundError, UsageError
from cdtool.settings import TrainSettings
from cdtool.store import registry
from cdtool.training import job, processes, run

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.models.pipelines import Base
    from cdtool.training.batches import ConceptImages
    from cdtool.training.loop import Step


def train(
    photos: flag.Photos,
    token: flag.Tokens,
    name: options.Name = None,
    base: options.Base = None,
    from_: flag.From = None,
    like: flag.Like = None,
    method: flag.Method = None,
    rank: flag.Rank = None,
    prior: flag.Prior = None,
    prior_count: flag.PriorCount = None,
    prior_weight: flag.PriorWeight = None,
    augment: flag.Augment = None,
    token_init: flag.TokenInit = None,
    freeze_token: flag.FreezeToken = None,
    preserve_uncond: flag.PreserveUncond = None,
    steps: flag.Steps = None,
    lr: flag.Rate = None,
    batch: flag.Batch = None,
    accumulate: flag.Accumulate = None,
    resolution: flag.Resolution = None,
    precision: flag.Precision = None,
    checkpointing: flag.Checkpointing = None,
    gpus: flag.Gpus = 1,
    device: options.Device = "auto",
    seed: flag.Seed = None,
    save_every: flag.SaveEvery = None,
    style: flag.Style = None,
    preview: flag.Previews = None,
    preview_dir: flag.PreviewDir = None,
    resume: flag.Resume = False,
    pick: flag.Pick = None,
    dry_run: flag.DryRun = False,
    force: options.Force = False,
    if_missing: options.IfMissing = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Teach a base a new concept from a handful of photos.

    Defaults are the paper's. A base, a method and your own files may set others; cdtool config shows what is in force.

    Examples:
    cdtool train ./photos --token "V* dog"
    cdtool train ./gate --token moongate --preview "moongate in the snow"
    cdtool train ./art --token "V* art" --style --dry-run
    cdtool train ./dog ./cat --token "V1 dog" --token "V2 cat" -o pets
    cdtool train ./cat --token "V2 cat" --from dog
    cdtool train ./cat --token "V* cat" --like dog --method lora
    cdtool train ./photos --token "V* dog" --pick 5 -o dog-best
    """
    given = dict(locals())
    flags = {field: given[field] for field in TrainSettings.__dataclass_fields__ if field in given}
    out = output.sink(json, quiet)
    start, model = (registry.find(other) if other else None for other in (from_, like))
    work = job.job(
        photos, token, name=name, base=job.base_name(base, start, model), flags=flags, start=start, like=model
    )
    if if_missing and work.name in registry.names():
        _skip(out, work.name)
        return
    folder = preview_dir or Path("samples") / f"{work.name}-preview"
    how = _How(device, gpus, resume=resume, force=force, pick=pick, previews=tuple(preview or ()), folder=folder)
    _check(work, how, replaces=force or dry_run)
    if gpus > 1 and not processes.launched() and not dry_run:
        _launch(gpus)
    _join(out, work, how, dry_run=dry_run)


@dataclass(frozen=True)
class _How:
    """How a job is trained: where, over what is there already or from its checkpoint, and what is looked at of it."""

    device: str
    gpus: int
    resume: bool
    force: bool
    pick: int | None
    previews: tuple[str, ...]
    folder: Path  # of the previews


def _skip(out: Output, name: str) -> None:
    if processes.leads():
        out.talk(f'There is a concept "{name}" already; nothing to do.')
        out.result(name, _data(name))


def _check(work: job.Job, how: _How, *, replaces: bool) -> None:
    """What would fail only after the loading or at the end, told before."""
    if not replaces:
        registry.check_free(work.name)
    for text in how.previews:
        tokens.bind(text, work.tokens)
    if how.resume and not run.checkpoint_path(work.name).is_file():
        raise NotFoundError(f'There is no checkpoint of "{work.name}".', "Start it without --resume.")


def _launch(gpus: int) -> NoReturn:
    from cdtool.cli.launch import launch

    raise typer.Exit(launch(gpus, sys.argv[1:]))


def _join(out: Output, work: job.Job, how: _How, *, dry_run: bool) -> None:
    """Train, or show the plan, with the processes that were started together with this one; the first one speaks."""
    output.quiet_libraries()
    with processes.distributed(how.device) as group:
        leads = group.rank == 0
        voice = out if leads else output.Output("quiet")
        _introduce(voice, work)
        if dry_run:
            if leads:
                _show_plan(out, work, how, group)
            return
        _train(voice, work, how, group)
        if leads:
            out.talk(f'Saved. Try: cdtool sample {work.name} "{_example(work)}"')
            out.result(work.name, _data(work.name))


def _introduce(out: Output, work: job.Job) -> None:
    if work.start is not None:
        held = ", ".join(f'"{token.words(place)}"' for place, token in enumerate(work.tokens[: work.earlier], 1))
        out.talk(f"Going on from {work.start.name}, which holds {held}.")
    if work.base == "mini":
        out.talk("Training on mini, the small embedded base; choose another with: cdtool base use NAME")


def _train(out: Output, work: job.Job, how: _How, group: processes.Ranks) -> None:
    from cdtool.models import pipelines

    if group.world > work.settings.batch:
        raise UsageError(f"A batch of {work.settings.batch} cannot be shared by {group.world} processes.")
    for item in work.skipped:
        out.talk(f"Skipped {item.path.name}: {item.reason}.")
    loaded = pipelines.load(work.base, precision=work.settings.precision, device=how.device)
    work = run.with_initializers(work, loaded)
    _draw_priors(out, work, loaded, group)
    learned, told = run.concept_images(work, loaded)
    for summary, warning in told:
        out.talk(f"Prior: {summary}.")
        if warning and group.rank == 0:
            out.warn(warning)
    _fit(out, work, loaded, learned, how, group)


def _fit(
    out: Output, work: job.Job, loaded: Base, learned: tuple[ConceptImages, ...], how: _How, group: processes.Ranks
) -> None:
    from cdtool.evaluation import selection

    train_it = partial(selection.train, count=how.pick) if how.pick else run.train
    with asked_to_stop() as stop:
        events = train_it(work, loaded, learned, resume=how.resume, previews=how.previews, stop=stop, ranks=group,
                          force=how.force)  # fmt: skip
        steps = _steps(events, out, how.folder)
        first = next(steps, None)  # the bank is filled before the bar begins
        if first is not None:
            every = itertools.chain([first], steps)
            for _ in out.progress(every, work.settings.steps, start=first.step - 1, describe=_loss):
                pass
        if how.pick and group.rank == 0:
            _pick(out, work, loaded, how.pick, stop)


def _pick(out: Output, work: job.Job, loaded: Base, count: int, stop: Callable[[], bool]) -> None:
    """Score the checkpoints, and tell on stderr which one is kept and why."""
    from cdtool.evaluation import selection

    total = len(selection.checkpoint_steps(work.settings.steps, count)) + 2  # the base, and the choice
    events = list(out.progress(selection.choose(work, loaded, stop=stop), total, label="checkpoint"))
    picked = next(event for event in events if isinstance(event, selection.Selection))
    out.talk("step   text  image")
    for stage in picked.stages:
        remark = "kept" if stage.step == picked.step else "the base" if not stage.step else ""
        out.talk(f"{stage.step:>4}  {stage.text:.3f}  {stage.image:.3f}  {remark}".rstrip())
    out.talk(f"Kept is {selection.RULE}.")


def _steps(events: Iterator[Step], out: Output, folder: Path) -> Iterator[Step]:
    """The optimizer steps; what else happens is told or written on the way."""
    for event in events:
        if event.kind == "step":
            yield event
        elif event.kind == "latents" and event.step == event.of:
            out.talk(f"Encoded {event.step} crops in {output.duration(event.seconds)}.")
        elif event.kind == "preview":
            _write_previews(event, out, folder)


def _write_previews(event: Step, out: Output, folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(event.images, 1):
        path = folder / f"step-{event.step:05d}-{number}.png"
        Image.fromarray(pixels).save(path)
        out.talk(f"Preview: {path}")


def _loss(step: Step) -> str:
    prior = "" if step.prior_loss != step.prior_loss else f"  prior {step.prior_loss:.3f}"
    return f"loss {step.loss:.3f}{prior}"


def _draw_priors(out: Output, work: job.Job, loaded: Base, group: processes.Ranks) -> None:
    """Class images that only the base can provide, drawn by the first process before anything is encoded."""
    wanted = run.pending(work, loaded.folder)
    if group.rank:
        run.await_priors(work, loaded.folder)
    elif wanted:
        total = sum(one.how.count for one in wanted)
        out.talk(f'Drawing {total} class images once, for this and later trainings: "{wanted[0].prompt}"')
        with asked_to_stop() as stop:
            steps = (step for step in run.generate_priors(work, loaded, stop=stop) if step.kind == "image")
            for _ in out.progress(steps, total, label="class image"):
                pass


def _data(name: str) -> dict[str, Any]:
    entry = registry.find(name)
    pick = entry.manifest.report.get("pick") if entry.manifest else None
    return {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes} | ({"pick": pick} if pick else {})


def _example(work: job.Job) -> str:
    several = len(work.tokens) > 1
    words = [token.words(place if several else None) for place, token in enumerate(work.tokens, 1)]
    return f"painting in the style of {words[0]}" if work.settings.style else f"photo of a {' and a '.join(words)}"


def _show_plan(out: Output, work: job.Job, how: _How, group: processes.Ranks) -> None:
    plan = run.plan(work, how.device, max(how.gpus, group.world), force=how.force)
    out.facts(plan.facts(), plan.data())
