"""The captioned corpora of the embedded base: class images, and validation pictures that are none of them."""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from cdtool.mini.factory import art, wider
from cdtool.mini.factory.styles import STYLES
from cdtool.mini.factory.wider import Scene, Wide

if TYPE_CHECKING:
    from cdtool.mini.factory.drawings import Shelf


# File: the seed of its first picture.
PARTS = {"corpus.tar": 1_800_000_000, "validation.tar": 1_900_000_000}
WORLD = Wide(named=0.0, hybrids=0.0)  # a name in a prior caption would teach the name
ALONE = 40  # pictures of each class noun by itself
PAIRED = 20  # pictures of it beside another class noun, each counting for both
FEW = 4  # of a noun that is no class
LEAST = 60  # pictures of every class: nouns, SCENES and "painting"
SCENES = ("beach", "city", "room")
LONGEST = 18  # words of a caption: what the text encoder reads
QUALITY = 75  # of WebP; these pictures come to about 550 bytes and 32 dB
STRIDE = 100_000  # seeds set aside for each row of a corpus


@dataclass(frozen=True)
class Row:
    """So many pictures with these nouns (none: any), whose captions say them and this word ("": any)."""

    count: int
    nouns: tuple[str, ...] = ()
    word: str = ""


def class_nouns() -> list[str]:
    """The nouns with a held-out drawing, which is what an object concept can be a kind of."""
    return [noun for noun in art.NOUNS if art.held_out(noun)]


def has(caption: str, word: str) -> bool:
    """Whether a caption has `word` as a whole word or phrase."""
    return re.search(rf"\b{re.escape(word)}\b", caption) is not None


def pictures(draw: Callable[[int, tuple[str, ...]], Scene], rows: Sequence[Row], first: int) -> Iterator[Scene]:
    """One corpus, drawn from seed `first` on: no two pictures are equal; rows count what earlier rows brought.

    `draw` makes the picture of a seed with these nouns, or with any.
    """
    seen: set[bytes] = set()
    counted: Counter[str] = Counter()
    wanted = (*SCENES, *STYLES)
    for place, row in enumerate(rows):
        count = row.count - counted[row.word] if row.word else row.count
        for picture in _row(draw, row, first + place * STRIDE, seen, count):
            counted.update(word for word in wanted if has(picture.caption, word))
            yield picture


def rows(nouns: Sequence[str], others: Sequence[str] = ()) -> list[Row]:
    """Each noun alone, then with those 1, 2, 3... places on in the list; a few of the others; scenes and styles."""
    made = [Row(ALONE, (noun,)) for noun in nouns]
    for step in range(1, PAIRED // 2 + 1):  # each step gives every noun two pictures
        made += [Row(1, (noun, nouns[(place + step) % len(nouns)])) for place, noun in enumerate(nouns)]
    made += [Row(FEW, (noun,)) for noun in others]
    whole = (*SCENES, "painting")
    return made + [Row(LEAST if word in whole else LEAST // 2, (), word) for word in (*SCENES, *STYLES)]


def _row(
    draw: Callable[[int, tuple[str, ...]], Scene], row: Row, first: int, seen: set[bytes], count: int
) -> Iterator[Scene]:
    for seed in itertools.count(first):
        if count <= 0:
            return
        picture = draw(seed, row.nouns)
        content = picture.pixels.tobytes()
        told = all(has(picture.caption, word) for word in (*row.nouns, row.word))
        if content not in seen and told and len(picture.caption.split()) <= LONGEST:
            seen.add(content)
            count -= 1
            yield picture


def write(drawn: Iterable[Scene], path: Path) -> int:
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


def make(shelf: Shelf, folder: Path) -> Iterator[tuple[str, int]]:
    """Write both corpora of PARTS into `folder`, with FEW pictures of every noun that is no class of a photo folder.

    Yields each file's name and number of pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nouns = [noun for noun in class_nouns() if noun in shelf.nouns]
    others = [noun for noun in shelf.nouns if noun not in nouns]

    def drawn(seed: int, nouns: tuple[str, ...]) -> Scene:
        return wider.draw(WORLD, shelf, seed, nouns)

    for name, first in PARTS.items():
        yield name, write(pictures(drawn, rows(nouns, others), first), folder / name)
