"""The captioned corpora of the embedded base: class images, and validation pictures that are none of them."""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from cdtool.mini.factory import art
from cdtool.mini.factory.styles import STYLES
from cdtool.mini.factory.world import BROAD, WIDE, Picture, draw

# File: the seed of its first picture. Training draws from 0 to 90 million, the photo folders from 500 million.
PARTS = {"corpus.tar": 300_000_000, "validation.tar": 400_000_000}
# As varied as what the denoiser draws; a rare word in a prior caption would teach the word.
WORLD = replace(WIDE, rare=0.0, drawings=BROAD.drawings, coats=BROAD.coats)
ALONE = 40  # pictures of each class noun by itself
PAIRED = 20  # pictures of it beside another class noun, each counting for both
LEAST = 60  # pictures of every class: nouns, SCENES and "painting"
SCENES = ("beach", "city", "room")
QUALITY = 75  # of WebP; these pictures come to about 550 bytes and 32 dB
STRIDE = 100_000  # seeds set aside for each row of a corpus


@dataclass(frozen=True)
class Row:
    """So many pictures with these nouns (none: any) whose captions have this word ("": any)."""

    count: int
    nouns: tuple[str, ...] = ()
    word: str = ""


def class_nouns() -> list[str]:
    """The nouns with a held-out drawing, which is what an object concept can be a kind of."""
    return [noun for noun in art.NOUNS if art.held_out(noun)]


def has(caption: str, word: str) -> bool:
    """Whether a caption has `word` as a whole word or phrase."""
    return re.search(rf"\b{re.escape(word)}\b", caption) is not None


def pictures(cutouts: dict[str, Any], first: int) -> Iterator[Picture]:
    """One corpus, drawn from seed `first` on: no two pictures are equal, every class has at least LEAST."""
    seen: set[bytes] = set()
    counted: Counter[str] = Counter()
    wanted = (*SCENES, *STYLES)
    rows = [*_nouns(), *(Row(LEAST if word in (*SCENES, "painting") else LEAST // 2, (), word) for word in wanted)]
    for place, row in enumerate(rows):
        count = row.count - counted[row.word] if row.word else row.count
        for picture in _row(cutouts, row, first + place * STRIDE, seen, count):
            counted.update(word for word in wanted if has(picture.caption, word))
            yield picture


def _nouns() -> Iterator[Row]:
    """Each class noun alone, then with those 1, 2, 3... places on in the list."""
    nouns = class_nouns()
    for noun in nouns:
        yield Row(ALONE, (noun,))
    for step in range(1, PAIRED // 2 + 1):  # each step gives every noun two pictures
        for place, noun in enumerate(nouns):
            yield Row(1, (noun, nouns[(place + step) % len(nouns)]))


def _row(cutouts: dict[str, Any], row: Row, first: int, seen: set[bytes], count: int) -> Iterator[Picture]:
    for seed in itertools.count(first):
        if count <= 0:
            return
        picture = draw(WORLD, cutouts, seed, row.nouns)
        content = picture.pixels.tobytes()
        if content not in seen and has(picture.caption, row.word):
            seen.add(content)
            count -= 1
            yield picture


def write(drawn: Iterable[Picture], path: Path) -> int:
    """Write pictures as a tar of NAME.webp whose captions all stand in one captions.jsonl at its end; their number.

    A member of its own for each caption would cost more than the picture. The bytes depend on the pictures alone.
    """
    lines = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, picture in enumerate(drawn):
            image = io.BytesIO()
            Image.fromarray(picture.pixels).save(image, "WEBP", quality=QUALITY, method=6)
            _add(tar, f"{number:05d}.webp", image.getvalue())
            lines.append(json.dumps({"file_name": f"{number:05d}.webp", "text": picture.caption}) + "\n")
        _add(tar, "captions.jsonl", "".join(lines).encode())
    return len(lines)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are zero
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def make(cutouts: dict[str, Any], folder: Path) -> Iterator[tuple[str, int]]:
    """Write both corpora of PARTS into `folder`; yields each file's name and number of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, first in PARTS.items():
        yield name, write(pictures(cutouts, first), folder / name)
