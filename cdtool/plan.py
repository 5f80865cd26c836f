"""What a training will cost, told before it begins: counted on shapes, timed by a short probe of the device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from cdtool import base as bases
from cdtool.bank import resolution

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from cdtool.settings import TrainSettings

ADAM_BYTES = 16  # of one trained number: float32 weight, gradient and two moments
# Convolutions and norms reach this share of a plain matrix product's speed, by our own measurements.
EFFICIENCY = 0.45
BACKWARD = 2.0  # a pass with gradients through frozen weights costs about two forward passes
BACKWARD_RECOMPUTED = 3.0


@dataclass(frozen=True)
class Cost:
    """Numbers trained, bytes of the concept, and estimates of seconds and bytes for a run."""

    matrices: int
    numbers: int
    rows: int
    concept_bytes: int
    crops: int
    bank_bytes: int
    seconds: float
    memory: int


def cost(
    folder: Path, settings: TrainSettings, *, photos: int, priors: int, modifiers: int, device: torch.device,
    dtype: torch.dtype, world: int,
) -> Cost:  # fmt: skip
    """Estimate a run on a base folder without loading its weights. Raises BaseError for a folder we cannot use."""
    family, config, schedule = bases.read_family(folder)
    shell = bases.Base(str(folder), folder, family, device, dtype, schedule, config)
    unet = bases.empty_unet(config)
    trained = {name: cast("Tensor", unet.get_submodule(name).weight) for name in bases.text_kv(unet)}
    numbers = sum(weight.numel() for weight in trained.values())
    side = resolution(shell, settings) // shell.latent_factor
    crops = min(settings.crops * photos, settings.steps * settings.batch) + 2 * priors
    passes = -(-settings.batch // (settings.accumulate * world))
    flops, activations = _measure(unet, config, side, dtype)
    frozen = sum(weight.numel() for weight in unet.parameters()) * dtype.itemsize + _other_weights(folder)
    factor = BACKWARD_RECOMPUTED if settings.checkpointing else BACKWARD
    per_step = flops * factor * settings.batch / world / (speed(device, dtype) * EFFICIENCY)
    shrink = 0.15 if settings.checkpointing else 1.0
    rows = modifiers * len(family.encoders)
    width = int(config["cross_attention_dim"])
    return Cost(
        matrices=len(trained),
        numbers=numbers,
        rows=rows,
        concept_bytes=numbers * 2 + modifiers * width * 4,
        crops=crops,
        bank_bytes=crops * 2 * int(config["in_channels"]) * side * side * 4,
        seconds=per_step * settings.steps,
        memory=int(frozen + numbers * ADAM_BYTES + activations * passes * shrink),
    )


def _other_weights(folder: Path) -> int:
    """Bytes of the text encoders (float32) and the VAE, by their files."""
    files = [path for part in folder.iterdir() if part.name.startswith(("text_encoder", "vae")) and part.is_dir()
             for path in part.glob("*.safetensors")]  # fmt: skip
    return sum(path.stat().st_size for path in files)


def _measure(unet: nn.Module, config: dict[str, Any], side: int, dtype: torch.dtype) -> tuple[int, int]:
    """Floating-point operations of one picture's forward pass and the bytes autograd keeps of it, on shapes alone."""
    from torch.utils.flop_counter import FlopCounterMode

    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor)] = tensor.numel() * dtype.itemsize
        return tensor

    unet.requires_grad_(False)
    with torch.device("meta"):
        features = torch.empty(1, 77, int(config["cross_attention_dim"]), requires_grad=True)
        noisy = torch.empty(1, int(config["in_channels"]), side, side)
        added = None
        if config.get("addition_embed_type") == "text_time":
            times = 6 * int(config["addition_time_embed_dim"])
            pooled = int(config["projection_class_embeddings_input_dim"]) - times
            added = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            unet(noisy, torch.empty(1), encoder_hidden_states=features, added_cond_kwargs=added)
    return int(counter.get_total_flops()), sum(kept.values())


def speed(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Floating-point operations per second of a matrix product in `dtype` on `device`."""
    size = 1024 if device.type == "cpu" else 4096
    left = torch.randn(size, size, device=device).to(dtype)

    def multiply() -> None:
        torch.matmul(left, left)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    multiply()
    count, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        multiply()
        count += 1
    return 2.0 * size**3 * count / taken
