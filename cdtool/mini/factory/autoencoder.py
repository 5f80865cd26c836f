"""The autoencoder: 64x64 pictures to 8x8 latents and back, and its training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cdtool.mini.factory import ahead, keeping, vae
from cdtool.mini.factory.clutter import clutter
from cdtool.mini.factory.compiling import compiled
from cdtool.mini.factory.loop import Pace, Report, device, fit, sized, write
from cdtool.mini.factory.vae import NOISE, decoder_of, normalise, pixels
from cdtool.mini.factory.wider import Wide, draw

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from numpy.typing import NDArray
    from torch import Tensor

    from cdtool.mini.factory.drawings import Shelf

CHANNELS = 24
WIDTHS = (16, 32, 64, 96)
PACE = Pace(pictures=3_000_000, batch=16, rate=6e-4, weight_decay=1e-4, average=0.998)
CLUTTERED = 6  # every so many pictures are crowded ones
FIRST = 1_020_000_000  # seed of the first picture
POLISHED_FROM = 1_060_000_000  # the same of the decoder's
SCALED_ON = range(1_010_000_000, 1_010_002_000)  # seeds of the pictures that set the channels' scale


def new(channels: int = CHANNELS, widths: tuple[int, ...] = WIDTHS) -> AutoencoderKL:
    """An untrained autoencoder."""
    from diffusers import AutoencoderKL

    levels = len(widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths, latent_channels=channels, layers_per_block=1, norm_num_groups=8, sample_size=64,
        mid_block_add_attention=False, scaling_factor=1.0,
    )  # fmt: skip


def pictures(shelf: Shelf, first: int, batch: int, update: int) -> NDArray[np.uint8]:
    """The batch of an update, RGB [b, 64, 64, 3]; every so many pictures are crowded ones."""
    seeds = range(first + update * batch, first + (update + 1) * batch)
    return np.stack([clutter(shelf, seed) if seed % CLUTTERED == 0 else draw(Wide(), shelf, seed).pixels
                     for seed in seeds])  # fmt: skip


def train(model: AutoencoderKL, shelf: Shelf, folder: Path, minutes: float) -> Iterator[Report]:
    """Train the autoencoder on the wider world into `folder/vae.pt`."""
    torch.manual_seed(11)
    pace = sized(PACE)
    model = model.to(device()).train()

    def through(batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moments = model.encode(batch).latent_dist
        z = moments.mean
        return model.decode(z + NOISE * z.detach().std() * torch.randn_like(z)).sample, z, moments.logvar

    fast, drawn = compiled(through), ahead.batches(partial(pictures, shelf, FIRST, pace.batch), ahead.workers())

    def loss(update: int) -> Tensor:
        batch = pixels(drawn(update)).to(device())
        result, z, logvar = fast(batch.to(PACE.precision))
        return vae.loss(result.float(), batch, z.float(), logvar.float())

    yield from fit("vae", model, loss, folder, pace, minutes)


def polish(model: AutoencoderKL, shelf: Shelf, folder: Path, minutes: float) -> Iterator[Report]:
    """Train the decoder further into `folder/decoder.pt`; the encoder stays, and with it what the denoiser learned."""
    torch.manual_seed(12)
    pace = sized(PACE)
    model = model.to(device(), PACE.precision)
    half = decoder_of(model).requires_grad_(True).train()

    def through(batch: Tensor) -> Tensor:
        with torch.no_grad():
            z = model.encode(batch).latent_dist.mean
        result: Tensor = model.decode(z + NOISE * torch.randn_like(z)).sample
        return result

    fast, drawn = compiled(through), ahead.batches(partial(pictures, shelf, POLISHED_FROM, pace.batch), ahead.workers())

    def loss(update: int) -> Tensor:
        batch = pixels(drawn(update)).to(device())
        return vae.likeness(fast(batch.to(PACE.precision)).float(), batch)

    yield from fit("decoder", half, loss, folder, pace, minutes)


def trained(folder: Path, shelf: Shelf) -> AutoencoderKL:
    """The averaged autoencoder of `folder`, its latents scaled to N(0, 1) per channel, its decoder as far as polished.

    The scale is settled once, in `folder/scaled.pt`, so that latents stay what they were.
    """
    model, path = new().requires_grad_(False), folder / "scaled.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    else:
        keeping.restore(folder, "vae")
        model.load_state_dict(torch.load(folder / "vae.pt", map_location="cpu", weights_only=True)["average"])
        normalise(model, np.stack([draw(Wide(), shelf, seed).pixels for seed in SCALED_ON]))
        write(model.state_dict(), path)
    if (folder / "decoder.pt").exists():
        state = torch.load(folder / "decoder.pt", map_location="cpu", weights_only=True)
        decoder_of(model).load_state_dict(state["average"])
    return model.eval()


@torch.no_grad()
def quality(model: AutoencoderKL, pictures: NDArray[np.uint8]) -> Tensor:
    """PSNR in dB of each of the pictures [n, h, w, 3] after encoding and decoding."""
    batch = pixels(pictures).to(model.device, model.dtype)
    back = model.decode(model.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
    found: Tensor = -10 * ((back - batch) / 2).float().pow(2).mean(dim=(1, 2, 3)).log10()
    return found
