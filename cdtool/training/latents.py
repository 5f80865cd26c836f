"""Latents of class images kept between trainings: an image is encoded once per VAE, precision and resolution."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cdtool import settings

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base

CROPPING = 1  # counts up when `crops.class_crop` makes other pixels of the same image
LIMIT = 2_000_000_000  # bytes that all latents may take; those used longest ago are removed first
_DIGEST = 32  # bytes of the checksum before each entry


@dataclass(frozen=True)
class LatentCache:
    """The latents of one VAE in one precision at one resolution, by the image's sha256."""

    folder: Path

    def read(self, sha256: str, flipped: bool) -> Tensor | None:
        """Moments [2, c, h, w] of an image, or None where they are not kept; a damaged entry is dropped."""
        path = self._path(sha256, flipped)
        try:
            stored = path.read_bytes()
            if hashlib.sha256(stored[_DIGEST:]).digest() != stored[:_DIGEST]:
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except OSError:
            return None
        return torch.from_numpy(np.load(io.BytesIO(stored[_DIGEST:]), allow_pickle=False))

    def write(self, sha256: str, flipped: bool, moments: Tensor) -> None:
        """Keep the moments of an image; a disk that refuses only means that they are encoded again."""
        packed = io.BytesIO()
        np.save(packed, moments.numpy(), allow_pickle=False)
        content = packed.getvalue()
        path = self._path(sha256, flipped)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(OSError):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

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
    digest = hashlib.sha256(f"{CROPPING} {base.vae.dtype} {base.device.type}".encode())
    for path in sorted((base.folder / "vae").iterdir()):
        if path.suffix in (".json", ".safetensors"):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def trim(limit: int = LIMIT) -> int:
    """Remove the entries used longest ago until all take at most `limit` bytes; the number removed."""
    found = []
    for path in latents_dir().glob("*/*"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    excess, dropped = sum(size for _, size, _ in found) - limit, 0
    for _, size, path in sorted(found):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size
        dropped += 1
    return dropped
