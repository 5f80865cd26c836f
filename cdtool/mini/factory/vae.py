"""Pictures to an autoencoder and back: what is asked of it, and latents that are N(0, 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from numpy.typing import NDArray
    from torch import Tensor

NOISE = 0.05  # on latents while training, in shares of their spread: what a denoiser leaves behind must not show


def pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 pictures [b, height, width, 3] as float [b, 3, height, width] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def decoder_of(model: AutoencoderKL) -> torch.nn.ModuleDict:
    """The half of an autoencoder that turns latents into pictures; the same modules, not copies."""
    return torch.nn.ModuleDict({"post_quant_conv": model.post_quant_conv, "decoder": model.decoder})


def loss(result: Tensor, batch: Tensor, z: Tensor, logvar: Tensor) -> Tensor:
    """What an autoencoder is trained by: likeness, and a pull on the latents z and their log-variance."""
    pull = 1e-4 * z.pow(2).mean() + 1e-4 * (logvar + 8).pow(2).mean()  # near-zero spread: moments are means
    return likeness(result, batch) + pull


def likeness(result: Tensor, batch: Tensor) -> Tensor:
    """How far pictures are from what they should be, in colours and edges."""
    across = (result.diff(dim=-1) - batch.diff(dim=-1)).abs().mean()
    down = (result.diff(dim=-2) - batch.diff(dim=-2)).abs().mean()
    return F.l1_loss(result, batch) + F.mse_loss(result, batch) + 0.5 * (across + down)


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
