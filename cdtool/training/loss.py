"""The denoising loss of cached crops, and the text features of a run that need no second encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cdtool.models import diffusion, text

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.models.text import Conditioning, Tokenized
    from cdtool.settings import TrainSettings
    from cdtool.tokens import Prompt, Token
    from cdtool.training.batches import CachedCrop
    from cdtool.training.trainable import Trainable


@dataclass
class Texts:
    """Text features of a run: those whose rows are not being learned are encoded once and kept."""

    base: Base
    tokens: tuple[Token, ...]
    rows: Sequence[Sequence[Tensor]]  # per encoder, per token
    ids: dict[Prompt, Tokenized] = field(default_factory=dict)
    kept: dict[Prompt, Conditioning] = field(default_factory=dict)
    places: dict[Prompt, Tensor] = field(default_factory=dict)  # see `own_words`

    def of(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Features of prompts in the compute precision; the float32 encoder computes in it too.

        Each different one is encoded once, with gradients where it holds a row that is learned.
        """
        dtype = self.base.dtype
        with torch.autocast(self.base.device.type, dtype, enabled=dtype != torch.float32):
            return self._of(prompts).to(dtype)

    def own_words(self, prompts: Sequence[Prompt]) -> Tensor:
        """The positions [b, l] at which the words of the tokens stand, as a mask."""
        for prompt in prompts:
            if prompt not in self.places:
                owners, _ = text.owners(self.base, prompt, self.tokens)
                self.places[prompt] = torch.tensor([owner is not None for owner in owners])
        return torch.stack([self.places[prompt] for prompt in prompts]).to(self.base.device)

    def _of(self, prompts: Sequence[Prompt]) -> Conditioning:
        different = list(dict.fromkeys(prompts))
        moving = [prompt for prompt in different if self._moves(prompt)]
        for prompt in different:
            self.ids.setdefault(prompt, text.tokenize(self.base, prompt, self.tokens))
        new = [prompt for prompt in different if prompt not in self.kept and prompt not in moving]
        if new:
            with torch.no_grad():
                made = text.encode(self.base, [self.ids[prompt] for prompt in new], self.rows)
            self.kept |= {prompt: made[place : place + 1] for place, prompt in enumerate(new)}
        parts = {prompt: self.kept[prompt] for prompt in different if prompt in self.kept}
        if moving:
            made = text.encode(self.base, [self.ids[prompt] for prompt in moving], self.rows)
            parts |= {prompt: made[place : place + 1] for place, prompt in enumerate(moving)}
        return text.join([parts[prompt] for prompt in prompts])

    def _moves(self, prompt: Prompt) -> bool:
        places = [piece for piece in prompt.pieces if isinstance(piece, int)]
        return any(rows[place].requires_grad for rows in self.rows for place in places)


def noise_of(
    settings: TrainSettings, step: int, index: int, shape: torch.Size, timesteps: int
) -> tuple[Tensor, Tensor, int]:
    """(latent noise, target noise, timestep) of one picture of one step; depends on nothing else."""
    rng = np.random.default_rng((settings.seed, step, index, 1))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    both = torch.randn((2, *shape), generator=generator)
    return both[0], both[1], int(rng.integers(timesteps))


def masked_error(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of each sample over its mask's cells: [b, c, h, w], [b, c, h, w], [b, h, w] -> [b]."""
    error = (found - wanted).pow(2).mean(dim=1) * mask
    return error.sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp(min=1)


def per_image(
    base: Base,
    schedule: Any,
    texts: Texts,
    items: Sequence[CachedCrop],
    noises: Sequence[tuple[Tensor, Tensor, int]],
    trained: Trainable,
    like_base: Sequence[int] = (),
) -> Tensor:
    """The loss of each picture [b] of a pass, with the noises `noise_of` gives.

    The target of the pictures `like_base` is what the base predicts without the concept. Inside of `trained.computing`.
    """
    device = base.device
    z = torch.stack([item.moments[0] + item.moments[1] * noise[0] for item, noise in zip(items, noises, strict=True)])
    noise = torch.stack([pair[1] for pair in noises]).to(device)
    t = torch.tensor([pair[2] for pair in noises], device=device)
    z, mask = z.to(device), torch.stack([item.mask for item in items]).to(device).float()
    side = z.shape[-1] * base.latent_factor
    prompts = [item.prompt for item in items]
    condition = texts.of(prompts)
    if trained.focus is not None:
        trained.focus.mask = texts.own_words(prompts)
    noisy = schedule.add_noise(z, noise, t).to(base.dtype)
    found = diffusion.predict(base, noisy, t, condition, diffusion.size_condition(base, side, side, len(items)))
    wanted = diffusion.target(base, schedule, z, noise, t)
    if like_base:
        rows = list(like_base)
        sizes = diffusion.size_condition(base, side, side, len(rows))
        with trained.frozen():
            wanted[rows] = diffusion.predict(base, noisy[rows], t[rows], condition[rows], sizes)
    return masked_error(found, wanted, mask)
