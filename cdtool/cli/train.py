"""cdtool train: photos in, a concept out."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool import catalog, ranks, registry, settings, studies, tokens
from cdtool.cli import options, output
from cdtool.cli.options import setting
from cdtool.errors import NotFoundError, UsageError
from cdtool.settings import Precision, TrainSettings

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.training import Step

_Set = TrainSettings
Photos = Annotated[list[Path], typer.Argument(metavar="PHOTOS...", help="Folders of photos, or single files.")]
Tokens = Annotated[
    list[str], typer.Option("--token", metavar="SPEC", help='What it is called: "V* dog"; "moongate" without modifier.')
]
Method = Annotated[str | None, setting(_Set, "method", "--method", help="What is trained.", metavar="M")]
Prior = Annotated[
    str | None, setting(_Set, "prior", "--prior", help="Pictures of the class: auto, none, or a folder.", metavar="P")
]
PriorCount = Annotated[int | None, setting(_Set, "prior_count", "--prior-count", help="At most so many.", metavar="N")]
PriorWeight = Annotated[
    float | None, setting(_Set, "prior_weight", "--prior-weight", help="Their weight in the loss.", metavar="F")
]
Steps = Annotated[
    int | None, setting(_Set, "steps", "--steps", help="Optimizer steps per concept; half without prior.", metavar="N")
]
Rate = Annotated[float | None, setting(_Set, "lr", "--lr", help="Learning rate.", metavar="F")]
Batch = Annotated[
    int | None, setting(_Set, "batch", "--batch", help="Pictures of one step, half of them prior ones.", metavar="N")
]
Accumulate = Annotated[
    int | None, setting(_Set, "accumulate", "--accumulate", help="Passes a step is split into.", metavar="N")
]
Resolution = Annotated[
    int | None, typer.Option("--resolution", metavar="PX", help="Side of the pictures; the base's own unless given.")
]
Checkpointing = Annotated[
    bool | None,
    typer.Option("--checkpointing/--no-checkpointing", help="Recompute activations: less memory, slower."),
]
PrecisionFlag = Annotated[
    Precision | None, setting(_Set, "precision", "--precision", help="auto is bf16 where the hardware has it.")
]
Gpus = Annotated[int, typer.Option("--gpus", metavar="N", min=1, help="Processes, one per GPU.")]
Seed = Annotated[int | None, setting(_Set, "seed", "--seed", help="Seed of everything random.", metavar="N")]
SaveEvery = Annotated[
    int | None, setting(_Set, "save_every", "--save-every", help="Steps between checkpoints.", metavar="N")
]
Style = Annotated[bool | None, typer.Option("--style", help='The token is a style: "V* art".')]
Previews = Annotated[
    list[str] | None,
    typer.Option("--preview", metavar="PROMPT", help="Draw it at the start, at checkpoints and at the end."),
]
PreviewDir = Annotated[
    Path | None, typer.Option("--preview-dir", metavar="DIR", help="Where previews go; samples/NAME-preview.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")]


def train(
    photos: Photos,
    token: Tokens,
    name: options.Name = None,
    base: options.Base = None,
    method: Method = None,
    prior: Prior = None,
    prior_count: PriorCount = None,
    prior_weight: PriorWeight = None,
    steps: Steps = None,
    lr: Rate = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    resolution: Resolution = None,
    precision: PrecisionFlag = None,
    checkpointing: Checkpointing = None,
    gpus: Gpus = 1,
    device: options.Device = "auto",
    seed: Seed = None,
    save_every: SaveEvery = None,
    style: Style = None,
    preview: Previews = None,
    preview_dir: PreviewDir = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    force: options.Force = False,
    if_missing: options.IfMissing = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Teach a base a new concept from a handful of photos.

    Examples:
    cdtool train ./photos --token "V* dog"
    cdtool train ./gate --token moongate -o moongate --preview "moongate in the snow"
    cdtool train ./art --token "V* art" --style --base sd15 --dry-run
    """
    given = dict(locals())
    flags = {field: given[field] for field in TrainSettings.__dataclass_fields__ if field in given}
    out = output.sink(json, quiet)
    chosen = settings.base_name(base)
    folder = catalog.locate(chosen.value)
    work = studies.job(photos, token, name=name, base=chosen.value, base_folder=folder, flags=flags)
    if if_missing and work.name in registry.names():
        if ranks.leads():
            out.talk(f'There is a concept "{work.name}" already; nothing to do.')
            out.result(work.name, _data(work.name))
        return
    _check(work, preview or [], resume=resume, replaces=force or dry_run)
    if gpus > 1 and not ranks.launched() and not dry_run:
        _launch(gpus)
        return
    output.quiet_libraries()
    with ranks.joined(device) as group:
        voice = out if group.rank == 0 else output.Output("quiet")
        _introduce(voice, work)
        if dry_run:
            if group.rank == 0:
                _show_plan(voice, work, device, max(gpus, group.world))
            return
        _train(voice, work, device, group, resume=resume, force=force, previews=preview or [], folder=preview_dir)
        if group.rank == 0:
            out.talk(f'Saved. Try: cdtool sample {work.name} "{_example(work)}"')
            out.result(work.name, _data(work.name))


def _check(work: studies.Job, previews: list[str], *, resume: bool, replaces: bool) -> None:
    """What would fail only after the loading or at the end, told before."""
    if not replaces:
        registry.check_free(work.name)
    for text in previews:
        tokens.bind(text, work.tokens)
    if resume and not studies.checkpoint_path(work.name).is_file():
        raise NotFoundError(f'There is no checkpoint of "{work.name}".', "Start it without --resume.")


def _introduce(out: Output, work: studies.Job) -> None:
    if work.base == "mini":
        out.talk("Training on mini, the small embedded base; choose another with: cdtool base use NAME")


def _train(
    out: Output,
    work: studies.Job,
    device: str,
    group: ranks.Ranks,
    *,
    resume: bool,
    force: bool,
    previews: list[str],
    folder: Path | None,
) -> None:
    from cdtool import base as bases

    if group.world > work.settings.batch:
        raise UsageError(f"A batch of {work.settings.batch} cannot be shared by {group.world} processes.")
    for item in work.skipped:
        out.talk(f"Skipped {item.path.name}: {item.reason}.")
    loaded = bases.load(work.base, precision=work.settings.precision, device=device)
    learned, told = studies.subjects(work, loaded)
    for summary, warning in told:
        out.talk(f"Prior: {summary}.")
        if warning and group.rank == 0:
            out.warn(warning)
    target = folder or Path("samples") / f"{work.name}-preview"
    with _asked_to_stop() as stop:
        events = studies.train(
            work, loaded, learned, resume=resume, previews=previews, stop=stop, ranks=group, force=force
        )
        steps = _steps(events, out, target)
        first = next(steps, None)  # the bank is filled before the bar begins
        if first is not None:
            every = itertools.chain([first], steps)
            for _ in out.progress(every, work.settings.steps, start=first.step - 1, describe=_loss):
                pass


def _steps(events: Iterator[Step], out: Output, folder: Path) -> Iterator[Step]:
    """The optimizer steps; what else happens is told or written on the way."""
    for event in events:
        if event.kind == "step":
            yield event
        elif event.kind == "bank" and event.step == event.of:
            out.talk(f"Encoded {event.step} crops in {output.duration(event.seconds)}.")
        elif event.kind == "preview":
            _write_previews(event, out, folder)


def _write_previews(event: Step, out: Output, folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(event.pictures, 1):
        path = folder / f"step-{event.step:05d}-{number}.png"
        Image.fromarray(pixels).save(path)
        out.talk(f"Preview: {path}")


def _loss(step: Step) -> str:
    prior = "" if step.prior_loss != step.prior_loss else f"  prior {step.prior_loss:.3f}"
    return f"loss {step.loss:.3f}{prior}"


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """While open, the first Ctrl-C (or SIGTERM) asks the loop to save and stop, and the second one ends at once."""
    asked: list[int] = []

    def hear(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    kept = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _launch(gpus: int) -> None:
    from cdtool.cli.launch import launch

    raise typer.Exit(launch(gpus, sys.argv[1:]))


def _data(name: str) -> dict[str, Any]:
    entry = registry.find(name)
    return {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes}


def _example(work: studies.Job) -> str:
    places = range(1, len(work.tokens) + 1)
    words = [token.words(place if len(work.tokens) > 1 else None)
             for place, token in zip(places, work.tokens, strict=True)]  # fmt: skip
    return f"painting in the style of {words[0]}" if work.settings.style else f"photo of a {' and a '.join(words)}"


def _show_plan(out: Output, work: studies.Job, device: str, gpus: int) -> None:
    plan = studies.plan(work, device, gpus)
    out.facts(plan.facts(), plan.data())
