"""cdtool train: photos in, a concept out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from cdtool.cli import options, output, trainmany, trainshow
from cdtool.cli import trainflags as flag
from cdtool.cli.stopping import asked_to_stop, command_again
from cdtool.errors import InterruptedRun, UsageError
from cdtool.store import registry
from cdtool.training import plan as plans
from cdtool.training import processes, run

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.models.pipelines import Base
    from cdtool.training.event import Resume
    from cdtool.training.job import Job
    from cdtool.training.processes import Ranks


def train(
    photos: flag.Photos = None,
    token: flag.Tokens = None,
    name: options.Name = None,
    base: options.Base = None,
    from_: flag.From = None,
    like: flag.Like = None,
    separate: flag.Separate = False,
    jobs: flag.Jobs = None,
    workers: flag.Workers = None,
    settings: flag.Settings = flag.Settings(),
    device: options.Device = "auto",
    single: flag.SingleOptions = flag.SingleOptions(),
    resume: flag.Resume = False,
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
    cdtool train ./art --token "V* art" --style --dry-run --crop-sheet crops.png
    cdtool train ./dog ./cat --token "V1 dog" --token "V2 cat" -o pets
    cdtool train ./cat --token "V2 cat" --from dog
    cdtool train ./cat --token "V* cat" --like dog --method lora
    cdtool train ./photos --token "V* dog" --pick 5 -o dog-best
    cdtool train ./dog ./cat --token "V* dog" --token "V* cat" --separate --if-missing
    """
    out = output.sink(json, quiet)
    if separate or jobs is not None:
        trainmany.refuse_single_options(name, from_, single)
        several = trainmany.jobs_of(photos, token, jobs, base=base, like=like, **vars(settings))
        how = trainmany.BatchOptions(device, dry_run, workers, resume=resume, force=force, if_missing=if_missing)
        trainmany.train(out, several, how)
        return
    if workers is not None:
        raise UsageError("--workers is for many concepts.", "Add --separate or --jobs FILE; one is shared by --gpus N.")
    if not photos or not token:
        missing = "--token SPEC" if photos else "PHOTOS"
        raise UsageError(f"cdtool train needs {missing}.", 'Like: cdtool train ./photos --token "V* dog"')
    job = run.prepare(photos, token, name=name, base=base, start=from_, like=like, **vars(settings))
    if if_missing and job.name in registry.names():
        _skip(out, job.name)
    else:
        _train_one(out, job, _Options(device, resume or ("auto" if if_missing else False), force, single), dry_run)


@dataclass(frozen=True)
class _Options:
    """How a job is trained: where, over what is there already or from its checkpoint, and what is shown of it."""

    device: str
    resume: Resume
    force: bool
    single: flag.SingleOptions


def _train_one(out: Output, job: Job, chosen: _Options, dry_run: bool) -> None:
    """Check a job and train it, in as many processes as were asked for, or tell its plan."""
    single = chosen.single
    options.check_picture(single.crop_sheet, "--crop-sheet")
    run.check(job, previews=single.preview or (), resume=chosen.resume, force=chosen.force or dry_run)
    if single.gpus > 1 and not processes.launched() and not dry_run:
        _launch(single.gpus)
    output.quiet_libraries()
    with processes.distributed(chosen.device) as ranks:
        voice = out if ranks.rank == 0 else output.Output("quiet")
        _introduce(voice, job, single.crop_sheet if ranks.rank == 0 else None)
        if dry_run and ranks.rank == 0:
            _tell_plan(out, job, plans.plan(job, chosen.device, max(single.gpus, ranks.world), force=chosen.force))
        elif not dry_run:
            _train(voice, job, chosen, ranks)
    if ranks.rank == 0 and not dry_run:
        out.talk(f'Saved. Try: cdtool sample {job.name} "{_example(job)}"')
        out.result(job.name, trainshow.result(job.name))


def _skip(out: Output, name: str) -> None:
    if processes.leads():
        out.talk(f'There is a concept "{name}" already; nothing to do.')
        out.result(name, trainshow.result(name))


def _launch(gpus: int) -> NoReturn:
    from cdtool.cli.launch import launch

    raise typer.Exit(launch(gpus, sys.argv[1:]))


def _introduce(out: Output, job: Job, crops: Path | None) -> None:
    if job.start is not None:
        held = ", ".join(f'"{token.words(place)}"' for place, token in enumerate(job.tokens[: job.earlier], 1))
        out.talk(f"Going on from {job.start.name}, which holds {held}.")
    if job.base == "mini":
        out.talk("Training on mini, the small embedded base; choose another with: cdtool base use NAME")
    if crops is not None:
        path = options.free_path(crops)
        plans.crop_sheet(job).save(path)
        out.talk(f"Crops: {path}")


def _tell_plan(out: Output, job: Job, plan: plans.TrainingPlan) -> None:
    for warning in job.warnings:
        out.warn(warning)
    out.facts(plan.facts(), plan.data())


def _train(out: Output, job: Job, chosen: _Options, ranks: Ranks) -> None:
    from cdtool.evaluation import selection
    from cdtool.models import pipelines
    from cdtool.training import memory

    pick = chosen.single.pick
    job, fitted = memory.fit_job(job, chosen.device, ranks.world)
    if fitted:
        out.talk(fitted)
    base = pipelines.load(job.base, precision=job.settings.precision, device=chosen.device, sparing=True,
                          vae=job.settings.vae)  # fmt: skip
    train_job = partial(selection.train_job, count=pick) if pick else run.train_job
    with asked_to_stop() as stop:
        events = train_job(job, base, resume=chosen.resume, force=chosen.force, stop=stop, ranks=ranks,
                           previews=chosen.single.preview or ())  # fmt: skip
        try:
            folder = chosen.single.preview_dir or Path("samples") / f"{job.name}-preview"
            trainshow.show(out, events, job.settings.steps, folder)
        except InterruptedRun as error:
            raise _with_command(error) from None
        if pick and ranks.rank == 0:
            _pick(out, job, base, pick, stop)


def _with_command(error: InterruptedRun) -> InterruptedRun:
    """The same with the whole command that goes on, where there is something to go on from."""
    if "--resume" not in error.hint:
        return error
    return InterruptedRun(str(error), f"Go on with: cdtool {shlex.join(command_again('--resume'))}")


# ---------------------------------------------------------------- what is shown


def _pick(out: Output, job: Job, loaded: Base, count: int, stop: Callable[[], bool]) -> None:
    """Score the checkpoints, and tell on stderr which one is kept and why."""
    from cdtool.evaluation import selection

    total = len(selection.checkpoint_steps(job.settings.steps, count)) + 2  # the base, and the choice
    events = list(out.progress(selection.choose(job, loaded, stop=stop), total, label="checkpoint"))
    picked = next(event for event in events if isinstance(event, selection.Selection))
    out.talk("step   text  image")
    for stage in picked.stages:
        remark = "kept" if stage.step == picked.step else "the base" if not stage.step else ""
        out.talk(f"{stage.step:>4}  {stage.text:.3f}  {stage.image:.3f}  {remark}".rstrip())
    out.talk(f"Kept is {selection.RULE}.")


def _example(job: Job) -> str:
    several = len(job.tokens) > 1
    words = [token.words(place if several else None) for place, token in enumerate(job.tokens, 1)]
    return f"painting in the style of {words[0]}" if job.settings.style else f"photo of a {' and a '.join(words)}"
