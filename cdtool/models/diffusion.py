"""Latents, the denoising loss and the sampling loop: what training and sampling share of a diffusion model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from cdtool.models.text import Conditioning, join

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cdtool.models.pipelines import Base

FUSED_FROM = 256  # latent cells from which fused attention pays on CPUs
LATENT_BATCH = 8  # pictures the VAE encodes or decodes at once


@dataclass(frozen=True)
class SchedulerRow:
    """A sampler by name: diffusers' class and what to set on it."""

    cls: str
    options: dict[str, Any] = field(default_factory=dict)


# PNDM configs, which SD 1.x ships, lack clip_sample; DDIM's default would then clip latents to [-1, 1].
_UNCLIPPED: dict[str, Any] = {"clip_sample": False, "thresholding": False}
SCHEDULERS = {
    "ddim": SchedulerRow("DDIMScheduler", _UNCLIPPED | {"set_alpha_to_one": False}),
    "ddpm": SchedulerRow("DDPMScheduler", _UNCLIPPED),
    "dpm++": SchedulerRow("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++-sde": SchedulerRow("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": SchedulerRow("EulerDiscreteScheduler"),
    "euler-a": SchedulerRow("EulerAncestralDiscreteScheduler"),
    "unipc": SchedulerRow("UniPCMultistepScheduler"),
    "pndm": SchedulerRow("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
}


def scheduler(base: Base, name: str) -> Any:
    """A fresh diffusers scheduler of `SCHEDULERS` with the base's own noise schedule."""
    import diffusers

    row = SCHEDULERS[name]
    return getattr(diffusers, row.cls).from_config({**base.scheduler_config, **row.options})


def size_condition(base: Base, height: int, width: int, count: int) -> Tensor | None:
    """SDXL's (height, width, top, left, height, width) in px for `count` uncropped pictures, or None."""
    if not base.family.conditioned:
        return None
    sizes = [float(height), float(width), 0.0, 0.0, float(height), float(width)]
    return torch.tensor([sizes] * count, device=base.device)


def predict(base: Base, noisy: Tensor, t: Tensor, condition: Conditioning, sizes: Tensor | None) -> Tensor:
    """The denoiser's output [b, c, h, w] in float32 for noisy latents at timesteps t [b]."""
    added = None
    if base.family.conditioned:
        added = {"text_embeds": condition.pooled, "time_ids": sizes}
    unet = cast("Any", base.unet)
    result = unet(noisy, t, encoder_hidden_states=condition.features, added_cond_kwargs=added, return_dict=False)[0]
    return cast("Tensor", result.float())


@contextlib.contextmanager
def attention(base: Base, cells: int) -> Iterator[None]:
    """While open, attention over `cells` latent cells is computed the way that trains fastest on the base's device."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # The fused kernel's backward in bf16 takes 2 to 5 times as long as plain products there, and its forward no less.
    if base.device.type == "cpu" and base.dtype == torch.bfloat16 and cells < FUSED_FROM:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


def target(base: Base, schedule: Any, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What `predict` should say [b, c, h, w]: the noise, or the velocity for v-prediction."""
    return cast("Tensor", schedule.get_velocity(z, noise, t)) if base.prediction == "v_prediction" else noise


def pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """uint8 pictures [height, width, 3] as one float tensor [b, 3, height, width] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


@torch.no_grad()
def moments(base: Base, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Mean and standard deviation of the latents of uint8 pictures, scaled: float32 [b, 2, c, h, w] on the CPU."""
    vae = cast("Any", base.vae)
    made = []
    for start in range(0, len(images), LATENT_BATCH):
        batch = pixels(images[start : start + LATENT_BATCH]).to(base.device, vae.dtype)
        found = vae.encode(batch).latent_dist
        shift = vae.config.get("shift_factor") or 0.0
        pair = torch.stack([found.mean - shift, found.std], dim=1).float() * vae.config.scaling_factor
        made.append(pair.cpu())
    return torch.cat(made)


@torch.no_grad()
def decode(base: Base, z: Tensor) -> NDArray[np.uint8]:
    """Pictures uint8 [b, height, width, 3] of latents [b, c, h, w]."""
    vae = cast("Any", base.vae)
    shift = vae.config.get("shift_factor") or 0.0
    made = []
    for part in (z / vae.config.scaling_factor + shift).to(vae.dtype).split(LATENT_BATCH):
        picture = vae.decode(part).sample.float().clamp(-1, 1)
        made.append(((picture + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
    return cast("NDArray[np.uint8]", torch.cat(made).numpy())


@torch.no_grad()
def denoise(
    base: Base,
    schedule: Any,
    condition: Conditioning,
    negative: Conditioning,
    *,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    eta: float,
    size: tuple[int, int],
) -> Iterator[Tensor]:
    """Sample latents [b, c, h, w] for b prompts, yielding them after every step; the last ones are the result.

    Every picture draws its noise from its own seed on the CPU, so it does not depend on its batch or the device.
    size is (width, height) in px.
    """
    import inspect

    width, height = size
    shape = (cast("Any", base.unet).config.in_channels, height // base.latent_factor, width // base.latent_factor)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    z = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(base.device)
    schedule.set_timesteps(steps, device=base.device)
    accepted = inspect.signature(schedule.step).parameters
    extra = {"eta": eta, "generator": generators}
    extra = {name: value for name, value in extra.items() if name in accepted}
    both = join([negative, condition]) if guidance != 1 else condition
    sizes = size_condition(base, height, width, len(both.features))
    z = z * schedule.init_noise_sigma
    for t in schedule.timesteps:
        noisy = torch.cat([z, z]) if guidance != 1 else z
        noisy = schedule.scale_model_input(noisy, t).to(base.dtype)
        found = predict(base, noisy, t, both, sizes)
        if guidance != 1:
            without, with_text = found.chunk(2)
            found = without + guidance * (with_text - without)
        z = schedule.step(found, t, z, **extra, return_dict=False)[0]
        yield z
