"""The artwork of the small world, got by package name: npm for two sets, the system's font package for the third."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from cdtool.mini.factory import art

# npm package: the folder inside it that holds the drawings
TWEMOJI = ("@twemoji/svg@15.0.0", "package")
FLUENT = ("@lobehub/fluent-emoji-3d@1.1.0", "package/assets")
FONT = "fonts-noto-color-emoji"


def sets(folder: Path) -> list[Path]:
    """The folders of the two sets' drawings, fetched into `folder` unless they are there.

    Raises FileNotFoundError, naming the package, where the font of the third is missing.
    """
    if not art.NOTO_FONT.is_file():
        raise FileNotFoundError(f"There is no {art.NOTO_FONT}; install the package {FONT}.")
    return [unpack(pack(name, folder), folder) / inside for name, inside in (TWEMOJI, FLUENT)]


def make(folder: Path) -> Iterator[tuple[str, int]]:
    """Write every cut-out to `folder`/art.npz; yields names and numbers of drawings.

    Raises FileNotFoundError, naming the package, where npm or the font is missing.
    """
    found = sets(folder)
    for drawings in found:
        yield drawings.relative_to(folder).parts[0], sum(1 for _ in drawings.iterdir())
    cutouts = art.collect(*found)
    art.save(cutouts, folder / "art.npz")
    yield "art.npz", len(cutouts)


def pack(name: str, folder: Path) -> Path:
    """The archive of an npm package in `folder`, fetched unless it is there."""
    package, _, version = name.rpartition("@")
    archive = folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", name, "--silent", "--pack-destination", str(folder)], check=True)
    return archive


def unpack(archive: Path, folder: Path) -> Path:
    """The folder an archive's content lies in, unpacked unless it is there."""
    target = folder / archive.stem
    if not target.is_dir():
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    return target
