"""The autoencoder of the embedded base: 64x64 pictures to 8x8 latents and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from cdtool.mini.factory.recipe import Progress, Recipe, device, fit
from cdtool.mini.factory.world import draw

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from numpy.typing import NDArray
    from torch import Tensor

BATCH = 12
NOISE = 0.05  # on latents while training, in shares of their spread: what a denoiser leaves behind must not show


def new(recipe: Recipe) -> AutoencoderKL:
    """An untrained autoencoder of the recipe's size."""
    from diffusers import AutoencoderKL

    levels = len(recipe.vae_widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=recipe.vae_widths,
        latent_channels=recipe.latent_channels,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=recipe.size,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 pictures [b, height, width, 3] as float [b, 3, height, width] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def train(recipe: Recipe, cutouts: dict[str, Any], folder: Path, minutes: float) -> Iterator[Progress]:
    """Train the autoencoder on the wide world into `folder/vae.pt`."""
    torch.manual_seed(11)
    model = new(recipe).to(device()).train()

    def loss(update: int) -> Tensor:
        seeds = range(20_000_000 + update * BATCH, 20_000_000 + (update + 1) * BATCH)
        batch = pixels(np.stack([draw(recipe.seen, cutouts, seed).pixels for seed in seeds])).to(device())
        with torch.autocast(device().type, torch.bfloat16):
            moments = model.encode(batch).latent_dist
            z = moments.mean
            noisy = z + NOISE * z.detach().std() * torch.randn_like(z)
            result = model.decode(noisy).sample
        return _loss(result.float(), batch, z.float(), moments.logvar.float())

    yield from fit("vae", model, loss, folder=folder, pictures=recipe.vae_pictures, batch=BATCH, rate=1.5e-3,
                   minutes=minutes, decay=1e-4)  # fmt: skip


def polish(
    model: AutoencoderKL, recipe: Recipe, cutouts: dict[str, Any], folder: Path, minutes: float
) -> Iterator[Progress]:
    """Train the decoder of a finished autoencoder further into `folder/decoder.pt`.

    The encoder stays, so latents stay, and a denoiser trained on them is as good as before.
    """
    torch.manual_seed(12)
    model = model.to(device())
    half = decoder_of(model).requires_grad_(True).train()

    def loss(update: int) -> Tensor:
        seeds = range(25_000_000 + update * BATCH, 25_000_000 + (update + 1) * BATCH)
        batch = pixels(np.stack([draw(recipe.seen, cutouts, seed).pixels for seed in seeds])).to(device())
        with torch.autocast(device().type, torch.bfloat16):
            with torch.no_grad():
                z = model.encode(batch).latent_dist.mean
            result = model.decode(z + NOISE * torch.randn_like(z)).sample
        return _likeness(result.float(), batch)

    yield from fit("decoder", half, loss, folder=folder, pictures=recipe.decoder_pictures, batch=BATCH, rate=1e-3,
                   minutes=minutes, decay=1e-4)  # fmt: skip


def decoder_of(model: AutoencoderKL) -> torch.nn.ModuleDict:
    """The half of an autoencoder that turns latents into pictures; the same modules, not copies."""
    return torch.nn.ModuleDict({"post_quant_conv": model.post_quant_conv, "decoder": model.decoder})


def _loss(result: Tensor, batch: Tensor, z: Tensor, logvar: Tensor) -> Tensor:
    pull = 1e-4 * z.pow(2).mean() + 1e-4 * (logvar + 8).pow(2).mean()  # near-zero spread: moments are means
    return _likeness(result, batch) + pull


def _likeness(result: Tensor, batch: Tensor) -> Tensor:
    across = (result.diff(dim=-1) - batch.diff(dim=-1)).abs().mean()
    down = (result.diff(dim=-2) - batch.diff(dim=-2)).abs().mean()
    return F.l1_loss(result, batch) + F.mse_loss(result, batch) + 0.5 * (across + down)


@torch.no_grad()
def psnr(model: AutoencoderKL, pictures: NDArray[np.uint8]) -> float:
    """Mean PSNR in dB of reconstructions of uint8 pictures [b, height, width, 3]."""
    batch = pixels(pictures).to(model.device, model.dtype)
    result = model.decode(model.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
    error = ((result - batch) / 2).float().pow(2).mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def normalise(model: AutoencoderKL, pictures: NDArray[np.uint8]) -> None:
    """Fold a per-channel shift and scale into the quant convolutions, so that latents are N(0, 1) per channel.

    `scaling_factor` 1 is then honest, and every channel meets the same noise.
    """
    z = model.encode(pixels(pictures).to(model.device)).latent_dist.mean
    mean, spread = z.mean(dim=(0, 2, 3)), z.std(dim=(0, 2, 3))
    enter, leave = model.quant_conv, model.post_quant_conv
    channels = len(mean)
    enter.weight[:channels] /= spread[:, None, None, None]
    enter.bias[:channels] = (enter.bias[:channels] - mean) / spread
    enter.bias[channels:] -= 2 * spread.log()  # the log-variance half scales along
    leave.bias += (leave.weight[:, :, 0, 0] @ mean[:, None])[:, 0]
    leave.weight *= spread[None, :, None, None]
