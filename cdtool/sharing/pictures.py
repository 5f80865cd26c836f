"""The pictures of a concept that lie on this machine, known by the records in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from cdtool.errors import InputError, NotFoundError
from cdtool.files import open_regular
from cdtool.sampling import records
from cdtool.store import concept

READ = 400  # pictures of a folder that are looked into, the newest first


@dataclass(frozen=True)
class Picture:
    """A sampled picture, and what was asked for."""

    path: Path
    subject: str
    prompt: str
    seed: int

    def pixels(self) -> Image.Image:
        """The picture without anything its file says beside it."""
        with open_regular(self.path) as file, Image.open(file) as image:
            plain = image.convert("RGB")
        plain.info.clear()
        return plain


def find(places: Sequence[Path]) -> list[Picture]:
    """The pictures in folders, or the files themselves, that `cdtool sample` wrote, the newest first.

    Raises NotFoundError for a place that does not exist.
    """
    found = []
    for place in places:
        if not place.exists():
            raise NotFoundError(f"There is no {place} with pictures.", "Sample some first, or give another --images.")
        files = sorted(place.glob("*.png"), key=_written, reverse=True)[:READ] if place.is_dir() else [place]
        for path in files:
            try:
                record, _ = records.read(path)
            except (InputError, NotFoundError):
                continue  # another program's, or removed meanwhile
            found.append(Picture(path, record.subject, record.prompt, record.seed))
    return found


def of(subject: str, pictures: Sequence[Picture], most: int) -> list[Picture]:
    """At most `most` pictures of a subject: one of each prompt, then a second of each."""
    by_prompt: dict[str, list[Picture]] = {}
    for picture in pictures:
        if picture.subject == subject:
            by_prompt.setdefault(picture.prompt, []).append(picture)
    rounds = zip_longest(*(sorted(group, key=lambda one: one.seed) for group in by_prompt.values()))
    return [picture for each in rounds for picture in each if picture is not None][:most]


def default_places(label: str) -> list[Path]:
    """Where `cdtool sample` puts pictures of a subject, where it has done so."""
    place = Path("samples") / label
    return [place] if place.is_dir() else []


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def words(manifest: concept.Manifest) -> list[str]:
    """What a concept's tokens are called in a prompt."""
    many = len(manifest.tokens) > 1
    return [token.words(number if many else None) for number, token in enumerate(manifest.tokens, 1)]
