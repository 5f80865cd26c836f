"""Latents, the denoising loss and the sampling loop: what training and sampling share of a diffusion model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from cdtool.errors import BaseError, SettingsError, UsageError
from cdtool.models import pipelines
from cdtool.models.text import Conditioning, join
from cdtool.schema import shortened
from cdtool.settings import guided

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.settings import SampleSettings

FUSED_FROM = 256  # latent cells from which fused attention pays on CPUs
LATENT_BATCH = 8  # images the autoencoder takes at once, at most
LATENT_PIXELS = 4 * 512 * 512  # and their pixels together: above 512 px its memory grows by 330 MB an image in bf16


@dataclass(frozen=True)
class SchedulerRow:
    """A sampler by name: diffusers' class and what to set on it."""

    cls: str
    options: dict[str, Any] = field(default_factory=dict)
    zero_snr: bool = True  # whether the class can rescale its noise schedule to zero terminal SNR


# PNDM configs, which SD 1.x ships, lack clip_sample; DDIM's default would then clip latents to [-1, 1].
_UNCLIPPED: dict[str, Any] = {"clip_sample": False, "thresholding": False}
_TRAILING = {"timestep_spacing": "trailing"}  # the first step is the last timestep of training
SCHEDULERS = {
    "ddim": SchedulerRow("DDIMScheduler", _UNCLIPPED | {"set_alpha_to_one": False}),
    "ddpm": SchedulerRow("DDPMScheduler", _UNCLIPPED),
    "dpm++": SchedulerRow("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++-sde": SchedulerRow("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": SchedulerRow("EulerDiscreteScheduler"),
    "euler-a": SchedulerRow("EulerAncestralDiscreteScheduler"),
    "unipc": SchedulerRow("UniPCMultistepScheduler"),
    "pndm": SchedulerRow("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}, zero_snr=False),
    # For bases distilled to a few steps: LCM, Hyper and TCD, Lightning and turbo; with --steps 1 to 8 --guidance 1.
    "lcm": SchedulerRow("LCMScheduler", _UNCLIPPED | {"set_alpha_to_one": False}),
    "tcd": SchedulerRow("TCDScheduler", _UNCLIPPED | {"set_alpha_to_one": False}),
    "ddim-trailing": SchedulerRow("DDIMScheduler", _UNCLIPPED | {"set_alpha_to_one": False} | _TRAILING),
    "euler-trailing": SchedulerRow("EulerDiscreteScheduler", _TRAILING),
}
GUIDANCE_RESCALE = 0.7  # share of rescaling on bases with zero terminal SNR, as Lin et al. (2023) have it


def scheduler(base: Base, name: str) -> Any:
    """A fresh diffusers scheduler of `SCHEDULERS` with the base's own noise schedule.

    Raises UsageError for one that cannot begin at the pure noise a base with zero terminal SNR was trained from, and
    BaseError for a schedule that diffusers cannot make.
    """
    import diffusers

    row = SCHEDULERS[name]
    if base.zero_snr and not row.zero_snr:
        raise UsageError(
            f'"{base.name}" was trained to zero terminal SNR, which the scheduler {name} does not know.',
            "Use --scheduler ddim or euler.",
        )
    spacing = _TRAILING if base.zero_snr else {}
    try:
        return getattr(diffusers, row.cls).from_config({**base.scheduler_config, **row.options, **spacing})
    except (NotImplementedError, TypeError, ValueError) as error:
        raise BaseError(
            f"The noise schedule of {base.name} cannot be read: {shortened(str(error), 160)}.",
            "Fetch or copy the base again.",
        ) from None


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
    pipelines.need(base, "unet")
    unet = cast("Any", base.unet)
    result = unet(noisy, t, encoder_hidden_states=condition.features, added_cond_kwargs=added, return_dict=False)[0]
    return cast("Tensor", result.float())


@contextlib.contextmanager
def compiled(base: Base, wanted: bool) -> Iterator[None]:
    """While open, if wanted, the denoiser's repeated blocks are what torch.compile makes of them on their first call.

    Raises SettingsError where that fails, as it does without a C++ compiler.
    """
    if not wanted:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    unet = cast("Any", base.unet)
    unet.compile_repeated_blocks()
    try:
        yield
    except TorchDynamoException as error:
        reason = shortened(str(error).strip().partition("\n")[0], 160)
        hint = "Leave --compile out; it needs a C++ compiler, and on a GPU Triton."
        raise SettingsError(f"The denoiser cannot be compiled here: {reason}.", hint) from None
    finally:
        for module in unet.modules():
            module._compiled_call_impl = None


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


def _normalisation(vae: Any) -> tuple[Tensor, Tensor]:
    """Shift and scale [1, c, 1, 1] that take the autoencoder's latents to the denoiser's: (latent - shift) * scale."""
    config = vae.config
    channels, device = config.latent_channels, vae.device
    mean = config.get("latents_mean") or [config.get("shift_factor") or 0.0] * channels
    std = config.get("latents_std") or [1.0] * channels
    shift, spread = (torch.tensor(values, device=device).view(1, channels, 1, 1) for values in (mean, std))
    return shift, config.scaling_factor / spread


@torch.no_grad()
def everything_masked(base: Base, height: int, width: int) -> Tensor | None:
    """What an inpainting denoiser takes besides latents when all is to be made: [1, 1 + c, h, w]; None for others.

    A mask of ones, and the latents of a grey image, as which the masked image was given in training.
    """
    if not base.inpainting:
        return None
    grey = np.full((height, width, 3), 127.5, dtype=np.float32)
    latents = moments(base, [cast("NDArray[np.uint8]", grey)])[:, 0]
    return torch.cat([torch.ones_like(latents[:, :1]), latents], dim=1).to(base.device)


def rescaled(guided: Tensor, with_text: Tensor, share: float) -> Tensor:
    """A guided prediction [b, c, h, w] drawn by `share` to the spread of the one with text (Lin et al. 2023, 3.4)."""
    dims = tuple(range(1, guided.dim()))
    spread = with_text.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return guided * (share * spread + (1 - share))


def latent_batch(height: int, width: int) -> int:
    """How many images of a size in px the autoencoder encodes or decodes at once."""
    return max(1, min(LATENT_BATCH, LATENT_PIXELS // (height * width)))


@torch.no_grad()
def moments(base: Base, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Mean and standard deviation of the latents of uint8 pictures, scaled: float32 [b, 2, c, h, w] on the CPU."""
    pipelines.need(base, "vae")
    vae = cast("Any", base.vae)
    made = []
    size = latent_batch(*images[0].shape[:2])
    for start in range(0, len(images), size):
        batch = pixels(images[start : start + size]).to(base.device, vae.dtype)
        found = vae.encode(batch).latent_dist
        shift, scale = _normalisation(vae)
        pair = torch.stack([(found.mean.float() - shift) * scale, found.std.float() * scale], dim=1)
        made.append(pair.cpu())
    return torch.cat(made)


@torch.no_grad()
def decode(base: Base, z: Tensor) -> NDArray[np.uint8]:
    """Pictures uint8 [b, height, width, 3] of latents [b, c, h, w]."""
    pipelines.need(base, "vae")
    vae = cast("Any", base.vae)
    shift, scale = _normalisation(vae)
    made = []
    size = latent_batch(z.shape[-2] * base.latent_factor, z.shape[-1] * base.latent_factor)
    for part in torch.split((z / scale + shift).to(vae.dtype), size):
        picture = vae.decode(part).sample.float().clamp(-1, 1)
        made.append(((picture + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
    return cast("NDArray[np.uint8]", torch.cat(made).numpy())


class Init(NamedTuple):
    """An image to begin with: its latents [1, c, h, w], and the share of the noise schedule it goes through."""

    latents: Tensor
    strength: float  # above 0; 1 is all of it

    def steps(self, whole: int) -> int:
        """How many of the denoising steps are taken, one at least."""
        return max(1, min(whole, round(whole * self.strength)))


@torch.no_grad()
def denoise(
    base: Base,
    condition: Conditioning,
    negative: Conditioning,
    settings: SampleSettings,
    *,
    seeds: Sequence[int],
    size: tuple[int, int],
    init: Init | None = None,
) -> Iterator[Tensor]:
    """Sample latents [b, c, h, w] for b prompts, yielding them after every step; the last ones are the result.

    At a guidance of 1 or less the prediction with the prompt stands alone, in one pass, and `negative` is not read.
    The noise of every image comes from its own seed on the CPU, so it does not depend on its batch or the device.

    condition, negative: text features of the b prompts and of what guidance leads away from.
    settings: of which scheduler, steps, guidance and eta are read.
    seeds: b of them.
    size: (width, height) in px.
    init: an image of that size to begin with in place of noise alone.
    """
    import inspect

    schedule = scheduler(base, settings.scheduler)
    width, height = size
    shape = (base.latent_channels, height // base.latent_factor, width // base.latent_factor)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    z = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(base.device)
    schedule.set_timesteps(settings.steps, device=base.device)
    accepted = inspect.signature(schedule.step).parameters
    extra = {"eta": settings.eta, "generator": generators}
    extra = {name: value for name, value in extra.items() if name in accepted}
    two = guided(settings.guidance)
    both = join([negative, condition]) if two else condition
    sizes = size_condition(base, height, width, len(both.features))
    masked = everything_masked(base, height, width)
    timesteps = schedule.timesteps
    if init is None:
        z = z * schedule.init_noise_sigma
    else:
        first = len(timesteps) - init.steps(len(timesteps))
        timesteps = timesteps[first:]
        if hasattr(schedule, "set_begin_index"):
            schedule.set_begin_index(first)
        z = schedule.add_noise(init.latents.to(base.device).expand_as(z), z, timesteps[:1].expand(len(z)))
    for t in timesteps:
        noisy = torch.cat([z, z]) if two else z
        noisy = schedule.scale_model_input(noisy, t)
        if masked is not None:
            noisy = torch.cat([noisy, masked.expand(len(noisy), -1, -1, -1)], dim=1)
        noisy = noisy.to(base.dtype)
        found = predict(base, noisy, t, both, sizes)
        if two:
            without, with_text = found.chunk(2)
            found = without + settings.guidance * (with_text - without)
            if base.zero_snr:
                found = rescaled(found, with_text, GUIDANCE_RESCALE)
        z = schedule.step(found, t, z, **extra, return_dict=False)[0]
        yield z


def images(
    base: Base,
    condition: Conditioning,
    negative: Conditioning,
    settings: SampleSettings,
    *,
    seeds: Sequence[int],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """The images uint8 [b, height, width, 3] that `denoise` ends with."""
    *_, z = denoise(base, condition, negative, settings, seeds=seeds, size=size)
    return decode(base, z)
