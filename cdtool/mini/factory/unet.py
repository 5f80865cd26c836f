"""The denoiser of the embedded base, trained on banked latents with the text encoder frozen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cdtool.mini.factory.clip import ids
from cdtool.mini.factory.recipe import Progress, Recipe, device, fit, write
from cdtool.mini.factory.vae import pixels
from cdtool.mini.factory.world import World, draw

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from torch import Tensor
    from transformers import CLIPTextModel, CLIPTokenizer

BATCH = 64
DROPPED = 0.1  # share of captions left out, for classifier-free guidance
SNR_CAP = 5.0  # min-SNR weighting


def new(recipe: Recipe) -> UNet2DConditionModel:
    """An untrained denoiser of the recipe's size."""
    from diffusers import UNet2DConditionModel

    levels = len(recipe.unet_widths)
    return UNet2DConditionModel(
        sample_size=recipe.size // 2 ** (len(recipe.vae_widths) - 1),
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=recipe.unet_widths,
        layers_per_block=1,
        cross_attention_dim=recipe.text_width,
        attention_head_dim=recipe.unet_heads,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v-prediction as in SD 2."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip


def banks(
    recipe: Recipe, vae: AutoencoderKL, tokenizer: CLIPTokenizer, cutouts: dict[str, Any], folder: Path
) -> dict[str, Tensor]:
    """Latents [n, c, h, w] and token ids [n, l] of `recipe.bank` pictures of each world of the course, in its order."""
    found = [
        _bank(world, range(place * recipe.bank, (place + 1) * recipe.bank), vae, tokenizer, cutouts,
              folder / f"bank-{place + 1}.pt")
        for place, (world, _) in enumerate(recipe.course)
    ]  # fmt: skip
    return {name: torch.cat([stored[name] for stored in found]) for name in ("latents", "ids")}


@torch.no_grad()
def _bank(
    world: World, seeds: range, vae: AutoencoderKL, tokenizer: CLIPTokenizer, cutouts: dict[str, Any], path: Path
) -> dict[str, Tensor]:
    if path.exists():
        stored: dict[str, Tensor] = torch.load(path, weights_only=True)
        return stored
    latents, tokens = [], []
    for start in range(seeds.start, seeds.stop, 250):
        drawn = [draw(world, cutouts, seed) for seed in seeds[start - seeds.start :][:250]]
        batch = pixels(np.stack([picture.pixels for picture in drawn])).to(vae.device)
        with torch.autocast(vae.device.type, torch.bfloat16):
            latents.append(vae.encode(batch).latent_dist.mean.half().cpu())
        tokens.append(ids(tokenizer, [picture.caption for picture in drawn]))
    made = {"latents": torch.cat(latents), "ids": torch.cat(tokens).short()}
    write(made, path)
    return made


def lesson(recipe: Recipe, pictures: int) -> range:
    """The rows of the banks the denoiser learns from after so many pictures: those of one world."""
    place = sum(pictures >= until for _, until in recipe.course[:-1])
    return range(place * recipe.bank, (place + 1) * recipe.bank)


def frequency(recipe: Recipe, tokenizer: CLIPTokenizer, captions: Tensor) -> Tensor:
    """How often each caption's picture is met [n], those that name a common thing more often; ids are [n, l]."""
    vocabulary = tokenizer.get_vocab()
    words = torch.tensor([vocabulary[f"{noun}</w>"] for noun in recipe.common if f"{noun}</w>" in vocabulary])
    return 1 + (recipe.often - 1) * torch.isin(captions.long(), words).any(dim=1).float()


def train(
    recipe: Recipe,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    stored: dict[str, Tensor],
    folder: Path,
    minutes: float,
) -> Iterator[Progress]:
    """Train the denoiser on the banks into `folder/unet.pt`, with a moving average of its weights beside them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.manual_seed(31)
    where = device()
    model, average = new(recipe).to(where).train(), new(recipe).to(where).eval()
    average.load_state_dict(model.state_dict())
    schedule = scheduler()
    signal = schedule.alphas_cumprod.to(where)
    empty = ids(tokenizer, [""])[0].to(where)
    chances = frequency(recipe, tokenizer, stored["ids"])

    def loss(update: int) -> Tensor:
        rng = torch.Generator().manual_seed(update)
        now = lesson(recipe, update * BATCH)
        rows = now.start + torch.multinomial(chances[now.start : now.stop], BATCH, replacement=True, generator=rng)
        z = stored["latents"][rows].float().to(where)
        tokens = stored["ids"][rows].long().to(where)
        tokens[torch.rand(BATCH, generator=rng) < DROPPED] = empty
        t = torch.randint(schedule.config.num_train_timesteps, (BATCH,), generator=rng).to(where)
        noise = torch.randn(z.shape, generator=rng).to(where)
        with torch.autocast(where.type, torch.bfloat16):
            with torch.no_grad():
                features = text(tokens).last_hidden_state
            v = model(schedule.add_noise(z, noise, t), t, features).sample
        error = (v.float() - schedule.get_velocity(z, noise, t)).pow(2).mean(dim=(1, 2, 3))
        snr = signal[t] / (1 - signal[t])
        weighted: Tensor = (error * snr.clamp(max=SNR_CAP) / (snr + 1)).mean()
        return weighted

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel's backward is slow on CPUs at these sizes
        yield from fit("unet", model, loss, folder=folder, pictures=recipe.course[-1][1], batch=BATCH, rate=1e-3,
                       average=average, minutes=minutes)  # fmt: skip
