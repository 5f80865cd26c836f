"""Verbs composed: a whole training, from photos over its plan to a saved concept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import settings
from cdtool.methods import METHODS, words_only
from cdtool.store import bases, families, registry
from cdtool.store.concept import BaseRef, Manifest, read_header
from cdtool.tokens import counted
from cdtool.training.job import Job

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.priors.make import Progress
    from cdtool.priors.sets import PendingSet
    from cdtool.store.registry import Concept
    from cdtool.training.batches import ConceptImages
    from cdtool.training.estimate import Cost
    from cdtool.training.loop import Step
    from cdtool.training.processes import Ranks
    from cdtool.training.trainable import Start


def concept_images(work: Job, base: Base) -> tuple[tuple[ConceptImages, ...], list[tuple[str, str]]]:
    """What there is to learn, with captions and class images, and (summary, warning or "") of each prior set."""
    import functools

    from cdtool.images import photos
    from cdtool.priors import choose
    from cdtool.training.batches import ConceptImages, Example

    for _ in generate_priors(work, base):
        pass
    made, told = [], []
    for place, (token, group) in enumerate(zip(work.new, work.groups, strict=True), work.earlier):
        at = place if len(work.tokens) > 1 else None
        targets = tuple(
            Example(photos.caption_for(token, at, work.settings.style, photo), functools.partial(photos.read, photo),
                    photo.sha256)
            for photo in group
        )  # fmt: skip
        found = choose.gather(work.settings.prior, token, base_folder=base.folder, style=work.settings.style,
                             count=work.settings.prior_count)  # fmt: skip
        told.append((found.summary, found.warning))
        priors = tuple(Example(picture.caption, picture.load, picture.sha256) for picture in found.images)
        made.append(ConceptImages(targets, priors))
    return tuple(made), told


def pending(work: Job, base_folder: Path) -> list[PendingSet]:
    """The prior sets a job needs that its base has to draw first."""
    from cdtool.priors import choose

    found = [choose.pending(work.settings.prior, token, base_folder=base_folder, style=work.settings.style,
                           count=work.settings.prior_count) for token in work.new]  # fmt: skip
    return list({one.name: one for one in found if one}.values())


def generate_priors(work: Job, base: Base, *, stop: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
    """Draw the class images that a job needs and that are not there yet.

    Raises InterruptedRun when asked to stop, with what is drawn kept, and ResourceError.
    """
    import contextlib

    from cdtool.errors import NameTakenError
    from cdtool.priors import make, sets

    for wanted in pending(work, base.folder):
        with contextlib.suppress(NameTakenError):  # another training drew the same meanwhile: either will do
            yield from make.generate(base, wanted, force=wanted.name in sets.names(), stop=stop)


def await_priors(work: Job, base_folder: Path) -> None:
    """Wait until another process of this training has drawn them."""
    import time

    while pending(work, base_folder):
        time.sleep(1)


@dataclass(frozen=True)
class Plan:
    """What a training would do and cost."""

    work: Job
    cost: Cost
    device: str
    precision: str
    world: int
    priors: tuple[str, ...]
    drawing: float = 0.0  # s; of class images that are not there yet

    def facts(self) -> dict[str, str]:
        """The plan for a person, a name and a value a line."""
        work, chosen, cost = self.work, self.work.settings, self.cost
        targets = chosen.batch if chosen.prior == "none" else chosen.batch // 2
        shared = f", shared by {self.world} processes" if self.world > 1 else ""
        used = [f"{photo.path.name}{f' ({photo.note})' if photo.note else ''}" for g in work.groups for photo in g]
        facts = {
            "concept": f"{work.name}, {cost.concept_bytes / 1e6:.1f} MB",
            "base": work.base,
            "tokens": ", ".join(token.words() for token in work.tokens),
            "photos used": f"{len(used)}: {', '.join(used)}",
            "photos skipped": "; ".join(f"{item.path.name}: {item.reason}" for item in work.skipped) or "none",
            "prior": "; ".join(self.priors),
            "method": f"{chosen.method}: {METHODS[chosen.method].trains}",
            "trained": f"{cost.numbers:,} numbers in {cost.matrices} matrices, and {counted(cost.embeddings, 'row')}",
            "steps": f"{chosen.steps} of {chosen.batch} pictures ({targets} targets) "
            f"in {counted(chosen.accumulate, 'pass')}{shared}"
            f"{', half as many because there is no prior' if work.halved else ''}",
            "rate": f"{chosen.lr:g}",
            "settings": "; ".join(_by_origin(work)) or "all by default",
            "precision": f"{self.precision} on {self.device}",
            "latent cache": f"{cost.crops} crops, {cost.cache_bytes / 1e6:.1f} MB",
            "time": f"about {_minutes(cost.seconds)} after loading and encoding",
            "memory": f"about {cost.memory / 1e9:.1f} GB",
        }
        if self.drawing:
            facts["prior"] += f"; about {_minutes(self.drawing)} of drawing"
        return facts

    def data(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        work = self.work
        return {
            "name": work.name,
            "base": work.base,
            "tokens": [asdict(token) for token in work.tokens],
            "photos": [{"path": str(photo.path), "note": photo.note} for group in work.groups for photo in group],
            "skipped": [{"path": str(item.path), "reason": item.reason} for item in work.skipped],
            "prior": list(self.priors),
            "prior_seconds": self.drawing,
            "settings": asdict(work.settings),
            "origins": dict(work.origins),
            "from": work.start.name if work.start else None,
            "device": self.device,
            "precision": self.precision,
            "processes": self.world,
            **asdict(self.cost),
        }


def _by_origin(work: Job) -> list[str]:
    """Which settings are not the default, by where they came from: "lr, steps from flag"."""
    places: dict[str, list[str]] = {}
    for name, origin in work.origins.items():
        if origin != "default":
            places.setdefault(origin, []).append(name)
    return [f"{', '.join(names)} from {origin}" for origin, names in places.items()]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def plan(work: Job, device: str = "auto", world: int = 1, *, force: bool = False) -> Plan:
    """What a job will use, train and cost; loads no weights of the base's denoiser but K/V, and those only to compare.

    Raises BaseError where the concept it goes on from was trained on another base, unless `force`.
    """
    from cdtool.models import pipelines
    from cdtool.priors import choose
    from cdtool.training import estimate as plans

    folder = bases.locate(work.base)
    families.check_trainable(work.base, families.read(folder))
    if work.start is not None:
        begin(work, pipelines.load(work.base, parts=()), force=force)
    where = pipelines.pick_device(device)
    dtype, why = pipelines.pick_dtype(work.settings.precision, where)
    found = [
        choose.gather(work.settings.prior, token, base_folder=folder, style=work.settings.style,
                     count=work.settings.prior_count)
        for token in work.new
    ]  # fmt: skip
    cost = plans.cost(
        folder, work.settings, photos=sum(map(len, work.groups)), priors=sum(one.count for one in found),
        modifiers=sum(token.modifier for token in work.new), device=where, dtype=dtype, world=world,
        earlier=sum(token.modifier for token in work.tokens[: work.earlier]),
        start=read_header(work.start.path)[1] if work.start else {},
    )  # fmt: skip
    precision = f"{str(dtype).removeprefix('torch.')} ({why})"
    told = tuple(text for one in found for text in (one.summary, one.warning) if text)
    drawing = sum(plans.generation_seconds(folder, one.how, where, dtype) for one in pending(work, folder))
    return Plan(work, cost, str(where), precision, world, told, drawing)


def shareable(base: str) -> str:
    """A base's name as it travels with a concept: of a local folder only its last part."""
    return base if bases.is_name(base) else Path(base).resolve().name


def own_base(base: str) -> str:
    """A base's name as it is good on this machine from anywhere: a local folder by its full path."""
    return base if bases.is_name(base) else str(Path(base).expanduser().resolve())


def with_initializers(work: Job, base: Base) -> Job:
    """A job whose modifier tokens each have the word they begin as.

    It is none that a concept of other photos on this base began as; what is trained twice begins alike, to be compared.
    Raises TokenError where the base's vocabulary holds too few words.
    """
    from cdtool.models import initializers

    photos = {photo.sha256 for group in work.groups for photo in group}
    others = [entry.manifest for entry in registry.concepts() if entry.manifest and entry.name != work.name]
    taken = {token.initializer for other in others for token in other.tokens
             if other.base.fingerprint == base.fingerprint and not photos.intersection(other.photos)}  # fmt: skip
    return replace(work, tokens=initializers.assign(base.tokenizers, work.tokens, taken))


def checkpoint_path(name: str) -> Path:
    """Where a training keeps what it needs to go on."""
    return settings.data_dir() / "checkpoints" / f"{name}.pt"


def train(
    work: Job,
    base: Base,
    learned: tuple[ConceptImages, ...],
    *,
    resume: bool = False,
    previews: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
    force: bool = False,
    snapshots: Collection[int] = (),
) -> Iterator[Step]:
    """Train a job and save it as a concept after the last step; yields the steps of `training.fit`.

    Raises what `training.fit` and `registry.save` raise.
    """
    from cdtool.training import loop
    from cdtool.training.processes import ALONE

    families.check_trainable(base.name, families.read(base.folder))
    ranks = ranks or ALONE
    start = begin(work, base, force=force)
    work = with_initializers(work, base)
    checkpoint = checkpoint_path(work.name)
    for step in loop.fit(base, learned, work.tokens, work.settings, checkpoint=checkpoint, resume=resume,
                             previews=previews, stop=stop, ranks=ranks, start=start,
                             snapshots=snapshots):  # fmt: skip
        yield step
        if step.kind == "done" and ranks.rank == 0:
            registry.save(manifest_of(work, base, start), step.tensors, force=force)
            took = {} if resume else {"seconds": round(step.seconds, 1)}
            registry.add_note(work.name, photos=_folders(work), base=own_base(work.base), **took)
            checkpoint.unlink(missing_ok=True)


def manifest_of(work: Job, base: Base, start: Start | None = None) -> Manifest:
    """What is recorded of a concept that a job (`with_initializers`) trains, maybe from `start`."""
    return Manifest(
        name=work.name,
        base=BaseRef(shareable(work.base), base.family.name, base.fingerprint),
        tokens=work.tokens,
        method=_method(work),
        settings=asdict(work.settings),
        photos=tuple(photo.sha256 for group in work.groups for photo in group),
        parents=(_parent(work.start, start.sha256),) if work.start and start else (),
    )


def begin(work: Job, base: Base, *, force: bool = False) -> Start | None:
    """The concept a job goes on from, read, or None.

    Raises BaseError where it was trained on another base, unless `force` and the shapes are equal; ConceptError.
    """
    from cdtool.models import pipelines
    from cdtool.store import concept
    from cdtool.training.trainable import Start

    if work.start is None:
        return None
    pipelines.check_base(work.start, base, force=force)
    digest = hashlib.sha256(work.start.path.read_bytes()).hexdigest()
    return Start(concept.read_tensors(work.start.path), work.earlier, digest)


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


def _method(work: Job) -> str:
    """The method a concept stands for: what learned only a word on top of changed K/V holds those changes too."""
    before = work.start.manifest.method if work.start and work.start.manifest else work.settings.method
    return "kv" if words_only(work.settings.method) and before != work.settings.method else work.settings.method


def _folders(work: Job) -> list[str]:
    """Where the photos of the tokens lie, a folder each; nothing where this machine does not know the earlier ones'."""
    if work.start is None:
        return list(work.folders)
    before = list(registry.note(work.start.name).get("photos", ()))
    return [*before, *work.folders] if len(before) == work.earlier else []
