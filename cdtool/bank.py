"""The pictures of each training step, and the bank in which every crop of them is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cdtool import crops, diffusion
from cdtool.errors import SettingsError
from cdtool.tokens import Prompt, Token, bind

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from cdtool.base import Base
    from cdtool.ranks import Ranks
    from cdtool.settings import TrainSettings

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


Bank = dict[tuple[bool, int, int, int], Banked]


def fill_bank(
    base: Base, settings: TrainSettings, subjects: Sequence[Subject], tokens: Sequence[Token], wanted: Sequence[Draw]
) -> Iterator[tuple[int, int, Bank]]:
    """Encode every crop the draws ask for, once each; yields (done, of, bank)."""
    keys = sorted({key_of(draw) for draw in wanted})
    size = resolution(base, settings)
    side = size // base.latent_factor
    bank: Bank = {}
    opened: dict[tuple[bool, int, int], Image.Image] = {}
    for start in range(0, len(keys), diffusion.LATENT_BATCH):
        group = keys[start : start + diffusion.LATENT_BATCH]
        made = []
        for prior, subject, picture, index in group:
            example = (subjects[subject].priors if prior else subjects[subject].photos)[picture]
            if (prior, subject, picture) not in opened:
                opened = {(prior, subject, picture): example.open()}
            image, photo = opened[prior, subject, picture], subject * MOST_PHOTOS + picture
            if prior:
                made.append(crops.prior_crop(image, size, side, flipped=bool(index)))
            else:
                made.append(crops.crop(image, size, side, seed=settings.seed, photo=photo, index=index,
                                       augment=settings.augment))  # fmt: skip
        encoded = diffusion.moments(base, [crop.pixels for crop in made])
        for key, crop, pair in zip(group, made, encoded, strict=True):
            caption = (subjects[key[1]].priors if key[0] else subjects[key[1]].photos)[key[2]].caption
            prompt = Prompt((caption,), frozenset()) if key[0] else bind(crops.prefixed(crop.prefix, caption), tokens)
            bank[key] = Banked(pair, torch.from_numpy(crop.mask), prompt)
        yield len(bank), len(keys), bank


def key_of(draw: Draw) -> tuple[bool, int, int, int]:
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
