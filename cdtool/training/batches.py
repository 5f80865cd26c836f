"""The samples of each training step, and the latent cache in which each of their crops is encoded once."""

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
from cdtool.store import families
from cdtool.tokens import Prompt, Token, bind
from cdtool.training import latents

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.settings import TrainSettings
    from cdtool.training.processes import Ranks

MOST_PHOTOS = 1_000_000  # of one concept; keeps the random streams of concepts apart
CLASS_CROPS = 2  # flipped or not
Opener = Callable[[], "Image.Image"]


class Example(NamedTuple):
    """A captioned image, opened when it is needed; its sha256 tells a resumed run from one on other images."""

    caption: str
    open: Opener
    digest: str = ""


@dataclass(frozen=True)
class ConceptImages:
    """What one concept is learned from: its photos and the images of its class, all with captions."""

    photos: tuple[Example, ...]
    class_images: tuple[Example, ...] = ()


class SampleIndex(NamedTuple):
    """Which crop of which image is one sample of a step."""

    position: int  # among all samples of the step
    is_class: bool
    concept: int
    image: int  # among the concept's photos, or its class images
    crop: int


def samples_of(settings: TrainSettings, concepts: Sequence[ConceptImages], step: int) -> list[SampleIndex]:
    """The samples of a step, a function of (seed, step) alone: photos first, then as many class images.

    Concepts take turns, and each goes through all its images in a shuffled order before one is used again. With the
    prior "self" the photos are the class images too; with "text" there are photos alone, half as many as otherwise.
    """
    with_prior = has_class_half(settings, concepts)
    targets = settings.batch // 2 if with_prior or settings.prior == "text" else settings.batch
    samples = []
    for position in range(settings.batch if with_prior else targets):
        is_class = position >= targets
        turn = step * targets + position % targets
        concept = turn % len(concepts)
        pool = concepts[concept].class_images if is_class else concepts[concept].photos
        pool = pool or concepts[concept].photos
        image = _shuffled(len(pool), turn // len(concepts), (settings.seed, concept, int(is_class)))
        rng = np.random.default_rng((settings.seed, step, position))
        crop = int(rng.integers(CLASS_CROPS if is_class and settings.prior != "self" else settings.crops))
        samples.append(SampleIndex(position, is_class, concept, image, crop))
    return samples


def has_class_half(settings: TrainSettings, concepts: Sequence[ConceptImages]) -> bool:
    """Whether half of a step's images keep the class as it was."""
    return settings.prior == "self" or any(concept.class_images for concept in concepts)


def _shuffled(count: int, turn: int, seed: tuple[int, ...]) -> int:
    order = np.random.default_rng((*seed, turn // count)).permutation(count)
    return int(order[turn % count])


def shard(samples: Sequence[SampleIndex], ranks: Ranks) -> list[SampleIndex]:
    """The samples of a step that this process takes: every world-th photo and every world-th class image."""
    photos = [sample for sample in samples if not sample.is_class]
    class_images = [sample for sample in samples if sample.is_class]
    return photos[ranks.rank :: ranks.world] + class_images[ranks.rank :: ranks.world]


# ---------------------------------------------------------------- the latent cache


class CachedCrop(NamedTuple):
    """An encoded crop: latent moments [2, c, h, w], loss mask [h, w], and its prompt."""

    moments: Tensor
    mask: Tensor
    prompt: Prompt


CropKey = tuple[bool, int, int, int]  # is_class, concept, image, crop
CropCache = dict[CropKey, CachedCrop]


def crop_key(sample: SampleIndex, prior: str = "auto") -> CropKey:
    """Where the crop of a sample lies in the cache; with the prior "self" every sample is a photo's."""
    return sample.is_class and prior != "self", sample.concept, sample.image, sample.crop


def encode_crops(
    base: Base, settings: TrainSettings, concepts: Sequence[ConceptImages], tokens: Sequence[Token],
    samples: Sequence[SampleIndex],
) -> Iterator[tuple[int, int, CropCache]]:  # fmt: skip
    """Encode every crop that the samples use, once each; yields (done, of, cache).

    Class images with a digest are encoded once for all trainings (see `latents`).
    """
    keys = sorted({crop_key(sample, settings.prior) for sample in samples})
    cache: CropCache = {}
    for part in (_photo_crops(base, settings, concepts, tokens, keys), _class_crops(base, settings, concepts, keys)):
        for crops in part:
            cache |= crops
            yield len(cache), len(keys), cache


def _photo_crops(
    base: Base, settings: TrainSettings, concepts: Sequence[ConceptImages], tokens: Sequence[Token],
    keys: Sequence[CropKey],
) -> Iterator[CropCache]:  # fmt: skip
    """The crops of photos, some at a time."""
    size = resolution(base, settings)
    side = size // base.latent_factor
    keys = [key for key in keys if not key[0]]
    opened: dict[tuple[int, int], Image.Image] = {}
    together = diffusion.latent_batch(size, size)
    for start in range(0, len(keys), together):
        group = keys[start : start + together]
        crops = []
        for _, concept, number, index in group:
            if (concept, number) not in opened:
                opened = {(concept, number): concepts[concept].photos[number].open()}
            image, photo = opened[concept, number], concept * MOST_PHOTOS + number
            crops.append(
                augmentation.crop(
                    image, size, side, seed=settings.seed, photo=photo, index=index, augment=settings.augment
                )
            )
        encoded = diffusion.moments(base, [crop.pixels for crop in crops])
        cached = {}
        for key, crop, moments in zip(group, crops, encoded, strict=True):
            caption = concepts[key[1]].photos[key[2]].caption
            prompt = bind(augmentation.prefixed(crop.prefix, caption), tokens)
            cached[key] = CachedCrop(moments, torch.from_numpy(crop.mask), prompt)
        yield cached


def _class_crops(
    base: Base, settings: TrainSettings, concepts: Sequence[ConceptImages], keys: Sequence[CropKey]
) -> Iterator[CropCache]:
    """The crops of class images, from the latents on disk where they are there."""
    keys = [key for key in keys if key[0]]
    if not keys:
        return
    size = resolution(base, settings)
    mask = torch.ones(size // base.latent_factor, size // base.latent_factor, dtype=torch.bool)
    on_disk = latents.cache_of(base, size)
    for (_, concept, number), crops_of_one in itertools.groupby(keys, key=lambda key: key[:3]):
        example = concepts[concept].class_images[number]
        once = example._replace(open=functools.cache(example.open))
        for key in crops_of_one:
            moments = _class_moments(base, on_disk, once, size, flipped=bool(key[3]))
            yield {key: CachedCrop(moments, mask, Prompt((example.caption,), frozenset()))}
    latents.trim()


def _class_moments(base: Base, on_disk: latents.LatentCache, example: Example, size: int, *, flipped: bool) -> Tensor:
    # One at a time: in a batch the last bits depend on the neighbours, and stored latents could not equal fresh ones.
    stored = on_disk.read(example.digest, flipped) if example.digest else None
    if stored is not None:
        return stored
    crop = augmentation.class_crop(example.open(), size, size // base.latent_factor, flipped=flipped)
    moments = diffusion.moments(base, [crop.pixels])[0]
    if example.digest:
        on_disk.write(example.digest, flipped, moments)
    return moments


def resolution(base: Base, settings: TrainSettings) -> int:
    """Side of the training images in px, a whole number of the denoiser's coarsest cells.

    Raises SettingsError otherwise.
    """
    size = settings.resolution or base.resolution
    cell = base.latent_factor * families.shrinking(base.unet_config)
    if size % cell:
        raise SettingsError(f"--resolution {size} is not a multiple of {cell}.", f"Try {size // cell * cell or cell}.")
    return size
