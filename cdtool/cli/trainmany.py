"""cdtool train --separate and --jobs: many concepts by one command."""

from __future__ import annotations

import itertools
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.cli import output, trainshow
from cdtool.cli.stopping import asked_to_stop, command_again
from cdtool.cli.trainflags import SingleOptions
from cdtool.errors import InterruptedRun, UsageError
from cdtool.store import registry
from cdtool.training import many
from cdtool.training import plan as plans

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.training.event import Event, Resume
    from cdtool.training.job import Job
    from cdtool.training.many import BatchEvent


def refuse_single_options(name: str | None, start: str | None, single: SingleOptions) -> None:
    """Raises UsageError where an option was given that only one training has."""
    values: dict[str, object] = {"-o": name, "--from": start}
    values |= {
        f"--{key.replace('_', '-')}": value
        for key, value in vars(single).items()
        if value != vars(SingleOptions())[key]
    }
    given = [option for option, value in values.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} is for one concept, not for many.", "Leave it out, or train that concept alone.")


def jobs_of(
    photos: Sequence[Path] | None, tokens: Sequence[str] | None, file: Path | None, **options: Any
) -> list[Job]:
    """The jobs of a file, or of folders and their tokens.

    Raises UsageError, and what reading and checking them raise.
    """
    if file is not None:
        if photos or tokens:
            raise UsageError("With --jobs the file names the photos and tokens.", "Leave PHOTOS and --token out.")
        return many.read(file, **options)
    if not photos or not tokens:
        example = 'Like: cdtool train ./dog ./cat --token "V* dog" --token "V* cat" --separate'
        raise UsageError("--separate needs folders of photos, and a --token for each.", example)
    return many.separate(photos, tokens, **options)


@dataclass(frozen=True)
class BatchOptions:
    """How they are trained: where, or only planned; by how many processes, and over what is there already."""

    device: str
    dry_run: bool
    workers: str | None
    resume: bool
    force: bool
    if_missing: bool

    @property
    def skips(self) -> bool:
        """Whether what is there is left as it is."""
        return self.if_missing or self.resume


def train(out: Output, jobs: Sequence[Job], how: BatchOptions) -> None:
    """Train them, or tell the plans alone; a result for each as it is saved."""
    if how.dry_run:
        many.check(jobs, resume="auto", force=True, if_missing=how.skips)
        for job in jobs:
            if not (how.skips and job.name in registry.names()):
                plan = plans.plan(job, how.device, force=how.force)
                out.facts(plan.facts(), plan.data())
        return
    output.quiet_libraries()
    with asked_to_stop() as stop:
        try:
            (_in_several if how.workers else _in_one_process)(out, jobs, how, stop)
        except InterruptedRun as error:
            raise InterruptedRun(
                str(error), f"Go on with: cdtool {shlex.join(command_again('--if-missing'))}"
            ) from None


def _in_one_process(out: Output, jobs: Sequence[Job], how: BatchOptions, stop: Callable[[], bool]) -> None:
    """Train all in this process."""
    go_on: Resume = "auto" if how.skips else False
    events = many.iter_train_many(
        jobs, device=how.device, resume=go_on, force=how.force, if_missing=how.skips, stop=stop
    )
    for _, group in itertools.groupby(events, lambda told: told.place):
        _follow(out, group)


def _in_several(out: Output, jobs: Sequence[Job], how: BatchOptions, stop: Callable[[], bool]) -> None:
    """Train them in several processes of the same command, which share them out by claims."""
    from cdtool.research import workers

    if how.force:
        raise UsageError("--workers and --force exclude each other.", "Remove those concepts first: cdtool remove NAME")
    many.check(jobs, resume="auto" if how.skips else False, if_missing=how.skips)
    began, left, logs = time.time(), [job.name for job in jobs], many.claims_folder() / "logs"
    ticks = workers.run_processes(
        _worker_command(), workers.count_of(how.workers or "auto"),
        logs, wanted=lambda: bool(left), stop=stop,
    )  # fmt: skip
    for name in out.progress(_saved(ticks, left), len(jobs), label="concept", describe=str):
        out.result(name, trainshow.result(name))
    if left:
        raise many.failure(left, len(jobs), began, logs)


def _saved(ticks: Iterator[None], left: list[str]) -> Iterator[str]:
    """The names in `left` as the concepts come to be there, taken out of it."""
    for _ in itertools.chain(ticks, [None]):
        for name in sorted(set(left).intersection(registry.names()), key=left.index):
            left.remove(name)
            yield name


def _worker_command() -> list[str]:
    """What each of several processes runs."""
    words, kept = iter(command_again("--if-missing")), [sys.executable, "-m", "cdtool"]
    for word in words:
        if word == "--workers":
            next(words, None)
        elif word not in ("--json", "--quiet", "-q") and not word.startswith("--workers="):
            kept.append(word)
    return [*kept, "--quiet"]


def _follow(out: Output, group: Iterator[BatchEvent]) -> None:
    """Show one training, and tell what became of it."""
    first = next(group)
    ended = [first]
    if first.kind == "begun":
        out.talk(f"{first.place}/{first.of}  {first.job.name}")
        trainshow.show(out, _events(group, ended), first.job.settings.steps, Path())
    last = ended[-1]
    if last.error is not None:
        out.warn(f"{last.job.name} could not be trained. {last.error} {last.error.hint}".rstrip())
    elif last.concept is not None:
        out.result(last.concept.name, trainshow.result(last.concept.name))


def _events(group: Iterator[BatchEvent], ended: list[BatchEvent]) -> Iterator[Event]:
    """What a training reports itself; how it ended goes into `ended`, before the next one is begun."""
    for told in group:
        if told.event is None:
            ended.append(told)
            return
        yield told.event
