"""The questionnaire of a preference study: one blind page that asks, works offline, and hands the answers back."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdtool.errors import InputError
from cdtool.reports import html
from cdtool.research.answers import FORMAT, QUESTIONS, Item, Key

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 4  # photos beside a question, as the paper's two to four
SIDE = 768  # px a picture is shown with at most


@dataclass(frozen=True)
class Pair:
    """Two subjects' pictures for one prompt, which holds no modifier tokens."""

    prompt: str
    a: Image.Image
    b: Image.Image


@dataclass(frozen=True)
class Study:
    """A page, and the key that says which of its pictures are whose."""

    page: str
    key: Key


def build(
    subjects: tuple[str, str],
    pairs: Sequence[Pair],
    photos: Mapping[str, Sequence[Image.Image]],
    *,
    seed: int = 0,
    shown: Mapping[str, Any] | None = None,
) -> Study:
    """A study of pairs, with photos of each target; the same arguments make the same page.

    The order of the questions is shuffled, and each question has either subject on the left half of the time. The page
    holds pictures without their names under ids that say nothing; which is whose only the key says. `shown` is kept in
    the key. Raises InputError where there is nothing to ask.
    """
    if not pairs:
        raise InputError("There are no pairs of pictures to ask about.")
    pictures = [html.data_uri(image, SIDE) for pair in pairs for image in (pair.a, pair.b)]
    told = "\0".join([str(seed), *subjects, *pictures, *(pair.prompt for pair in pairs)])
    rng = random.Random(hashlib.sha256(told.encode()).digest())
    ids = _ids("p", len(pictures), rng)
    asked = [name for name in QUESTIONS if name != "photos" or any(photos.values())]
    names = iter(_ids("q", len(asked) * len(pairs), rng))
    items = [
        Item(next(names), question, place, pairs[place].prompt, ids[2 * place], ids[2 * place + 1])
        for question in asked
        for place in rng.sample(range(len(pairs)), len(pairs))
    ]
    study = hashlib.sha256("".join(item.id for item in items).encode()).hexdigest()[:12]
    key = Key(study, *subjects, seed, tuple(items), dict(shown or {}))
    left = [first for _ in asked for first in _halves(len(pairs), rng)]
    content = {
        "format": FORMAT,
        "study": study,
        "questions": {name: QUESTIONS[name] for name in asked},
        "items": [_asked(item, first) for item, first in zip(items, left, strict=True)],
        "pictures": dict(sorted(zip(ids, pictures, strict=True))),
        "photos": [html.data_uri(photo, SIDE // 2) for photo in choose(photos)],
        "tiny": all(html.is_tiny(image) for pair in pairs for image in (pair.a, pair.b)),
    }
    return Study(html.fill("study.html", content=html.data(content)), key)


def choose(photos: Mapping[str, Sequence[Image.Image]]) -> list[Image.Image]:
    """The photos a question shows: four at most, as many of each target, from all over its set."""
    each = max(1, SHOWN // max(1, len(photos)))
    chosen = []
    for images in photos.values():
        count = min(each, len(images))
        chosen += [images[place * len(images) // count] for place in range(count)]
    return chosen


def _asked(item: Item, a_first: bool) -> dict[str, str]:
    first, second = (item.a, item.b) if a_first else (item.b, item.a)
    text = {"text": item.prompt} if item.question == "text" else {}
    return {"id": item.id, "question": item.question, "left": first, "right": second, **text}


def _halves(count: int, rng: random.Random) -> list[bool]:
    """Heads and tails as often as each other, give or take one, in any order."""
    first = rng.random() < 0.5
    sides = [(place % 2 == 0) == first for place in range(count)]
    rng.shuffle(sides)
    return sides


def _ids(letter: str, count: int, rng: random.Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[f"{letter}{rng.getrandbits(32):08x}"] = None
    return list(found)
