"""Training as one call: `train` and its steps, `iter_train`, from photos to a saved concept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import settings as stored
from cdtool.errors import InputError, NotFoundError, UsageError
from cdtool.methods import words_only
from cdtool.models.libraries import quietly
from cdtool.paths import user_path
from cdtool.store import bases, families, registry
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import bind
from cdtool.training import examples, processes
from cdtool.training import job as jobs
from cdtool.training.event import Event, Resume
from cdtool.training.job import Job

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.store.registry import Concept
    from cdtool.training.processes import Ranks
    from cdtool.training.trainable import Start

Paths = str | Path | Sequence[str | Path]


def prepare(
    photos: Paths, token: str | Sequence[str], *, name: str | None = None, base: str | None = None,
    start: Concept | str | None = None, like: Concept | str | None = None, **settings: Any,
) -> Job:  # fmt: skip
    """Check what a training was given, and find its photos and settings (see `train` for the parameters).

    Raises NotFoundError, UsageError, TokenError, SettingsError, PhotoError, ConceptError or InputError.
    """
    paths = [Path(photos)] if isinstance(photos, str | Path) else [Path(path) for path in photos]
    tokens = [token] if isinstance(token, str) else list(token)
    begun, model = (registry.find(one) if isinstance(one, str) else one for one in (start, like))
    chosen = jobs.base_name(base, begun, model)
    return jobs.job(paths, tokens, name=name, base=chosen, flags=settings, start=begun, like=model)


def check(job: Job, *, previews: Sequence[str] = (), resume: Resume = False, force: bool = False) -> None:
    """What would fail only after loading, or at the end, is refused here.

    Raises NameTakenError, TokenError for a preview prompt, NotFoundError for a checkpoint that is not there, and
    InputError for one that would be lost.
    """
    if not force:
        registry.check_free(job.name)
    for prompt in previews:
        bind(prompt, job.tokens)
    interrupted = checkpoint_path(job.name).is_file()
    if resume is True and not interrupted:
        raise NotFoundError(f'There is no checkpoint of "{job.name}".', "Start it without --resume.")
    if interrupted and not (resume or force):
        raise InputError(
            f'A training of "{job.name}" was stopped and left a checkpoint.',
            "Go on from it with --resume, or start over with --force.",
        )


@quietly()
def iter_train(
    photos: Paths,
    *,
    token: str | Sequence[str],
    name: str | None = None,
    base: str | None = None,
    start: Concept | str | None = None,
    like: Concept | str | None = None,
    device: str = "auto",
    preview: Sequence[str] = (),
    resume: Resume = False,
    force: bool = False,
    if_missing: bool = False,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Iterator[Event]:
    """Train a concept as `train` does, yielding what happens; the last event, "done", carries the saved concept."""
    from cdtool.models import pipelines
    from cdtool.training import memory

    job = prepare(photos, token, name=name, base=base, start=start, like=like, **settings)
    if if_missing and job.name in registry.names():
        yield Event("done", concept=registry.find(job.name))
        return
    resume = resume or ("auto" if if_missing else False)
    check(job, previews=preview, resume=resume, force=force)
    with processes.distributed(device) as ranks:
        job, chosen = memory.fit_job(job, device, ranks.world)
        if chosen and ranks.rank == 0:
            yield Event("note", text=chosen)
        loaded = pipelines.load(job.base, precision=job.settings.precision, device=device, sparing=True,
                                vae=job.settings.vae)  # fmt: skip
        yield from train_job(job, loaded, previews=preview, resume=resume, force=force, stop=stop, ranks=ranks)


def train(photos: Paths, *, token: str | Sequence[str], **options: Any) -> Concept:
    """Teach a base a new concept from photos, and save it.

    photos    folders of photos, or single files
    token     what it is called: "V* dog", or "moongate" without a modifier; several with a folder each train jointly
    name      of the concept; the class noun unless given
    base      name, hub id or path; the one in use unless given
    start     the concept to go on from: its tokens stay, the new ones follow
    like      a concept whose settings are used where none are given
    device    "auto", "cpu", "cuda", "cuda:1", "mps"
    preview   prompts sampled at the start, at checkpoints and at the end (events of `iter_train`)
    resume    go on from the checkpoint of a stopped run; "auto": if there is one of the same run
    force     replace a concept, or a checkpoint, of that name
    if_missing  return the concept of that name if there is one
    stop      asked after each step; True saves a checkpoint and raises InterruptedRun

    Every other keyword is a field of `settings.TrainSettings`: steps, lr, method, prior, seed...
    Raises what `prepare`, `check`, `pipelines.load` and `loop.fit` raise.
    """
    *_, last = iter_train(photos, token=token, **options)
    assert last.concept is not None
    return last.concept


def train_job(
    job: Job,
    base: Base,
    *,
    resume: Resume = False,
    previews: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = processes.ALONE,
    force: bool = False,
    snapshots: Collection[int] = (),
) -> Iterator[Event]:
    """Train a prepared job on a loaded base and save the concept after the last step.

    Raises UsageError for more processes than images of a step, and what `loop.fit` and `registry.save` raise.
    """
    from cdtool.training import loop

    families.check_trainable(base.name, families.read(base.folder))
    if ranks.world > job.settings.batch:
        raise UsageError(f"A batch of {job.settings.batch} cannot be shared by {ranks.world} processes.")
    start = begin(job, base, force=force)
    job = with_initializers(job, base)
    if ranks.rank == 0:
        yield from (Event("note", text=f"Skipped {item.path.name}: {item.reason}.") for item in job.skipped)
        yield from (Event("warning", text=text) for text in job.warnings)
    cut = examples.truncated_captions(job, base)
    if cut and ranks.rank == 0:
        yield Event("note", text=f"Longer captions than {base.name} reads, whose ends do not count: {', '.join(cut)}.")
    found = yield from examples.made_class_images(job, base, ranks, stop)
    learned, checkpoint, first = examples.concept_images(job, found), checkpoint_path(job.name), 0
    for event in loop.fit(base, learned, job.tokens, job.settings, checkpoint=checkpoint, resume=resume,
                          previews=previews, stop=stop, ranks=ranks, start=start, snapshots=snapshots):  # fmt: skip
        if event.kind == "step":
            first = first or event.step
        if event.kind == "done" and ranks.rank == 0:
            saved = registry.save(manifest_of(job, base, start), event.tensors, force=force)
            took = {"seconds": round(event.seconds, 1)} if first == 1 else {}  # known of an unbroken run only
            registry.add_note(job.name, photos=_folders(job), base=own_base(job.base), **took)
            checkpoint.unlink(missing_ok=True)
            event = replace(event, concept=saved)
        yield event


# ---------------------------------------------------------------- what is recorded


def shareable(base: str) -> str:
    """A base's name as it travels with a concept: of a local folder only its last part."""
    return base if bases.is_name(base) else Path(base).resolve().name


def own_base(base: str) -> str:
    """A base's name as it is good on this machine from anywhere: a local folder by its full path."""
    return base if bases.is_name(base) else str(user_path(base).resolve())


def with_initializers(job: Job, base: Base, *, before: Sequence[Job] = (), after: Collection[str] = ()) -> Job:
    """A job whose modifier tokens each have the word they begin as.

    It is none that a concept of other photos on this base began as; what is trained twice begins alike, to be compared.
    `before` are jobs whose words are taken as well, `after` names of concepts whose are not.
    Raises TokenError where the base's vocabulary holds too few words.
    """
    from cdtool.models import initializers

    mine = photos_of(job)
    others = [
        entry.manifest for entry in registry.concepts() if entry.manifest and entry.name not in (job.name, *after)
    ]
    found = [(other.tokens, other.photos) for other in others if other.base.fingerprint == base.fingerprint]
    found += [(other.tokens, photos_of(other)) for other in before]
    taken = {token.initializer for tokens, theirs in found for token in tokens if not set(mine).intersection(theirs)}
    return replace(job, tokens=initializers.assign(base.tokenizers, job.tokens, taken))


def photos_of(job: Job) -> tuple[str, ...]:
    """The digests of the photos it trains on."""
    return tuple(photo.sha256 for group in job.groups for photo in group)


def checkpoint_path(name: str) -> Path:
    """Where a training keeps what it needs to go on."""
    return stored.data_dir() / "checkpoints" / f"{name}.pt"


def manifest_of(job: Job, base: Base, start: Start | None = None) -> Manifest:
    """What is recorded of a concept that a job (`with_initializers`) trains, maybe from `start`."""
    return Manifest(
        name=job.name,
        base=BaseRef(shareable(job.base), base.family.name, base.fingerprint),
        tokens=job.tokens,
        method=_method(job),
        settings=stored.recorded(job.settings),
        photos=photos_of(job),
        parents=(_parent(job.start, start.sha256),) if job.start and start else (),
    )


def begin(job: Job, base: Base, *, force: bool = False) -> Start | None:
    """The concept a job goes on from, read, or None.

    Raises BaseError where it was trained on another base, unless `force` and the shapes are equal; ConceptError.
    """
    from cdtool.models import pipelines
    from cdtool.store import concept
    from cdtool.training.trainable import Start

    if job.start is None:
        return None
    pipelines.check_base(job.start, base, force=force)
    digest = hashlib.sha256(job.start.path.read_bytes()).hexdigest()
    return Start(concept.read_tensors(job.start.path), job.earlier, digest)


def _parent(entry: Concept, sha256: str) -> dict[str, Any]:
    """A concept as the manifest of what was trained from it names it."""
    manifest = entry.manifest
    assert manifest is not None
    return {
        "name": entry.name,
        "by": "train",
        "method": manifest.method,
        "base": manifest.base.fingerprint,
        "tokens": [asdict(token) for token in manifest.tokens],
        "sha256": sha256,
        "settings": dict(manifest.settings),
    }


def _method(job: Job) -> str:
    """The method a concept stands for: what learned only a word on top of changed K/V holds those changes too."""
    before = job.start.manifest.method if job.start and job.start.manifest else job.settings.method
    return "kv" if words_only(job.settings.method) and before != job.settings.method else job.settings.method


def _folders(job: Job) -> list[str]:
    """Where the photos of the tokens lie, a folder each; nothing where this machine does not know the earlier ones'."""
    if job.start is None:
        return list(job.folders)
    before = list(registry.note(job.start.name).get("photos", ()))
    return [*before, *job.folders] if len(before) == job.earlier else []
