"""The plain way to do what cdtool does, as public example scripts do it: what the benchmarks compare with.

Written from the description of the method. Every step encodes its pictures with the VAE and all its prompts with the
text encoder; the new word is a row added to the token-embedding table, all of which AdamW holds, with gradients masked
to that row; K/V are trained in place in float32 beside frozen weights in the compute precision, under autocast. Left
out on purpose, to flatter it: reading and augmenting the photos, gradient clipping, logging, checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEW = "<new1>"


@dataclass
class Batch:
    """Pictures [b, 3, height, width] in [-1, 1], targets first; their prompts; where the loss counts [b, h, w]."""

    pixels: Tensor
    prompts: Sequence[str]
    mask: Tensor
    targets: int


@dataclass
class Loop:
    """A training loop and all it holds."""

    unet: Any
    vae: Any
    text: Any
    tokenizer: Any
    schedule: Any
    optimizer: torch.optim.Optimizer
    row: int
    device: torch.device
    dtype: torch.dtype

    def step(self, batch: Batch) -> None:
        """One optimizer step."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            with torch.no_grad():
                found = self.vae.encode(batch.pixels.to(self.device, self.vae.dtype)).latent_dist
                z = found.sample() * self.vae.config.scaling_factor
            noise = torch.randn_like(z)
            t = torch.randint(self.schedule.config.num_train_timesteps, (len(z),), device=self.device)
            ids = self.tokenizer(list(batch.prompts), padding="max_length", truncation=True, return_tensors="pt")
            features = self.text(ids["input_ids"].to(self.device)).last_hidden_state
            noisy = self.schedule.add_noise(z, noise, t)
            said = self.unet(noisy.to(self.dtype), t, encoder_hidden_states=features, return_dict=False)[0]
            velocity = self.schedule.config.prediction_type == "v_prediction"
            wanted = self.schedule.get_velocity(z, noise, t) if velocity else noise
        error = F.mse_loss(said.float(), wanted.float(), reduction="none").mean(dim=1)
        mask = batch.mask.to(self.device)
        losses = (error * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))
        (losses[: batch.targets].mean() + losses[batch.targets :].mean()).backward()
        table = self.text.get_input_embeddings().weight
        others = torch.arange(len(table), device=self.device) != self.row
        table.grad[others] = 0
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def loop(folder: Path, dtype: torch.dtype, device: torch.device) -> Loop:
    """The loop on a base folder."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_tokens(NEW)
    row = tokenizer.convert_tokens_to_ids(NEW)
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).to(device)
    if len(text.get_input_embeddings().weight) <= row:
        text.resize_token_embeddings(row + 1, mean_resizing=False)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype).to(device)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=dtype).to(device)
    for model in (text, unet, vae):
        model.requires_grad_(False).eval()
    table = text.get_input_embeddings().weight.requires_grad_(True)
    optimizer = torch.optim.AdamW([*_trained(unet), table], lr=8e-5, weight_decay=1e-2)
    schedule = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    return Loop(unet, vae, text, tokenizer, schedule, optimizer, row, device, dtype)


def _trained(unet: nn.Module) -> list[nn.Parameter]:
    found = []
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.weight = nn.Parameter(module.weight.float())
            module.register_forward_hook(_without_start)
            found.append(module.weight)
    return found


def _without_start(_: nn.Module, __: Any, result: Tensor) -> Tensor:
    """The start token's column passes no gradient."""
    return torch.cat([result[:, :1].detach(), result[:, 1:]], dim=1)


def pipeline(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """diffusers' own pipeline of a base folder with DDIM as cdtool sets it."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, safety_checker=None)
    options = {"clip_sample": False, "thresholding": False, "set_alpha_to_one": False}
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
