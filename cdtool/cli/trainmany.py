"""cdtool train --separate and --jobs: many concepts by one command."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.cli import output, trainshow
from cdtool.cli.stopping import asked_to_stop
from cdtool.cli.trainflags import Alone
from cdtool.errors import InterruptedRun, UsageError
from cdtool.store import registry
from cdtool.training import many
from cdtool.training import plan as plans

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.training.event import Event, Resume
    from cdtool.training.job import Job
    from cdtool.training.many import BatchEvent


def check_alone(name: str | None, start: str | None, alone: Alone) -> None:
    """Raises UsageError where an option was given that only one training has."""
    values: dict[str, object] = {"-o": name, "--from": start}
    values |= {f"--{key.replace('_', '-')}": value for key, value in vars(alone).items() if value != vars(Alone())[key]}
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


def train(
    out: Output, jobs: Sequence[Job], *, device: str, dry_run: bool, resume: bool, force: bool, if_missing: bool
) -> None:
    """Train them, telling the plan only with `dry_run`; a result for each as it is saved."""
    go_on: Resume = "auto" if resume or if_missing else False
    if dry_run:
        many.check(jobs, resume=go_on, force=True, if_missing=if_missing)
        for job in jobs:
            if not (if_missing and job.name in registry.names()):
                plan = plans.plan(job, device, force=force)
                out.facts(plan.facts(), plan.data())
        return
    output.quiet_libraries()
    with asked_to_stop() as stop:
        events = many.iter_train_many(
            jobs, device=device, resume=go_on, force=force, if_missing=if_missing or resume, stop=stop
        )
        try:
            for _, group in itertools.groupby(events, lambda told: told.place):
                _follow(out, group)
        except InterruptedRun as error:
            raise InterruptedRun(str(error), _going_on()) from None


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


def _going_on() -> str:
    command = [word for word in sys.argv[1:] if word not in ("--resume", "--force", "--if-missing")]
    return f"Go on with: cdtool {shlex.join([*command, '--if-missing'])}"
