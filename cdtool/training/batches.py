"""The pictures of each training step, and the bank in which every crop of them is encoded once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cdtool.errors import SettingsError
from cdtool.images import augmentation
from cdtool.models import diffusion
from cdtool.priors import latents
from cdtool.tokens import Prompt, Token, bind

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.settings import TrainSettings
    from cdtool.training.processes import Ranks

MOST_PHOTOS = 1_000_000  # of one subject; keeps the random streams of subjects apart
PRIOR_CROPS = 2  # flipped or not
Opener = Callable[[], "Image.Image"]


class Example(NamedTuple):
    """A captioned picture, opened when it is needed; its hash tells a resumed run from one on other pictures."""

    caption: str
    open: Opener
    digest: str = ""


@dataclass(frozen=True)
class Subject:
    """One concept to learn: its photos and the prior pictures of its class, both with captions."""

    photos: tuple[Example, ...]
    priors: tuple[Example, ...] = ()


class Draw(NamedTuple):
    """One picture of one step: which subject, photo (or prior picture) and crop."""

    sample: int  # its place among all pictures of the step
    prior: bool
    subject: int
    picture: int
    crop: int


def draws(settings: TrainSettings, subjects: Sequence[Subject], step: int) -> list[Draw]:
    """The pictures of a step, a function of (seed, step) alone: targets first, then as many prior pictures.

    Subjects take turns, and each goes through all its pictures in a shuffled order before one comes again.
    """
    with_prior = any(subject.priors for subject in subjects)
    targets = settings.batch // 2 if with_prior else settings.batch
    found = []
    for index in range(settings.batch):
        prior, place = index >= targets, index % targets
        turn = step * targets + place
        subject = turn % len(subjects)
        pool = subjects[subject].priors if prior else subjects[subject].photos
        picture = _shuffled(len(pool), turn // len(subjects), (settings.seed, subject, int(prior)))
        rng = np.random.default_rng((settings.seed, step, index))
        crop = int(rng.integers(PRIOR_CROPS if prior else settings.crops))
        found.append(Draw(index, prior, subject, picture, crop))
    return found


def _shuffled(count: int, turn: int, seed: tuple[int, ...]) -> int:
    order = np.random.default_rng((*seed, turn // count)).permutation(count)
    return int(order[turn % count])


def share(found: Sequence[Draw], ranks: Ranks) -> list[Draw]:
    """The part of a step's pictures this process takes: every world-th target and every world-th prior picture."""
    targets = [draw for draw in found if not draw.prior]
    return targets[ranks.rank :: ranks.world] + [draw for draw in found if draw.prior][ranks.rank :: ranks.world]


class Banked(NamedTuple):
    """A crop encoded once: latent moments [2, c, h, w], loss mask [h, w], and its prompt."""

    moments: Tensor
    mask: Tensor
    prompt: Prompt


Key = tuple[bool, int, int, int]  # prior, subject, picture, crop
Bank = dict[Key, Banked]


def fill_bank(
    base: Base, settings: TrainSettings, subjects: Sequence[Subject], tokens: Sequence[Token], wanted: Sequence[Draw]
) -> Iterator[tuple[int, int, Bank]]:
    """Encode every crop the draws ask for, once each; yields (done, of, bank).

    Prior pictures with a digest are encoded once for all trainings (see `latents`).
    """
    keys = sorted({key_of(draw) for draw in wanted})
    bank: Bank = {}
    for part in (_targets(base, settings, subjects, tokens, keys), _priors(base, settings, subjects, keys)):
        for found in part:
            bank |= found
            yield len(bank), len(keys), bank


def _targets(
    base: Base, settings: TrainSettings, subjects: Sequence[Subject], tokens: Sequence[Token], keys: Sequence[Key]
) -> Iterator[Bank]:
    """The crops of photos, some at a time."""
    size = resolution(base, settings)
    side = size // base.latent_factor
    keys = [key for key in keys if not key[0]]
    opened: dict[tuple[int, int], Image.Image] = {}
    for start in range(0, len(keys), diffusion.LATENT_BATCH):
        group = keys[start : start + diffusion.LATENT_BATCH]
        made = []
        for _, subject, picture, index in group:
            if (subject, picture) not in opened:
                opened = {(subject, picture): subjects[subject].photos[picture].open()}
            image, photo = opened[subject, picture], subject * MOST_PHOTOS + picture
            made.append(
                augmentation.crop(
                    image, size, side, seed=settings.seed, photo=photo, index=index, augment=settings.augment
                )
            )
        encoded = diffusion.moments(base, [crop.pixels for crop in made])
        found = {}
        for key, crop, pair in zip(group, made, encoded, strict=True):
            caption = subjects[key[1]].photos[key[2]].caption
            prompt = bind(augmentation.prefixed(crop.prefix, caption), tokens)
            found[key] = Banked(pair, torch.from_numpy(crop.mask), prompt)
        yield found


def _priors(base: Base, settings: TrainSettings, subjects: Sequence[Subject], keys: Sequence[Key]) -> Iterator[Bank]:
    """The crops of prior pictures, from the kept latents where they are there."""
    keys = [key for key in keys if key[0]]
    if not keys:
        return
    size = resolution(base, settings)
    mask = torch.ones(size // base.latent_factor, size // base.latent_factor, dtype=torch.bool)
    shelf = latents.shelf(base, size)
    for (_, subject, picture), crops_of_one in itertools.groupby(keys, key=lambda key: key[:3]):
        example = subjects[subject].priors[picture]
        once = example._replace(open=functools.cache(example.open))
        for key in crops_of_one:
            pair = _prior_moments(base, shelf, once, size, flipped=bool(key[3]))
            yield {key: Banked(pair, mask, Prompt((example.caption,), frozenset()))}
    latents.trim()


def _prior_moments(base: Base, shelf: latents.Shelf, example: Example, size: int, *, flipped: bool) -> Tensor:
    # One at a time: in a batch the last bits depend on the neighbours, and kept latents could not equal fresh ones.
    kept = shelf.read(example.digest, flipped) if example.digest else None
    if kept is not None:
        return kept
    crop = augmentation.prior_crop(example.open(), size, size // base.latent_factor, flipped=flipped)
    made = diffusion.moments(base, [crop.pixels])[0]
    if example.digest:
        shelf.write(example.digest, flipped, made)
    return made


def key_of(draw: Draw) -> Key:
    """Where a draw's crop lies in the bank."""
    return draw.prior, draw.subject, draw.picture, draw.crop


def resolution(base: Base, settings: TrainSettings) -> int:
    """Side of the training pictures in px, a whole number of the denoiser's coarsest cells.

    Raises SettingsError otherwise.
    """
    size = settings.resolution or base.resolution
    cell = base.latent_factor * 2 ** (len(base.unet_config["block_out_channels"]) - 1)
    if size % cell:
        raise SettingsError(f"--resolution {size} is not a multiple of {cell}.", f"Try {size // cell * cell or cell}.")
    return size
