"""Sampling: prompts and concepts to images, each from its own seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image

from cdtool.errors import SettingsError, TokenError
from cdtool.models import adapter, diffusion, text
from cdtool.models.pipelines import check_base
from cdtool.sampling import routing
from cdtool.settings import SampleSettings, parse_size
from cdtool.store import concept
from cdtool.store.subject import beyond_words, tokens_of
from cdtool.tokens import Prompt, bind_weighted, capitalised

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.models.text import Conditioning
    from cdtool.store.registry import Concept
    from cdtool.tokens import Token

_EMPTY = Prompt((), frozenset())


class Generated(NamedTuple):
    """A finished image, its prompt and its seed."""

    image: Image.Image
    prompt: str
    seed: int


def check_prompts(
    prompts: Sequence[str], tokens: Sequence[Token], base: Base | None = None, *, joined: bool = False
) -> list[str]:
    """Warnings about prompts that name no token, not all of several joined concepts, or are too long to be read.

    Raises TokenError for a modifier token that no concept has, and for an empty list.
    """
    if not prompts:
        raise TokenError("There is no prompt.", 'Like: cdtool sample dog "V* dog on the beach".')
    warnings = []
    words = [f'"{token.words(place + 1 if len(tokens) > 1 else None)}"' for place, token in enumerate(tokens)]
    for prompt in prompts:
        bound = bind_weighted(prompt, tokens)
        if tokens and not bound.named:
            meant = f' Is "{capitalised(prompt)}" meant?' if capitalised(prompt) else ""
            warnings.append(f'"{prompt}" names no token of the concept; it holds {" or ".join(words)}.{meant}')
        elif joined and len(bound.named) < len(tokens):
            unnamed = " and ".join(word for place, word in enumerate(words) if place not in bound.named)
            warnings.append(f'"{prompt}" does not name {unnamed}, which will not show.')
        if base is not None and (parts := len(text.split(base, bound, tokens))) > 1:
            warnings.append(f'"{prompt}" is longer than the base reads at once; it is read in {parts} parts.')
    return warnings


def image_size(base: Base, settings: SampleSettings) -> tuple[int, int]:
    """(width, height) in px of the images. Raises SettingsError for a size the base cannot make."""
    size = parse_size(settings.size) if settings.size else (base.resolution, base.resolution)
    cell = base.latent_factor * 2 ** (len(base.unet_config["block_out_channels"]) - 1)
    if any(side % cell for side in size):
        raise SettingsError(f"--size {size[0]}x{size[1]}: both sides must be multiples of {cell} here.")
    return size


def generate(
    base: Base,
    concepts: Sequence[Concept],
    prompts: Sequence[str],
    settings: SampleSettings,
    *,
    weights: Sequence[float] = (),
    force: bool = False,
) -> Iterator[Generated]:
    """Generate `settings.count` images per prompt, seeds counting up from `settings.seed` for every prompt.

    `concepts` holds the concept, several that act together word by word (routing.py), or nothing for the bare base;
    `weights` scale their changes, 1 each unless given. An image depends on its own seed alone, not on its batch.

    Raises BaseError for a concept of another base, ConceptError for concepts that cannot be joined.
    """
    sampler = _sampler(base, concepts, weights or [1.0] * len(concepts), force=force)
    jobs = [(prompt, settings.seed + number) for prompt in prompts for number in range(settings.count)]
    without = sampler.split(settings.negative)
    parts = {prompt: sampler.split(prompt) for prompt in dict.fromkeys(prompts)}
    lengths = {prompt: max(len(own), len(without)) for prompt, own in parts.items()}
    texts = {prompt: sampler.encode(own, lengths[prompt]) for prompt, own in parts.items()}
    negatives = {length: sampler.encode(without, length) for length in set(lengths.values())}
    if not settings.negative:
        negatives = {length: replace(negative, condition=text.unconditional(base, negative.condition))
                     for length, negative in negatives.items()}  # fmt: skip
    with adapter.override_parameters(base.unet, sampler.parameters):
        for length, batch in _batches(jobs, lengths, settings.batch):
            images = _batch(sampler, [texts[prompt] for prompt, _ in batch], negatives[length],
                            [seed for _, seed in batch], settings)  # fmt: skip
            for (prompt, seed), image in zip(batch, images, strict=True):
                yield Generated(image, prompt, seed)


def _batches(
    jobs: Sequence[tuple[str, int]], lengths: Mapping[str, int], size: int
) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    """Jobs in batches whose prompts have equally many parts, with that number."""
    for length, group in itertools.groupby(jobs, key=lambda job: lengths[job[0]]):
        every = list(group)
        for start in range(0, len(every), size):
            yield length, every[start : start + size]


@dataclass(frozen=True)
class _Encoded:
    """An encoded prompt, and each concept's share [1, l, N] of every text position."""

    condition: Conditioning
    share: Tensor


@dataclass(frozen=True)
class _Sampler:
    """A base, and the concepts that act on it together."""

    base: Base
    concepts: tuple[adapter.ConceptWeights, ...]
    tokens: tuple[Token, ...]
    owners: tuple[int, ...]  # the concept of each token
    parameters: dict[str, Tensor]  # what a concept changes beyond K/V

    def split(self, prompt: str) -> list[Prompt]:
        """A prompt in parts that the text encoders read at once."""
        return text.split(self.base, bind_weighted(prompt, self.tokens), self.tokens)

    def encode(self, parts: Sequence[Prompt], length: int) -> _Encoded:
        """The parts of a prompt with the concepts' token embeddings in place, filled up with empty ones to `length`.

        Their features follow one another, [1, length l, d]; the pooled text is the first part's.
        """
        parts = [*parts, *[_EMPTY] * (length - len(parts))]
        embeddings = routing.embeddings(self.concepts) if self.concepts else ((),) * len(self.base.text_encoders)
        tokenized = [text.tokenize(self.base, part, self.tokens) for part in parts]
        encoded = adapter.encode(self.base, adapter.ConceptWeights(embeddings=embeddings), tokenized)
        encoded = text.emphasised(self.base, encoded, parts)
        features = encoded.features.reshape(1, -1, encoded.features.shape[-1])
        shares = [routing.shares(self.base, part, self.tokens, self.owners) for part in parts]
        return _Encoded(replace(encoded[:1], features=features), torch.cat(shares)[None])

    def keys_and_values(self, features: Tensor, share: Tensor) -> dict[str, Tensor]:
        """K/V of prompts. One concept changes the whole prompt, as it was trained; several change their own words."""
        if len(self.concepts) > 1:
            return routing.keys_and_values(self.base, self.concepts, share, features)
        return adapter.keys_and_values(self.base, (*self.concepts, adapter.ConceptWeights())[0], features)


def _sampler(base: Base, concepts: Sequence[Concept], weights: Sequence[float], *, force: bool) -> _Sampler:
    loaded = []
    for entry, weight in zip(concepts, weights, strict=True):
        check_base(entry, base, force=force)
        weights_ = adapter.load_weights(base, tokens_of([entry]), concept.read_tensors(entry.path))
        if weights_.others and len(concepts) > 1:
            raise beyond_words(entry)
        loaded.append(routing.weighted(weights_, weight))
    owners = [index for index, entry in enumerate(concepts) for _ in tokens_of([entry])]
    parameters = adapter.changed_parameters(base, loaded[0]) if loaded else {}
    return _Sampler(base, tuple(loaded), tokens_of(concepts), tuple(owners), parameters)


def _batch(
    sampler: _Sampler, prompts: Sequence[_Encoded], negative: _Encoded, seeds: Sequence[int], settings: SampleSettings
) -> list[Image.Image]:
    base = sampler.base
    negatives = [negative] * len(prompts)
    condition, unconditional = (text.join([one.condition for one in part]) for part in (prompts, negatives))
    every = [*negatives, *prompts] if settings.guidance != 1 else prompts
    features = text.join([one.condition for one in every]).features
    with adapter.precomputed_kv(base) as set_values, torch.no_grad():
        set_values(sampler.keys_and_values(features, torch.cat([one.share for one in every])))
        *_, z = diffusion.denoise(
            base, diffusion.scheduler(base, settings.scheduler), condition, unconditional,
            seeds=seeds, steps=settings.steps, guidance=settings.guidance, eta=settings.eta,
            size=image_size(base, settings),
        )  # fmt: skip
    return [Image.fromarray(pixels) for pixels in diffusion.decode(base, z)]
