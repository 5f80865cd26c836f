"""The denoiser and its training, together with its text encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from cdtool.mini.factory import bank
from cdtool.mini.factory.clip import ids as tokens_of
from cdtool.mini.factory.compiling import compiled
from cdtool.mini.factory.loop import Pace, Report, device, fit, sized
from cdtool.mini.factory.student import Student, text_encoder
from cdtool.mini.factory.telling import NAMES

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import CLIPTokenizer

MATCHING = 0.02  # weight of the matching of captions in the loss
SNR_CAP = 5.0  # min-SNR weighting
DROPPED = 0.1  # share of captions left out, for classifier-free guidance


class Lesson(NamedTuple):
    """The two losses of a batch."""

    drawing: Tensor
    matching: Tensor


@dataclass(frozen=True)
class Shape:
    """The sizes of denoiser and text encoder."""

    channels: int = 24
    side: int = 8  # of a latent
    widths: tuple[int, ...] = (96, 192)
    heads: tuple[int, ...] = (4, 6)
    transformers: tuple[int, ...] = (1, 2)  # transformer layers in each block of a level
    middle: bool = False
    text_width: int = 192
    text_layers: int = 3
    text_heads: int = 4
    pace: Pace = field(
        default_factory=lambda: Pace(pictures=5_000_000, batch=128, rate=2e-3, warm=60, muon=True, average=0.999)
    )


def unet(shape: Shape) -> UNet2DConditionModel:
    """An untrained denoiser."""
    from diffusers import UNet2DConditionModel

    levels = len(shape.widths)
    return UNet2DConditionModel(
        sample_size=shape.side, in_channels=shape.channels, out_channels=shape.channels,
        down_block_types=("CrossAttnDownBlock2D",) * levels, up_block_types=("CrossAttnUpBlock2D",) * levels,
        mid_block_type="UNetMidBlock2DCrossAttn" if shape.middle else None, block_out_channels=shape.widths,
        layers_per_block=1, cross_attention_dim=shape.text_width, attention_head_dim=shape.heads,
        transformer_layers_per_block=shape.transformers, norm_num_groups=16,
    )  # fmt: skip


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v-prediction as in SD 2."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip


def student(shape: Shape, tokenizer: CLIPTokenizer) -> Student:
    """An untrained student."""
    vocabulary = tokenizer.get_vocab()
    first, second = (vocabulary[f"{name}</w>"] for name in NAMES)
    text = text_encoder(tokenizer, shape.text_width, shape.text_layers, shape.text_heads)
    return Student(unet(shape), text, (first, second))


def lesson(model: Student, tokenizer: CLIPTokenizer) -> Callable[[bank.Batch, torch.Generator, bool], Lesson]:
    """What a batch teaches: the error of the predicted v, weighted by min-SNR, and how badly captions are matched."""
    schedule, where = scheduler(), device()
    signal = schedule.alphas_cumprod.to(where)
    empty = tokens_of(tokenizer, [""])[0].to(where)
    forward = compiled(model)

    def learn(batch: bank.Batch, rng: torch.Generator, drop: bool) -> Lesson:
        z, ids = batch.latents.to(where).float(), batch.ids.to(where).long()
        views = batch.views.to(where).to(torch.bfloat16) / 127.5 - 1
        size = len(z)
        dropped = (torch.rand(size, generator=rng) < (DROPPED if drop else 0.0)).to(where)
        ids = torch.where(dropped[:, None], empty, ids)
        t = (torch.arange(size) * 1000 // size + torch.randint(1000, (1,), generator=rng)) % 1000  # evenly spread
        t, noise = t.to(where), torch.randn(z.shape, generator=rng).to(where)
        noisy = schedule.add_noise(z, noise, t).to(torch.bfloat16)
        v, match = forward(noisy, t, ids, views, z.to(torch.bfloat16))
        error = (v.float() - schedule.get_velocity(z, noise, t)).pow(2).mean(dim=(1, 2, 3))
        snr = signal[t] / (1 - signal[t])
        return Lesson((error * snr.clamp(max=SNR_CAP) / (snr + 1)).mean(), matched(match.float(), dropped))

    return learn


def matched(logits: Tensor, dropped: Tensor) -> Tensor:
    """CLIP's loss of the pictures whose captions are told: logits [b, b], dropped [b]."""
    kept = torch.nonzero(~dropped)[:, 0]
    own = logits[kept][:, kept]
    target = torch.arange(len(kept), device=own.device)
    return (F.cross_entropy(own, target) + F.cross_entropy(own.T, target)) / 2


def train(
    shape: Shape, tokenizer: CLIPTokenizer, folder: Path, minutes: float, name: str = "student"
) -> Iterator[Report]:
    """Train on the bank in `folder` into `folder/name.pt`.

    Reports "checked" and "matched" are the two losses of pictures never learned.
    """
    torch.manual_seed(31)
    model = student(shape, tokenizer).to(device()).train()
    learn, stored = lesson(model, tokenizer), bank.Bank(folder)
    unseen = bank.read(folder, bank.CHECKED)
    pace = sized(shape.pace)
    size = pace.batch

    def loss(update: int) -> Tensor:
        if update % 50 == 0:
            stored.refresh()
        rng = torch.Generator().manual_seed(update)
        lesson = learn(stored.batch(size, rng), rng, True)
        return lesson.drawing + MATCHING * lesson.matching

    def check() -> NDArray[np.float64]:
        rng, total = torch.Generator().manual_seed(0), np.zeros(2)
        starts = range(0, min(1024, len(unseen.ids)) - size + 1, size)
        with torch.no_grad():
            for start in starts:
                batch = bank.Batch(*(one[start : start + size] for one in unseen))
                total += np.array([float(one) for one in learn(batch, rng, False)])
        return total / len(starts)

    for at, report in enumerate(fit(name, model, loss, folder, pace, minutes)):
        yield report
        if at % 12 == 11 or report.speed == 0:
            drawing, matching = check()
            yield report._replace(name="checked", loss=drawing)
            yield report._replace(name="matched", loss=matching)


def averaged(shape: Shape, tokenizer: CLIPTokenizer, path: Path) -> Student:
    """The student with the moving average of its weights, float32, on the CPU."""
    model = student(shape, tokenizer)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(stored["average"], strict=False)  # the attention mask and positions are no parameters
    return model.eval().requires_grad_(False)
