"""Latents of class images kept between trainings: an image is encoded once per VAE, precision and resolution."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cdtool import cache, settings
from cdtool.models import pipelines

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base

CROPPING = 1  # counts up when `crops.class_crop` makes other pixels of the same image
LIMIT = 2_000_000_000  # bytes that all latents may take; those used longest ago are removed first


@dataclass(frozen=True)
class LatentCache:
    """The latents of one VAE in one precision at one resolution, by the image's sha256."""

    folder: Path

    def read(self, sha256: str, flipped: bool) -> Tensor | None:
        """Moments [2, c, h, w] of an image, or None where they are not kept; a damaged entry is dropped."""
        stored = cache.read(self._path(sha256, flipped))
        return None if stored is None else torch.from_numpy(np.load(io.BytesIO(stored), allow_pickle=False))

    def write(self, sha256: str, flipped: bool, moments: Tensor) -> None:
        """Keep the moments of an image; a disk that refuses only means that they are encoded again."""
        packed = io.BytesIO()
        np.save(packed, moments.numpy(), allow_pickle=False)
        cache.write(self._path(sha256, flipped), packed.getvalue())

    def _path(self, sha256: str, flipped: bool) -> Path:
        return self.folder / f"{sha256}{'-flipped' if flipped else ''}.latents"


def latents_dir() -> Path:
    """Where latents are kept; it may be deleted at any time."""
    return settings.cache_dir() / "latents"


def cache_of(base: Base, resolution: int) -> LatentCache:
    """The latents that this base's VAE, in its precision, made of class images at `resolution` px."""
    return LatentCache(latents_dir() / f"{_vae(base)}-{resolution}")


def _vae(base: Base) -> str:
    """A hash of everything latents depend on but the image: the VAE's files, its precision and the device's kind."""
    pipelines.need(base, "vae")
    digest = hashlib.sha256(f"{CROPPING} {base.vae.dtype} {base.device.type}".encode())
    for path in sorted(base.vae_folder.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def trim(limit: int = LIMIT) -> int:
    """Remove the latents used longest ago until all take at most `limit` bytes; the number removed."""
    return cache.prune(limit, "latents").entries
