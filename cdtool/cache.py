"""The content cache: whatever can be made again, by the content it was made of; bounded, each entry with a checksum.

cache/KIND/MODEL/KEY: image features by encoder, latents by VAE, regularization statistics, names of K/V modules.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cdtool.settings import cache_dir

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Features = NDArray[np.float32]

LIMIT = 4_000_000_000  # bytes of all entries; those used longest ago go first
_FORMAT = b"cdtool features 1"  # counts up when pictures are prepared in another way
_SIGN = 16  # bytes of the checksum before a row
_WEIGHTS = (".safetensors", ".bin", ".pt", ".json")


@dataclass(frozen=True)
class Usage:
    """What the entries of one kind take."""

    kind: str
    entries: int
    bytes: int


def read(path: Path) -> bytes | None:
    """The content of an entry, or None where it is not kept; a damaged one is removed. It counts as used now."""
    try:
        content = path.read_bytes()
        if _checksum(content[_SIGN:]) != content[:_SIGN]:
            path.unlink(missing_ok=True)
            return None
        os.utime(path)
    except OSError:
        return None
    return content[_SIGN:]


def write(path: Path, content: bytes) -> bool:
    """Keep an entry. A disk that refuses only means that it is made again next time: then this is False.

    The first entry a process writes also brings the whole cache below LIMIT.
    """
    _bound()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(_checksum(content) + content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return False
    return True


@functools.cache
def _bound() -> None:
    prune()


def usage() -> list[Usage]:
    """What each kind of entries takes, by name."""
    sizes: dict[str, list[int]] = {}
    for kind, _, size, _ in _entries():
        sizes.setdefault(kind, []).append(size)
    return [Usage(kind, len(found), sum(found)) for kind, found in sorted(sizes.items())]


def prune(limit: int = LIMIT, kind: str | None = None) -> Usage:
    """Remove the entries used longest ago until all, or those of one kind, take at most `limit` bytes; what went."""
    found = sorted((entry for entry in _entries() if kind in (None, entry[0])), key=lambda entry: entry[1])
    excess, removed = sum(size for _, _, size, _ in found) - limit, Usage(kind or "all", 0, 0)
    for _, _, size, path in found:
        if excess <= removed.bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            removed = replace(removed, entries=removed.entries + 1, bytes=removed.bytes + size)
    return removed


def _entries() -> Iterator[tuple[str, float, int, Path]]:
    """Kind, time of last use, bytes and path of every entry; what lies beside the kinds' folders is no entry.

    A link to a folder is not followed: nothing outside the cache is ever removed.
    """
    for folder in sorted(path for path in cache_dir().glob("*/") if not path.is_symlink()):
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):  # removed since
                about = path.lstat()
                if stat.S_ISREG(about.st_mode):
                    yield folder.name, about.st_mtime, about.st_size, path


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


def text_rows(texts: Sequence[str], encode: Callable[[], Features], encoder: str) -> Features:
    """Features [n, d] of texts that `encode` makes together, kept under an encoder's fingerprint.

    Together, because the last bits of a text's features depend on those encoded beside it.
    """
    name = hashlib.blake2b(repr(list(texts)).encode(), digest_size=20).hexdigest()
    path = cache_dir() / "features" / encoder / f"texts-{name}"
    content = read(path)
    if content and len(content) % (4 * len(texts)) == 0:
        return np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(len(texts), -1)
    made = np.ascontiguousarray(encode(), dtype="<f4")
    write(path, made.tobytes())
    return made.astype(np.float32)


def _part(images: Sequence[Image.Image], embed: Callable[[Sequence[Image.Image]], Features], folder: Path) -> Features:
    paths = [_path(folder, image) for image in images]
    known = [_read(path) for path in paths]
    missing = [place for place, row in enumerate(known) if row is None]
    if missing:
        made = embed([images[place] for place in missing])
        for place, row in zip(missing, made, strict=True):
            known[place] = np.ascontiguousarray(row, dtype=np.float32)
            write(paths[place], np.ascontiguousarray(row, dtype="<f4").tobytes())
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
    row = read(path)
    return None if not row or len(row) % 4 else np.frombuffer(row, dtype="<f4").astype(np.float32)


def _checksum(row: bytes) -> bytes:
    return hashlib.blake2b(row, digest_size=_SIGN).digest()
