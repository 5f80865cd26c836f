"""The sizes of the embedded base in one place, and the one training loop its four networks share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from cdtool.mini.factory.world import BROAD, NARROW, WIDE, World

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Recipe:
    """Every size and budget of the base; a bigger world or resolution is another instance.

    `course` holds the worlds the denoiser learns, one after the other, each until so many pictures have been seen.
    """

    course: tuple[tuple[World, int], ...] = ((NARROW, 400_000), (BROAD, 4_000_000))
    seen: World = WIDE  # what tokenizer, CLIP pairs and VAE see: widening the course later keeps them
    positions: int = 24  # text positions
    merges: int = 600  # BPE merges learned from captions
    text_width: int = 192
    text_layers: int = 4
    vision_width: int = 192
    vision_layers: int = 5
    projection: int = 128
    patch: int = 8
    heads: int = 4
    latent_channels: int = 16
    vae_widths: tuple[int, ...] = (16, 32, 64, 96)
    unet_widths: tuple[int, ...] = (96, 160)
    unet_heads: int = 4
    vae_pictures: int = 84_000
    decoder_pictures: int = 400_000
    common: tuple[str, ...] = ("dog", "cat", "gate", "horse")  # things the denoiser meets more often, as people do
    often: float = 3.0  # how much more often
    bank: int = 80_000  # pictures of each world of the course whose latents are encoded for the denoiser

    @property
    def world(self) -> World:
        """The last world of the course: what the denoiser can draw in the end."""
        return self.course[-1][0]

    @property
    def size(self) -> int:
        """The side of a picture, px."""
        return self.seen.size


class Progress(NamedTuple):
    """One report of a training: pictures seen, mean loss since the last report, pictures per second."""

    name: str
    pictures: int
    loss: float
    speed: float


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write(state: object, path: Path) -> None:
    """`torch.save` that never leaves half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the weights of `average` towards those of `model`: a <- decay a + (1 - decay) m."""
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new.to(old.dtype), 1 - decay)


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    folder: Path,
    pictures: int,
    batch: int,
    rate: float,
    average: nn.Module | None = None,
    minutes: float = float("inf"),
    decay: float = 1e-2,
    keep_every: float = 180.0,
) -> Iterator[Progress]:
    """Train `model` on `loss(update)` for `pictures`, resuming from `folder/name.pt`; yields about once in 10 s.

    The rate warms up over 200 updates and falls linearly over the last fifth of `pictures` or of `minutes`,
    whichever ends first; a later sitting goes on at the full rate.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, betas=(0.9, 0.99), fused=True)
    path, update, begun = folder / f"{name}.pt", 0, time.monotonic()
    if path.exists():
        state = torch.load(path, map_location=device(), weights_only=True)
        model.load_state_dict(state["model"])
        if "optimizer" in state:  # weights alone, where the state stayed on another machine
            optimizer.load_state_dict(state["optimizer"])
        update = int(state["update"])
        if average is not None:
            average.load_state_dict(state["average"])
    first, saved, told, total, count = update, begun, begun, 0.0, 0

    def keep() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "update": update}
        write(state | ({"average": average.state_dict()} if average is not None else {}), path)

    while update * batch < pictures and time.monotonic() - begun < minutes * 60:
        left = 1 - max(update * batch / pictures, (time.monotonic() - begun) / (minutes * 60))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (update - first + 1) / 200) * min(1.0, max(0.02, left * 5))
        value = loss(update)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update += 1
        if average is not None:
            follow(average, model, min(0.9995, (update + 1) / (update + 20)))
        total, count = total + float(value.detach()), count + 1
        if (now := time.monotonic()) - told > 10:
            yield Progress(name, update * batch, total / count, count * batch / (now - told))
            told, total, count = now, 0.0, 0
        if now - saved > keep_every:
            keep()
            saved = now
    keep()
    yield Progress(name, update * batch, total / max(count, 1), 0.0)
