"""Many concepts in one process, one after the other: imports, loading and class images are paid for once."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import settings
from cdtool.errors import CdtoolError, InputError, InterruptedRun, NotFoundError, TrainingError, UsageError, nearest
from cdtool.files import read_text
from cdtool.models.libraries import quietly
from cdtool.paths import user_path
from cdtool.schema import loads_toml
from cdtool.store import bases, claims, registry
from cdtool.tokens import counted
from cdtool.training import run
from cdtool.training.event import Event, Resume
from cdtool.training.job import Job

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.store.registry import Concept

JOB_KEYS = ("photos", "token", "name", "base", "from", "like")  # of an entry, beside its settings
FILE_KEYS = ("base", "train", "job")
POLL = 1.0  # s between two looks at what other processes are at


@dataclass(frozen=True)
class BatchEvent:
    """One thing that happened to the `place`th of `of` jobs, counted from 1.

    begun     it is its turn
    event     something its training reports: `event`
    trained   the concept is saved: `concept`
    kept      it was there already: `concept`
    failed    it could not be trained: `error`; the others go on
    """

    kind: str
    place: int
    of: int
    job: Job
    event: Event | None = None
    concept: Concept | None = None
    error: CdtoolError | None = None


def separate(photos: Sequence[Path], tokens: Sequence[str], **options: Any) -> list[Job]:
    """A job for each folder of photos with the token in its place; `options` are those of `run.prepare` for all.

    Raises UsageError where they are not equally many, InputError for two of one name, and what `run.prepare` raises.
    """
    if len(photos) != len(tokens):
        raise UsageError(
            f"{counted(len(photos), 'folder')} and {counted(len(tokens), 'token')} were given.",
            "With --separate every folder has a --token of its own, in the same order.",
        )
    alone = [re.sub(r"^V\d+\s", "V* ", token) for token in tokens]  # each is the first of its concept
    return _check_names([run.prepare(folder, token, **options) for folder, token in zip(photos, alone, strict=True)])


def read(path: Path, **flags: Any) -> list[Job]:
    """The jobs of a TOML file: a [[job]] for each, with `photos` and `token`, and settings for all under [train].

    Paths count from the file's folder. A job's own settings are stronger than those of [train], `flags` than both.
    Raises NotFoundError, InputError where it cannot be read, and what `run.prepare` raises.
    """
    table = _table(path)
    entries, common = table.get("job"), table.get("train", {})
    if not isinstance(common, dict):
        raise InputError(f'{path}: "train" is a table.', "Write [train] on a line of its own.")
    if not isinstance(entries, list) or not entries or not all(isinstance(one, dict) for one in entries):
        raise InputError(f"{path} has no jobs.", 'Write each as [[job]] with photos = "DIR" and token = "V* dog".')
    jobs = []
    for number, entry in enumerate(entries, 1):
        with _of_job(path, number):
            jobs.append(_job(path.parent, {"base": table.get("base"), **common, **entry}, flags))
    return _check_names(jobs)


def _table(path: Path) -> dict[str, Any]:
    """The content of a file of jobs, its outer names checked."""
    try:
        table = loads_toml(read_text(path))
    except FileNotFoundError:
        raise NotFoundError(f'There is no file of jobs "{path}".') from None
    except (ValueError, OSError) as error:
        raise InputError(f"The jobs in {path} cannot be read ({error}).", "Correct the line it names.") from None
    if (wrong := next((key for key in table if key not in FILE_KEYS), None)) is not None:
        raise InputError(f'{path} has the unknown name "{wrong}".', nearest(wrong, FILE_KEYS))
    return table


def _job(folder: Path, entry: Mapping[str, Any], flags: Mapping[str, Any]) -> Job:
    """The job of an entry, `flags` that are not None over its values; its paths count from `folder`."""
    own = {**entry, **{key: value for key, value in flags.items() if value is not None}}
    for key in ("photos", "token"):
        if not own.get(key):
            raise InputError(f"It has no {key}.", 'Like photos = "photos/dog" and token = "V* dog".')
    photos, token = (value if isinstance(value, list) else [value] for value in (own["photos"], own["token"]))
    for value in (*photos, *token, *(own[key] for key in JOB_KEYS[2:] if own.get(key) is not None)):
        if not isinstance(value, str):
            raise InputError(f"{value!r} is not text.", "Paths, tokens and names stand in quotes.")
    chosen = {key: value for key, value in own.items() if key not in JOB_KEYS}
    paths = [folder / user_path(one) for one in photos]
    return run.prepare(paths, token, name=own.get("name"), base=own.get("base"), start=own.get("from"),
                       like=own.get("like"), **chosen)  # fmt: skip


@contextlib.contextmanager
def _of_job(path: Path, number: int) -> Iterator[None]:
    """An error inside is told with the file and the number of the job."""
    try:
        yield
    except CdtoolError as error:
        raise type(error)(f"{path}, job {number}: {error}", error.hint) from None


def _check_names(jobs: list[Job]) -> list[Job]:
    """The jobs, if no two have one name. Raises InputError."""
    twice = [name for name, count in Counter(job.name for job in jobs).items() if count > 1]
    if twice:
        raise InputError(
            f'Several of the concepts would be called "{twice[0]}".',
            "Give each a name of its own in a file: --jobs FILE.",
        )
    return jobs


def _prepared(jobs: Path | str | Sequence[Job | Mapping[str, Any]], flags: Mapping[str, Any]) -> list[Job]:
    if isinstance(jobs, str | Path):
        return read(Path(jobs), **flags)
    return _check_names([one if isinstance(one, Job) else _job(Path(), one, flags) for one in jobs])


def check(jobs: Iterable[Job], *, resume: Resume = False, force: bool = False, if_missing: bool = False) -> None:
    """What would fail only after hours is refused here: names that are taken, checkpoints that would be lost."""
    for job in jobs:
        if not (if_missing and job.name in registry.names()):
            run.check(job, resume=resume, force=force)


@quietly()
def iter_train_many(
    jobs: Path | str | Sequence[Job | Mapping[str, Any]],
    *,
    device: str = "auto",
    resume: Resume = False,
    force: bool = False,
    if_missing: bool = False,
    stop: Callable[[], bool] = lambda: False,
    **flags: Any,
) -> Iterator[BatchEvent]:
    """Train jobs one after the other on a base that is loaded once, each to what it becomes when trained alone.

    jobs        a file of them, or what its entries hold: {"photos": "photos/dog", "token": "V* dog"}
    resume      go on from the checkpoint of a stopped one; "auto": if there is one of the same run
    force       replace concepts and checkpoints of these names
    if_missing  leave out what is there already, and go on from checkpoints
    stop        asked after each step; True saves a checkpoint and raises InterruptedRun

    One that fails does not take the others down; at the end TrainingError names those that did. Any number of
    processes with one data directory may share the jobs: each is claimed, and taken over where its process dies.
    """
    jobs = _prepared(jobs, flags)
    resume = resume or ("auto" if if_missing else False)
    check(jobs, resume=resume, force=force, if_missing=if_missing)
    jobs, failed = _assigned(jobs), []
    for event in _work(jobs, _Loaded(device), if_missing, {"resume": resume, "force": force, "stop": stop}):
        if event.kind == "failed":
            failed.append(event.job.name)
        yield event
    if failed:
        raise failure(failed, len(jobs))


def failure(names: Sequence[str], count: int, since: float = math.inf, logs: Path | None = None) -> TrainingError:
    """What to say of those of `count` jobs that could not be trained, and why the first one `since` then was not."""
    kept = claims.failures(claims_folder())
    told = [kept[name].message for name in names if name in kept and kept[name].when >= since]
    told += [f"See {logs}."] if logs and not told else []
    return TrainingError(
        " ".join([f"{len(names)} of {counted(count, 'concept')} could not be trained: {', '.join(names)}.", *told[:1]]),
        "The others are saved. Mend these and give the same command with --if-missing.",
    )


def claims_folder() -> Path:
    """Where processes say which job they are at."""
    return settings.data_dir() / "claims"


def _assigned(jobs: Sequence[Job]) -> list[Job]:
    """The jobs with their initializers, as if each was trained when those before it were: whoever trains it, when."""
    from cdtool.models import pipelines

    bases_ = {name: pipelines.load(name, parts=("tokenizers",)) for name in dict.fromkeys(job.base for job in jobs)}
    assigned: list[Job] = []
    for place, job in enumerate(jobs):
        before = [other for other in assigned if bases_[other.base].fingerprint == bases_[job.base].fingerprint]
        after = [other.name for other in jobs[place:]]
        assigned.append(run.with_initializers(job, bases_[job.base], before=before, after=after))
    return assigned


def _work(jobs: Sequence[Job], loaded: _Loaded, if_missing: bool, options: dict[str, Any]) -> Iterator[BatchEvent]:
    """Train jobs until all are finished or failed, by this process or another one."""
    folder, began = claims_folder(), time.time()
    folder.mkdir(parents=True, exist_ok=True)
    todo = {job.name: partial(BatchEvent, place=place, of=len(jobs), job=job) for place, job in enumerate(jobs, 1)}
    while todo:
        for event in list(_finished(folder, todo, if_missing, began)):
            todo.pop(event.job.name)
            yield event
        claim = claims.take(folder, list(todo), lambda name: (name,)) if todo else None
        if claim is not None:
            with claims.kept(folder, claim):
                if not (if_missing and claim.cell in registry.names()):  # else it was finished between the two looks
                    yield from _train(folder, claim, todo.pop(claim.cell), loaded, options)
        elif todo:
            if options["stop"]():
                raise InterruptedRun("Stopped, while other processes train the rest.")
            time.sleep(POLL)


def _finished(
    folder: Path, todo: Mapping[str, Callable[..., BatchEvent]], if_missing: bool, began: float
) -> Iterator[BatchEvent]:
    """What is there already, and what another process could not train."""
    there = set(registry.names()) if if_missing else set()
    failures = claims.failures(folder)
    for name, told in todo.items():
        if name in there:
            yield told("kept", concept=registry.find(name))
        elif name in failures and failures[name].when >= began:
            yield told("failed", error=TrainingError(failures[name].message, failures[name].hint))


def _train(
    folder: Path, claim: claims.Claim, told: Callable[..., BatchEvent], loaded: _Loaded, options: Mapping[str, Any]
) -> Iterator[BatchEvent]:
    """Train one job, or keep why that was not possible."""
    claims.forget(folder, claim.cell)
    begun = told("begun")
    yield begun
    try:
        run.check(begun.job, resume=options["resume"], force=options["force"])  # it may have been trained since
        for event in loaded.train(begun.job, **options):
            yield told("event", event=event)
    except InterruptedRun:
        raise
    except CdtoolError as error:
        claims.fail(folder, claim, error)
        yield told("failed", error=error)
    else:
        claims.forget(folder, claim.cell)
        yield told("trained", concept=registry.find(claim.cell))


@dataclass
class _Loaded:
    """The base that the last job was trained on; the next one is trained on it too where it asks for the same."""

    device: str
    base: Base | None = None
    asked: tuple[Any, ...] = ()

    def train(self, job: Job, **options: Any) -> Iterator[Event]:
        """What `run.train_job` yields of a job, as it fits into memory."""
        from cdtool.models import pipelines
        from cdtool.training import memory

        job, chosen = memory.fit_job(job, self.device)
        if chosen:
            yield Event("note", text=chosen)
        base = self._for(job)
        try:
            yield from run.train_job(job, base, **options)
        finally:
            pipelines.done(base, "unet", "vae", "text")

    def _for(self, job: Job) -> Base:
        """The base of a job; where there is memory for all of its parts at once they stay loaded."""
        from cdtool.models import memory, pipelines

        asked = (job.base, job.settings.precision, job.settings.vae)
        if self.base is None or asked != self.asked:
            self.base = None  # the one before goes before the next one comes
            folder, where = bases.locate(job.base), pipelines.pick_device(self.device)
            spare = not memory.plenty(folder, memory.limit(job.settings.memory, where))
            self.base = pipelines.load(job.base, precision=job.settings.precision, device=self.device, sparing=spare,
                                       vae=job.settings.vae)  # fmt: skip
            self.asked = asked
        return self.base


def train_many(jobs: Path | str | Sequence[Job | Mapping[str, Any]], **options: Any) -> list[Concept]:
    """Train jobs as `iter_train_many` does, and return their concepts.

    Every keyword that is none of its own is a setting or the base of all of them, as of `train`.
    """
    events = iter_train_many(jobs, **options)
    return [event.concept for event in events if event.concept is not None]
