"""Features of pictures kept by content: the same picture is shown to the same encoder once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cdtool.files import workplace
from cdtool.settings import cache_dir

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Features = NDArray[np.float32]

_FORMAT = b"cdtool features 1"  # counts up when pictures are prepared in another way
_SIGN = 16  # bytes of the checksum before a row
_WEIGHTS = (".safetensors", ".bin", ".pt", ".json")


def fingerprint(place: Path) -> str:
    """What tells one encoder from another: the content of its file, or of its folder's weights and settings."""
    files = sorted(path for path in place.iterdir() if path.suffix in _WEIGHTS) if place.is_dir() else [place]
    whole = hashlib.blake2b(_FORMAT, digest_size=16)
    for path in files:
        whole.update(path.name.encode())
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "blake2b").digest())
    return whole.hexdigest()


def rows(
    images: Iterable[Image.Image],
    embed: Callable[[Sequence[Image.Image]], Features],
    encoder: str,
    *,
    batch: int,
) -> Features:
    """Features [n, d] of pictures by `embed`, those that an encoder with this fingerprint has seen from the cache.

    Pictures are taken `batch` at a time. A damaged entry is made again; a cache that cannot be written is done without.
    """
    folder = cache_dir() / "features" / encoder
    parts = [_part(some, embed, folder) for some in batches(images, batch)]
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


def _part(images: Sequence[Image.Image], embed: Callable[[Sequence[Image.Image]], Features], folder: Path) -> Features:
    paths = [_path(folder, image) for image in images]
    known = [_read(path) for path in paths]
    missing = [place for place, row in enumerate(known) if row is None]
    if missing:
        made = embed([images[place] for place in missing])
        for place, row in zip(missing, made, strict=True):
            known[place] = np.ascontiguousarray(row, dtype=np.float32)
        _keep(folder, {paths[place]: row for place, row in zip(missing, made, strict=True)})
    return np.stack([row for row in known if row is not None])


def batches(images: Iterable[Image.Image], batch: int) -> Iterator[list[Image.Image]]:
    """The pictures `batch` at a time, the last ones fewer."""
    held: list[Image.Image] = []
    for image in images:
        held.append(image)
        if len(held) == batch:
            yield held
            held = []
    if held:
        yield held


def _path(folder: Path, image: Image.Image) -> Path:
    content = hashlib.blake2b(repr((image.mode, image.size)).encode(), digest_size=20)
    content.update(image.tobytes())
    name = content.hexdigest()
    return folder / name[:2] / name[2:]


def _read(path: Path) -> Features | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    sign, row = content[:_SIGN], content[_SIGN:]
    if not row or len(row) % 4 or _checksum(row) != sign:
        return None
    return np.frombuffer(row, dtype="<f4").astype(np.float32)


def _keep(folder: Path, made: dict[Path, Features]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with workplace(folder) as work:
            for path, values in made.items():
                row = np.ascontiguousarray(values, dtype="<f4").tobytes()
                path.parent.mkdir(exist_ok=True)
                (work / path.name).write_bytes(_checksum(row) + row)
                (work / path.name).replace(path)
    except OSError:
        return  # the features are there; only the next time has to make them again


def _checksum(row: bytes) -> bytes:
    return hashlib.blake2b(row, digest_size=_SIGN).digest()
