"""Sampling: prompts and concepts to images, each from its own seed."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from cdtool.errors import BaseError, PhotoError, ResourceError, SettingsError, is_out_of_memory
from cdtool.images.pictures import decode
from cdtool.models import adapter, diffusion, pipelines, text
from cdtool.models.pipelines import check_base
from cdtool.sampling import routing
from cdtool.settings import SampleSettings, guided, parse_size
from cdtool.store import concept, families
from cdtool.store.subject import beyond_words, tokens_of
from cdtool.tokens import Prompt, bind_weighted, counted

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.models.text import Conditioning
    from cdtool.sampling.records import InitImage
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
    warnings: tuple[str, ...] = ()


def image_size(base: Base, settings: SampleSettings) -> tuple[int, int]:
    """(width, height) in px of the images. Raises SettingsError for a size the base cannot make."""
    size = parse_size(settings.size) if settings.size else (base.resolution, base.resolution)
    cell = base.latent_factor * families.shrinking(base.unet_config)
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
    """The images of `steps`, one by one."""
    for step in steps(base, concepts, prompts, settings, weights=weights, force=force):
        yield from step.images


def steps(
    base: Base,
    concepts: Sequence[Concept],
    prompts: Sequence[str | Prompt],
    settings: SampleSettings,
    *,
    weights: Sequence[float] = (),
    force: bool = False,
    skip: Collection[tuple[str, int]] = (),
    init: InitImage | None = None,
) -> Iterator[Step]:
    """Sample `settings.count` images per prompt, seeds counting up from `settings.seed` for every prompt.

    An image depends on its own seed alone, not on its batch. The first step comes before any work and has the warnings.

    concepts: one, several that act together word by word, or none, which is the bare base.
    prompts: as text, or bound to the concepts' tokens.
    weights: scale the concepts' changes; 1 each unless given.
    force: let concepts of another base pass.
    skip: prompts and seeds of images that are not wanted.
    init: an image to begin with in place of noise alone.

    Raises what `sampler` raises, TokenError for a prompt that does not fit, SettingsError for an impossible size.
    """
    tokens = tokens_of(concepts)
    bound = [bind_weighted(prompt, tokens) if isinstance(prompt, str) else prompt for prompt in prompts]
    every = [*bound, bind_weighted(settings.negative, tokens)]
    loaded = sampler(base, concepts, weights, prompts=every, force=force)
    encoded = [loaded.encode(prompt) for prompt in bound]
    long = tuple(f'"{one.text}" is longer than the base reads at once; it is read in {one.parts} parts.'
                 for one in encoded if one.parts > 1)  # fmt: skip
    seeds = range(settings.seed, settings.seed + settings.count)
    jobs = [(prompt, seed) for prompt in encoded for seed in seeds if (prompt.text, seed) not in skip]
    begin = _encoded(base, init, settings) if init else None
    yield Step(0, len(jobs) * (begin.steps(settings.steps) if begin else settings.steps), warnings=long)
    yield from _steps(loaded, jobs, settings, begin)


def _encoded(base: Base, init: InitImage, settings: SampleSettings) -> diffusion.Init:
    """An image as latents, cut to the size of the images. Raises PhotoError, BaseError for an inpainting base."""
    if base.inpainting:
        raise BaseError(f"{base.name} is for inpainting; it cannot begin with an image.", "Leave --init-image out.")
    try:
        with init.path.open("rb") as file:
            image = ImageOps.fit(decode(file)[0], image_size(base, settings), Image.Resampling.LANCZOS)
    except OSError as error:
        raise PhotoError(f"{init.path} cannot be read: {error.strerror or error}.") from None
    return diffusion.Init(diffusion.moments(base, [np.asarray(image)])[:, 0], init.strength)


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the denoiser gets it: its text features, and each concept's share [1, l, N] of every position."""

    text: str
    condition: Conditioning
    share: Tensor
    parts: int  # as many as the text encoders read one after the other


@dataclass(frozen=True)
class Sampler:
    """A base, and the concepts that act on it together."""

    base: Base
    concepts: tuple[adapter.ConceptWeights, ...]
    tokens: tuple[Token, ...]
    owners: tuple[int, ...]  # the concept of each token
    parameters: dict[str, Tensor]  # what a concept changes beyond K/V

    @property
    def is_routed(self) -> bool:
        """Whether text positions differ in what they take: of several concepts, or of one that keeps to its words."""
        return len(self.concepts) > 1 or any(one.reach == "own words" for one in self.concepts)

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """A prompt with the concepts' token embeddings in place.

        The features of the parts of a long one follow one another [1, parts l, d]; the pooled text is the first's.
        """
        embeddings = routing.embeddings(self.concepts) if self.concepts else ((),) * len(self.base.family.encoders)
        parts = text.split(self.base, prompt, self.tokens)
        tokenized = [text.tokenize(self.base, part, self.tokens) for part in parts]
        encoded = adapter.encode(self.base, adapter.ConceptWeights(embeddings=embeddings), tokenized)
        features = text.emphasised(self.base, encoded, parts).features.flatten(0, 1)[None]
        share = torch.zeros(1, features.shape[1], 0)
        if self.is_routed:
            reach = [one.reach for one in self.concepts]
            rows = [routing.shares(self.base, part, self.tokens, self.owners, reach) for part in parts]
            share = torch.cat(rows)[None]
        return EncodedPrompt(prompt.text, replace(encoded[:1], features=features), share, len(parts))

    def filled(self, prompt: EncodedPrompt, parts: int) -> EncodedPrompt:
        """A prompt with empty parts behind it, `parts` in all."""
        if prompt.parts == parts:
            return prompt
        empty = [self.encode(Prompt(()))] * (parts - prompt.parts)
        features = torch.cat([one.condition.features for one in (prompt, *empty)], dim=1)
        share = torch.cat([one.share for one in (prompt, *empty)], dim=1)
        return replace(prompt, condition=replace(prompt.condition, features=features), share=share, parts=parts)

    def negative(self, prompt: str, parts: int = 1) -> EncodedPrompt:
        """A negative prompt of at least `parts`; where it is empty, what the base was trained with in its place."""
        encoded = self.encode(bind_weighted(prompt, self.tokens))
        encoded = self.filled(encoded, max(parts, encoded.parts))
        return encoded if prompt else replace(encoded, condition=text.unconditional(self.base, encoded.condition))

    def keys_and_values(self, features: Tensor, share: Tensor) -> dict[str, Tensor]:
        """K/V of prompts. One concept changes the whole prompt, as it was trained; several change their own words."""
        if self.is_routed:
            return routing.keys_and_values(self.base, self.concepts, share, features)
        return adapter.keys_and_values(self.base, (*self.concepts, adapter.ConceptWeights())[0], features)


def sampler(
    base: Base,
    concepts: Sequence[Concept],
    weights: Sequence[float] = (),
    *,
    prompts: Sequence[Prompt] | None = None,
    force: bool = False,
) -> Sampler:
    """Load one concept, several that act together word by word (routing.py), or none, which is the bare base.

    Args:
        base: the base they were trained on.
        concepts: in the order that numbers their tokens.
        weights: of their changes, 1 each unless given.
        prompts: all that will be sampled; of several concepts those that none of them names are not loaded.
        force: let another base of equal shapes pass.

    Raises BaseError for a concept of another base unless `force`, ConceptError for concepts that cannot be joined or
    do not fit the base.
    """
    loaded = []
    idle = _unnamed(concepts, prompts) if prompts is not None and len(concepts) > 1 else set()
    for index, (entry, weight) in enumerate(zip(concepts, weights or [1.0] * len(concepts), strict=True)):
        check_base(entry, base, force=force)
        if index in idle:
            rows = tuple(torch.empty(0) for _ in tokens_of([entry]))
            loaded.append(adapter.ConceptWeights(embeddings=(rows,) * len(base.family.encoders)))
            continue
        own = adapter.load_weights(base, tokens_of([entry]), concept.read_tensors(entry.path))
        if own.others and len(concepts) > 1:
            raise beyond_words(entry)
        manifest = entry.manifest
        own = replace(own, reach=concept.reach(manifest) if manifest else "prompt")
        loaded.append(routing.weighted(own, weight))
    owners = [index for index, entry in enumerate(concepts) for _ in tokens_of([entry])]
    parameters = adapter.changed_parameters(base, loaded[0]) if loaded else {}
    return Sampler(base, tuple(loaded), tokens_of(concepts), tuple(owners), parameters)


def _unnamed(concepts: Sequence[Concept], prompts: Sequence[Prompt]) -> set[int]:
    """The concepts that no prompt names and that do not act on every prompt."""
    named = {token for prompt in prompts for token in prompt.named}
    idle, first = set(), 0
    for index, entry in enumerate(concepts):
        tokens = tokens_of([entry])
        if not named & set(range(first, first + len(tokens))) and not all(token.erased for token in tokens):
            idle.add(index)
        first += len(tokens)
    return idle


def _steps(
    sampler: Sampler,
    jobs: Sequence[tuple[EncodedPrompt, int]],
    settings: SampleSettings,
    init: diffusion.Init | None = None,
) -> Iterator[Step]:
    """Sample prompts with their seeds, in batches."""
    unwanted = settings.negative if guided(settings.guidance) else ""  # not read without guidance, so of no length
    shortest = sampler.negative(unwanted).parts
    jobs = [(sampler.filled(prompt, max(prompt.parts, shortest)), seed) for prompt, seed in jobs]
    negatives = {parts: sampler.negative(unwanted, parts) for parts in {prompt.parts for prompt, _ in jobs}}
    each = init.steps(settings.steps) if init else settings.steps
    done = 0
    pipelines.done(sampler.base, "text")
    waiting = list(_batches(jobs, settings.batch))
    while waiting:
        batch = waiting.pop(0)
        negative = negatives[batch[0][0].parts]
        if (yield from _finished(sampler, batch, negative, settings, init, done=done, count=len(jobs))):
            done += len(batch)
            continue
        half = -(-len(batch) // 2)
        waiting = list(_batches([job for group in (batch, *waiting) for job in group], half))
        pipelines.release_memory(sampler.base.device)
        yield Step(done * each, len(jobs) * each,
                   warnings=(f"Memory ran out; from here on {counted(half, 'image')} at once.",))  # fmt: skip


def _finished(
    sampler: Sampler, batch: Sequence[tuple[EncodedPrompt, int]], negative: EncodedPrompt, settings: SampleSettings,
    init: diffusion.Init | None, *, done: int, count: int,
) -> Generator[Step, None, bool]:  # fmt: skip
    """Sample a batch behind `done` of `count` images; False where memory ran out and a smaller one may fit.

    Raises ResourceError where a single image does not fit.
    """
    each = init.steps(settings.steps) if init else settings.steps
    total = count * each
    try:
        for number, latents in enumerate(_denoise(sampler, batch, negative, settings, init), 1):  # noqa: B007 the last
            if number < each:
                yield Step(done * each + number * len(batch), total)
        if sampler.base.offload:
            pipelines.free(sampler.base, "unet")
        images = [Image.fromarray(pixels) for pixels in diffusion.decode(sampler.base, latents)]
        if sampler.base.offload:
            pipelines.free(sampler.base, "vae")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            hint = "Free some memory" + (", or try --precision bf16." if sampler.base.dtype == torch.float32 else ".")
            raise ResourceError("There is not enough memory to sample a single image at a time.", hint) from None
        return False
    made = [Generated(image, prompt.text, seed) for (prompt, seed), image in zip(batch, images, strict=True)]
    yield Step((done + len(batch)) * each, total, tuple(made))
    return True


def _batches(jobs: Sequence[tuple[EncodedPrompt, int]], size: int) -> Iterator[list[tuple[EncodedPrompt, int]]]:
    """Jobs in batches whose prompts have equally many parts."""
    for _, group in itertools.groupby(jobs, key=lambda job: job[0].parts):
        every = list(group)
        for start in range(0, len(every), size):
            yield every[start : start + size]


@torch.no_grad()
def _denoise(
    sampler: Sampler,
    batch: Sequence[tuple[EncodedPrompt, int]],
    negative: EncodedPrompt,
    settings: SampleSettings,
    init: diffusion.Init | None,
) -> Iterator[Tensor]:
    """The latents of a batch after every denoising step, with the concepts' keys and values in place meanwhile."""
    base, prompts = sampler.base, [prompt for prompt, _ in batch]
    negatives = [negative] * len(prompts)
    condition, unconditional = (text.join([one.condition for one in part]) for part in (prompts, negatives))
    every = [*negatives, *prompts] if guided(settings.guidance) else prompts
    features = text.join([one.condition for one in every]).features
    pipelines.need(base, "unet")
    with (
        diffusion.compiled(base, settings.compile),
        adapter.override_parameters(base.unet, sampler.parameters),
        adapter.precomputed_kv(base) as set_values,
    ):
        set_values(sampler.keys_and_values(features, torch.cat([one.share for one in every])))
        seeds, size = [seed for _, seed in batch], image_size(base, settings)
        yield from diffusion.denoise(base, condition, unconditional, settings, seeds=seeds, size=size, init=init)
