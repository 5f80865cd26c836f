"""Sampling: prompts and concepts to images, each from its own seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image

from cdtool.errors import SettingsError
from cdtool.models import adapter, diffusion, text
from cdtool.models.pipelines import check_base
from cdtool.sampling import routing
from cdtool.settings import SampleSettings, parse_size
from cdtool.store import concept
from cdtool.store.subject import beyond_words, tokens_of
from cdtool.tokens import Prompt, bind

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.models.text import Conditioning
    from cdtool.store.registry import Concept
    from cdtool.tokens import Token


class Generated(NamedTuple):
    """A finished image, its prompt and its seed."""

    image: Image.Image
    prompt: str
    seed: int


@dataclass(frozen=True)
class Step:
    """One denoising step of a batch, and the images finished by it: none but at a batch's last step."""

    done: int  # denoising steps of images so far
    total: int
    images: tuple[Generated, ...] = ()


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
    prompts: Sequence[str | Prompt],
    settings: SampleSettings,
    *,
    weights: Sequence[float] = (),
    force: bool = False,
) -> Iterator[Generated]:
    """The images of `sampler` and `steps`, one by one."""
    loaded = sampler(base, concepts, weights, force=force)
    bound = [bind(prompt, loaded.tokens) if isinstance(prompt, str) else prompt for prompt in prompts]
    for step in steps(loaded, [loaded.encode(prompt) for prompt in bound], settings):
        yield from step.images


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the denoiser gets it: its text features, and each concept's share [1, l, N] of every position."""

    text: str
    condition: Conditioning
    share: Tensor
    truncated: bool  # it was longer than the base reads


@dataclass(frozen=True)
class Sampler:
    """A base, and the concepts that act on it together."""

    base: Base
    concepts: tuple[adapter.ConceptWeights, ...]
    tokens: tuple[Token, ...]
    owners: tuple[int, ...]  # the concept of each token
    parameters: dict[str, Tensor]  # what a concept changes beyond K/V

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """A prompt with the concepts' token embeddings in place."""
        embeddings = routing.embeddings(self.concepts) if self.concepts else ((),) * len(self.base.text_encoders)
        tokenized = text.tokenize(self.base, prompt, self.tokens)
        condition = adapter.encode(self.base, adapter.ConceptWeights(embeddings=embeddings), [tokenized])
        share = torch.zeros(1, condition.features.shape[1], 0)
        if len(self.concepts) > 1:
            share = routing.shares(self.base, prompt, self.tokens, self.owners)[None]
        return EncodedPrompt(prompt.text, condition, share, tokenized.truncated)

    def negative(self, prompt: str) -> EncodedPrompt:
        """A negative prompt; where it is empty, what the base was trained with in its place."""
        encoded = self.encode(Prompt((prompt,)))
        return encoded if prompt else replace(encoded, condition=text.unconditional(self.base, encoded.condition))

    def keys_and_values(self, features: Tensor, share: Tensor) -> dict[str, Tensor]:
        """K/V of prompts. One concept changes the whole prompt, as it was trained; several change their own words."""
        if len(self.concepts) > 1:
            return routing.keys_and_values(self.base, self.concepts, share, features)
        return adapter.keys_and_values(self.base, (*self.concepts, adapter.ConceptWeights())[0], features)


def sampler(base: Base, concepts: Sequence[Concept], weights: Sequence[float] = (), *, force: bool = False) -> Sampler:
    """Load one concept, several that act together word by word (routing.py), or none, which is the bare base.

    `weights` scale their changes, 1 each unless given. Raises BaseError for a concept of another base unless `force`,
    ConceptError for concepts that cannot be joined or do not fit the base.
    """
    loaded = []
    for entry, weight in zip(concepts, weights or [1.0] * len(concepts), strict=True):
        check_base(entry, base, force=force)
        own = adapter.load_weights(base, tokens_of([entry]), concept.read_tensors(entry.path))
        if own.others and len(concepts) > 1:
            raise beyond_words(entry)
        loaded.append(routing.weighted(own, weight))
    owners = [index for index, entry in enumerate(concepts) for _ in tokens_of([entry])]
    parameters = adapter.changed_parameters(base, loaded[0]) if loaded else {}
    return Sampler(base, tuple(loaded), tokens_of(concepts), tuple(owners), parameters)


def steps(sampler: Sampler, prompts: Sequence[EncodedPrompt], settings: SampleSettings) -> Iterator[Step]:
    """Sample `settings.count` images per prompt, seeds counting up from `settings.seed` for every prompt.

    An image depends on its own seed alone, not on its batch. Raises SettingsError for an impossible size.
    """
    jobs = [(prompt, settings.seed + number) for prompt in prompts for number in range(settings.count)]
    negative, total = sampler.negative(settings.negative), len(jobs) * settings.steps
    with adapter.override_parameters(sampler.base.unet, sampler.parameters):
        for start in range(0, len(jobs), settings.batch):
            batch = jobs[start : start + settings.batch]
            for number, latents in enumerate(_denoise(sampler, batch, negative, settings), 1):  # noqa: B007 the last
                if number < settings.steps:
                    yield Step(start * settings.steps + number * len(batch), total)
            images = [Image.fromarray(pixels) for pixels in diffusion.decode(sampler.base, latents)]
            made = [Generated(image, prompt.text, seed) for (prompt, seed), image in zip(batch, images, strict=True)]
            yield Step((start + len(batch)) * settings.steps, total, tuple(made))


@torch.no_grad()
def _denoise(
    sampler: Sampler, batch: Sequence[tuple[EncodedPrompt, int]], negative: EncodedPrompt, settings: SampleSettings
) -> Iterator[Tensor]:
    """The latents of a batch after every denoising step, with the concepts' keys and values in place meanwhile."""
    base, prompts = sampler.base, [prompt for prompt, _ in batch]
    negatives = [negative] * len(prompts)
    condition, unconditional = (text.join([one.condition for one in part]) for part in (prompts, negatives))
    every = [*negatives, *prompts] if settings.guidance != 1 else prompts
    features = text.join([one.condition for one in every]).features
    with adapter.precomputed_kv(base) as set_values:
        set_values(sampler.keys_and_values(features, torch.cat([one.share for one in every])))
        yield from diffusion.denoise(
            base, diffusion.scheduler(base, settings.scheduler), condition, unconditional,
            seeds=[seed for _, seed in batch], steps=settings.steps, guidance=settings.guidance, eta=settings.eta,
            size=image_size(base, settings),
        )  # fmt: skip
