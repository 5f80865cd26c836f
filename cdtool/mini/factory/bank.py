"""Banks of pictures for the denoiser: latents, token ids and the views of named individuals, in shards on disk."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from cdtool.mini.factory.clip import ids as tokens_of
from cdtool.mini.factory.loop import Report, device, write
from cdtool.mini.factory.student import VIEW
from cdtool.mini.factory.vae import pixels
from cdtool.mini.factory.wider import Scene, Wide, draw

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from torch import Tensor
    from transformers import CLIPTokenizer

    from cdtool.mini.factory.drawings import Shelf

SHARD = 10_000  # pictures
FIRST = 1_100_000_000  # seed of the first picture
CHECKED = 10_000  # number of the shard that is never learned from
SMALL = 2_000  # pictures of that one
BATCH = 100


class Batch(NamedTuple):
    """Latents [n, c, h, w] float16, token ids [n, l] int16, views [n, 2, 3, VIEW, VIEW] uint8."""

    latents: Tensor
    ids: Tensor
    views: Tensor


def views_of(scene: Scene) -> np.ndarray:
    """The views of a picture's two individuals, small; white where there is none."""
    made = np.full((2, VIEW, VIEW, 3), 255, np.uint8)
    for order, view in enumerate(scene.views):
        if view is not None:
            made[order] = np.asarray(Image.fromarray(view).resize((VIEW, VIEW), Image.Resampling.BOX))
    return made.transpose(0, 3, 1, 2)


@torch.no_grad()
def shard(world: Wide, shelf: Shelf, vae: AutoencoderKL, tokenizer: CLIPTokenizer, seeds: Sequence[int]) -> Batch:
    """Draw and encode the pictures of `seeds`."""
    latents, ids, views = [], [], []
    where = next(vae.parameters())
    for start in range(0, len(seeds), BATCH):
        drawn = [draw(world, shelf, seed) for seed in seeds[start : start + BATCH]]
        batch = pixels(np.stack([one.pixels for one in drawn])).to(where.device, where.dtype)
        latents.append(vae.encode(batch).latent_dist.mean.half().cpu())
        ids.append(tokens_of(tokenizer, [one.caption for one in drawn]).short())
        views.append(torch.from_numpy(np.stack([views_of(one) for one in drawn])))
    return Batch(torch.cat(latents), torch.cat(ids), torch.cat(views))


def path_of(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / "bank" / f"{number:05d}.pt"


def fill(
    world: Wide, shelf: Shelf, vae: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path, numbers: Sequence[int]
) -> Iterator[Report]:
    """Make the shards of `numbers` that are not there yet; several processes may do so side by side."""
    vae = vae.to(device(), torch.bfloat16).eval()
    (folder / "bank").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path, begun, first = path_of(folder, number), time.monotonic(), FIRST + number * SHARD
        with claimed(path) as mine:
            if mine and not path.exists():
                seeds = range(first, first + (SMALL if number == CHECKED else SHARD))
                write(tuple(shard(world, shelf, vae, tokenizer, seeds)), path)
                yield Report("bank", (number + 1) * SHARD, 0.0, len(seeds) / (time.monotonic() - begun))


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process alone may make a file; the claim ends with the process at the latest."""
    with path.with_suffix(".claim").open("w") as claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def read(folder: Path, number: int) -> Batch:
    """A shard, mapped into memory."""
    return Batch(*torch.load(path_of(folder, number), weights_only=True, mmap=True))


class Bank:
    """All shards there are; more may come while it is read."""

    def __init__(self, folder: Path) -> None:
        """Read what is there."""
        self.folder, self.shards = folder, dict[int, Batch]()
        self.refresh()

    def refresh(self) -> None:
        """Take in new shards."""
        for path in sorted((self.folder / "bank").glob("[0-9]*.pt")):
            number = int(path.stem)
            if number not in self.shards and number < CHECKED:
                self.shards[number] = read(self.folder, number)

    def batch(self, size: int, rng: torch.Generator) -> Batch:
        """Random pictures, from four shards at a time."""
        names, parts = sorted(self.shards), []
        for at in torch.randint(len(names), (4,), generator=rng).tolist():
            rows = torch.randint(len(self.shards[names[at]].ids), (size // 4,), generator=rng)
            parts.append([one[rows] for one in self.shards[names[at]]])
        return Batch(*(torch.cat([part[at] for part in parts]) for at in range(3)))
