"""Fitting sampling into memory: fewer images at once, which leaves each of them as it is."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cdtool.errors import ResourceError
from cdtool.models import memory, pipelines
from cdtool.models.diffusion import latent_batch
from cdtool.settings import guided, parse_size
from cdtool.store import bases, families
from cdtool.store.concept import read_header

if TYPE_CHECKING:
    from pathlib import Path

    from cdtool.sampling.run import Plan
    from cdtool.settings import SampleSettings


def fit_plan(plan: Plan) -> tuple[Plan, list[str]]:
    """A plan that fits into the memory it may use, and a sentence where its batch was lowered for that.

    Reads headers and no weights. Raises ResourceError for an image that does not fit, SettingsError for a --memory
    that is no size.
    """
    folder, where = bases.locate(plan.subject.base), pipelines.pick_device(plan.device)
    most = memory.limit(plan.settings.memory, where)
    if memory.plenty(folder, most):
        return plan, []
    dtype, _ = pipelines.pick_dtype(plan.settings.precision, where)
    changed = sum(_beyond_kv(entry.path) for entry in plan.subject.concepts) * dtype.itemsize
    largest = min(plan.settings.batch, plan.total)
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    for offload, batch in itertools.product((False, True), sizes):
        needed = peak(folder, plan.settings, batch, dtype, offload=offload) + changed
        if needed <= most:
            break
    else:
        raise ResourceError(
            f"Sampling an image here takes {needed / 1e9:.1f} GB; {most / 1e9:.1f} GB may be used.",
            "Allow more with --memory, or use a smaller base: cdtool base list",
        )
    chosen = [f"--batch {batch}"] * (batch < largest) + ["the denoiser is freed while images are decoded"] * offload
    note = f"To fit into memory (about {needed / 1e9:.1f} of {most / 1e9:.1f} GB): {', '.join(chosen)}."
    return replace(plan, settings=replace(plan.settings, batch=batch), offload=offload), [note] if chosen else []


def peak(folder: Path, settings: SampleSettings, batch: int, dtype: torch.dtype, *, offload: bool = False) -> int:
    """The most bytes that a process takes at one time while it samples `batch` images at once.

    With `offload` the denoiser is freed while they are decoded. Raises BaseError.
    """
    config = families.read(folder).unet
    vae = bases.locate_vae(settings.vae, folder) if settings.vae else folder / "vae"
    factor = 2 ** (len(families.read_json(vae / "config.json")["block_out_channels"]) - 1)
    side = int(config["sample_size"]) * factor
    width, height = parse_size(settings.size) if settings.size else (side, side)
    passes = 2 * batch if guided(settings.guidance) else batch
    together = min(batch, latent_batch(height, width))
    denoiser = memory.unet(folder, dtype)
    stages = (
        memory.text_encoders(folder, torch.float32),
        denoiser + memory.denoising(config, height // factor, width // factor, passes, dtype),
        (0 if offload else denoiser)
        + memory.autoencoder(vae, dtype)
        + memory.coding(vae, height, width, together, dtype, decode=True),
    )
    return memory.LIBRARY + max(stages)


def _beyond_kv(path: Path) -> int:
    """How many numbers a concept changes beyond K/V, which are held beside the base's own."""
    shapes = read_header(path)[1].items()
    return sum(shape.numbers for name, shape in shapes if name.startswith("unet.") and ".attn2.to_" not in name)
