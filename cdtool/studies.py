"""Verbs composed: a whole training, from photos over its plan to a saved concept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import catalog, registry, settings
from cdtool.concept import BaseRef, Manifest
from cdtool.errors import UsageError
from cdtool.settings import TrainSettings
from cdtool.tokens import Token, parse_specs

if TYPE_CHECKING:
    from cdtool import photos
    from cdtool.bank import Subject
    from cdtool.base import Base
    from cdtool.plan import Cost
    from cdtool.ranks import Ranks
    from cdtool.training import Step


@dataclass(frozen=True)
class Job:
    """A training as the command line asks for it, checked as far as that goes without torch."""

    name: str
    base: str
    tokens: tuple[Token, ...]
    groups: tuple[tuple[photos.Photo, ...], ...]  # the photos of each token
    skipped: tuple[photos.Skipped, ...]
    settings: TrainSettings  # steps are those of the whole run
    folders: tuple[str, ...]


def job(
    paths: Sequence[Path],
    specs: Sequence[str],
    *,
    name: str | None,
    base: str,
    base_folder: Path,
    flags: Mapping[str, Any],
) -> Job:
    """Check what `train` was given. Raises UsageError, TokenError, SettingsError, PhotoError or InputError."""
    from cdtool import photos

    tokens = parse_specs(specs)
    if not tokens:
        raise UsageError("What the photos show has no name yet.", 'Give it one: --token "V* dog".')
    if len(tokens) > 1 and len(tokens) != len(paths):
        raise UsageError(f"{len(tokens)} tokens need as many folders, not {len(paths)}.", "Give a folder per --token.")
    chosen, _ = settings.resolve(TrainSettings, flags, base_folder)
    steps = chosen.steps * len(tokens)
    if chosen.prior == "none" and flags.get("steps") is None:
        steps = max(1, steps // 2)  # as the paper: every picture of a step is then a target
    groups = [paths] if len(tokens) == 1 else [[path] for path in paths]
    found = [photos.find(group, resolution=chosen.resolution) for group in groups]
    own = name or "-".join(registry.slug(token.noun) for token in tokens)
    registry.check_name(own)
    return Job(
        name=own,
        base=base,
        tokens=tokens,
        groups=tuple(tuple(usable) for usable, _ in found),
        skipped=tuple(item for _, skipped in found for item in skipped),
        settings=replace(chosen, steps=steps),
        folders=tuple(str(path.resolve()) for path in paths),
    )


def subjects(work: Job, base: Base) -> tuple[tuple[Subject, ...], list[tuple[str, str]]]:
    """What there is to learn, with captions and prior pictures, and (summary, warning or "") of each prior set."""
    import functools

    from cdtool import photos, prior
    from cdtool.bank import Example, Subject

    made, told = [], []
    for place, (token, group) in enumerate(zip(work.tokens, work.groups, strict=True)):
        at = place if len(work.tokens) > 1 else None
        targets = tuple(
            Example(photos.caption_for(token, at, work.settings.style, photo), functools.partial(photos.read, photo),
                    photo.sha256)
            for photo in group
        )  # fmt: skip
        found = prior.gather(work.settings.prior, token, base_folder=base.folder, style=work.settings.style,
                             count=work.settings.prior_count)  # fmt: skip
        told.append((found.summary, found.warning))
        made.append(Subject(targets, tuple(Example(picture.caption, picture.load) for picture in found.pictures)))
    return tuple(made), told


@dataclass(frozen=True)
class Plan:
    """What a training would do and cost."""

    work: Job
    cost: Cost
    device: str
    precision: str
    world: int
    priors: tuple[str, ...]

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
            "trained": f"{cost.numbers:,} numbers in {cost.matrices} matrices, and {cost.rows} rows",
            "steps": f"{chosen.steps} of {chosen.batch} pictures ({targets} targets) "
            f"in {chosen.accumulate} passes{shared}",
            "precision": f"{self.precision} on {self.device}",
            "latent bank": f"{cost.crops} crops, {cost.bank_bytes / 1e6:.1f} MB",
            "time": f"about {_minutes(cost.seconds)} after loading and encoding",
            "memory": f"about {cost.memory / 1e9:.1f} GB",
        }
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
            "settings": asdict(work.settings),
            "device": self.device,
            "precision": self.precision,
            "processes": self.world,
            **asdict(self.cost),
        }


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def plan(work: Job, device: str = "auto", world: int = 1) -> Plan:
    """What a job will use, train and cost; loads no weights of the base's denoiser."""
    from cdtool import base as bases
    from cdtool import plan as plans
    from cdtool import prior

    folder = catalog.locate(work.base)
    where = bases.pick_device(device)
    dtype, why = bases.pick_dtype(work.settings.precision, where)
    found = [
        prior.gather(work.settings.prior, token, base_folder=folder, style=work.settings.style,
                     count=work.settings.prior_count)
        for token in work.tokens
    ]  # fmt: skip
    cost = plans.cost(
        folder, work.settings, photos=sum(map(len, work.groups)), priors=sum(len(one.pictures) for one in found),
        modifiers=sum(token.modifier for token in work.tokens), device=where, dtype=dtype, world=world,
    )  # fmt: skip
    precision = f"{str(dtype).removeprefix('torch.')} ({why})"
    told = tuple(text for one in found for text in (one.summary, one.warning) if text)
    return Plan(work, cost, str(where), precision, world, told)


def shareable(base: str) -> str:
    """A base's name as it travels with a concept: of a local folder only its last part."""
    return base if catalog.is_name(base) else Path(base).resolve().name


def own_base(base: str) -> str:
    """A base's name as it is good on this machine from anywhere: a local folder by its full path."""
    return base if catalog.is_name(base) else str(Path(base).expanduser().resolve())


def checkpoint_path(name: str) -> Path:
    """Where a training keeps what it needs to go on."""
    return settings.data_dir() / "checkpoints" / f"{name}.pt"


def train(
    work: Job,
    base: Base,
    learned: tuple[Subject, ...],
    *,
    resume: bool = False,
    previews: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
    force: bool = False,
) -> Iterator[Step]:
    """Train a job and save it as a concept after the last step; yields the steps of `training.fit`.

    Raises what `training.fit` and `registry.save` raise.
    """
    from cdtool import text, training
    from cdtool.ranks import ALONE

    ranks = ranks or ALONE
    tokens = text.initialised(base.tokenizers, work.tokens)
    checkpoint = checkpoint_path(work.name)
    for step in training.fit(base, learned, tokens, work.settings, checkpoint=checkpoint, resume=resume,
                             previews=previews, stop=stop, ranks=ranks):  # fmt: skip
        yield step
        if step.kind == "done" and ranks.rank == 0:
            manifest = Manifest(
                name=work.name,
                base=BaseRef(shareable(work.base), base.family.name, base.fingerprint),
                tokens=tokens,
                method=work.settings.method,
                settings=asdict(work.settings),
                photos=tuple(photo.sha256 for group in work.groups for photo in group),
            )
            registry.save(manifest, step.tensors, force=force)
            registry.add_note(work.name, photos=list(work.folders), base=own_base(work.base))
            checkpoint.unlink(missing_ok=True)
