"""Verbs composed: a whole training from photos to a saved concept, measuring one, and the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import photos, registry, settings
from cdtool.concept import BaseRef, Manifest
from cdtool.errors import UsageError
from cdtool.settings import TrainSettings
from cdtool.tokens import Token, parse_specs

if TYPE_CHECKING:
    from cdtool.bank import Ranks, Subject
    from cdtool.base import Base
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


def subjects(work: Job, base: Base) -> tuple[tuple[Subject, ...], list[str]]:
    """What there is to learn, with captions and prior pictures, and a sentence on each prior set."""
    import functools

    from cdtool import prior
    from cdtool.bank import Example, Subject

    made, told = [], []
    for place, (token, group) in enumerate(zip(work.tokens, work.groups, strict=True)):
        at = place if len(work.tokens) > 1 else None
        targets = tuple(
            Example(photos.caption_for(token, at, work.settings.style, photo), functools.partial(photos.read, photo))
            for photo in group
        )
        found = prior.gather(work.settings.prior, token, base_folder=base.folder, style=work.settings.style,
                             count=work.settings.prior_count)  # fmt: skip
        told += [found.summary] + ([f"Warning: {found.warning}"] if found.warning else [])
        made.append(Subject(targets, tuple(Example(picture.caption, picture.load) for picture in found.pictures)))
    return tuple(made), told


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
    from cdtool.bank import ALONE

    ranks = ranks or ALONE
    tokens = text.initialised(base.tokenizers, work.tokens)
    checkpoint = checkpoint_path(work.name)
    for step in training.fit(base, learned, tokens, work.settings, checkpoint=checkpoint, resume=resume,
                             previews=previews, stop=stop, ranks=ranks):  # fmt: skip
        yield step
        if step.kind == "done" and ranks.rank == 0:
            manifest = Manifest(
                name=work.name,
                base=BaseRef(work.base, base.family.name, base.fingerprint),
                tokens=tokens,
                method=work.settings.method,
                settings=asdict(work.settings),
                photos=tuple(photo.sha256 for group in work.groups for photo in group),
            )
            registry.save(manifest, step.tensors, force=force)
            registry.add_note(work.name, photos=list(work.folders))
            checkpoint.unlink(missing_ok=True)
