"""Retrieval: the images of a corpus whose captions are nearest to a text, each image once."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cdtool.errors import PhotoError
from cdtool.images import corpora
from cdtool.images.pictures import decode
from cdtool.models import encoders

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from cdtool.images.corpora import Member
    from cdtool.models.encoders import Encoder

CHUNK = 16 * encoders.BATCH  # captions encoded between two signs of life
THUMBNAIL = 16  # px; what two images are compared at
SAME = 4.0  # mean difference of two thumbnails, of 255, up to which images are one; saving as JPEG again costs 1 to 3
SMALLEST = 32  # px of the short side


class Likeness(NamedTuple):
    """How many different captions are encoded; with the last the cosine [n] of every caption with the text."""

    done: int
    of: int
    cosines: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Found:
    """A retrieved image: its member, the cosine of its caption, its hash and bytes, and it as upright RGB."""

    member: Member
    cosine: float
    sha256: str
    content: bytes
    image: Image.Image


@dataclass(frozen=True)
class Passed:
    """A member near enough that was not taken, and one short reason."""

    member: Member
    reason: str


def likeness(captions: Sequence[str], text: str, encoder: Encoder) -> Iterator[Likeness]:
    """Cosine of each caption's text features with the text's, [n] in [-1, 1]; equal captions are encoded once.

    The text is encoded in all of the encoder's templates, so that no one place or size word decides.
    """
    places = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    variants = encoders.text_features(encoder, [way.replace("{}", text) for way in encoder.spec.asked])
    different, (wanted,) = list(places), encoders.unit(variants.mean(axis=0, keepdims=True))
    parts = []
    order = [places[caption] for caption in captions]
    for start in range(0, len(different), CHUNK):
        part = different[start : start + CHUNK]
        parts.append(encoders.text_features(encoder, part) @ wanted)
        done = start + len(part)
        yield Likeness(done, len(different), np.concatenate(parts)[order] if done == len(different) else None)


def cosines(captions: Sequence[str], text: str, encoder: Encoder) -> NDArray[np.float32]:
    """The same at once."""
    *_, last = likeness(captions, text, encoder)
    assert last.cosines is not None
    return last.cosines


def distinct(members: Sequence[Member], order: Sequence[int]) -> Iterator[tuple[int, str, bytes]]:
    """The places of `order` that hold images of different bytes, each with its sha256 and bytes. Raises OSError."""
    seen = set()
    for place in order:
        content = corpora.content(members[place])
        digest = hashlib.sha256(content).hexdigest()
        if digest not in seen:
            seen.add(digest)
            yield int(place), digest, content


def nearest(members: Sequence[Member], near: NDArray[np.float32], floor: float) -> Iterator[Found | Passed]:
    """The images whose captions reach `floor`, the nearest first: readable ones, no image twice.

    Twice is the same bytes, or the same caption with an image that looks the same.
    """
    order = [int(place) for place in np.argsort(-near, kind="stable") if near[place] >= floor]
    seen: dict[str, tuple[Path, int]] = {}
    looks: dict[str, list[NDArray[np.float32]]] = {}
    for place in order:
        found = _open(members[place], float(near[place]))
        if isinstance(found, Passed):
            yield found
        elif found.sha256 in seen:
            if seen[found.sha256] != found.member[1:3]:  # else it only has another caption, which is farther
                yield Passed(found.member, "the same image as one before")
        elif _seen_before(found, looks.setdefault(found.member.caption.lower(), [])):
            yield Passed(found.member, "looks as one before it with the same caption")
        else:
            seen[found.sha256] = (found.member.path, found.member.offset)
            yield found


def _open(member: Member, cosine: float) -> Found | Passed:
    try:
        content = corpora.content(member)
        image = decode(io.BytesIO(content))[0]
    except PhotoError as error:
        return Passed(member, str(error))
    except OSError as error:
        return Passed(member, error.strerror or "cannot be read")
    if min(image.size) < SMALLEST:
        return Passed(member, f"too small: {image.width}x{image.height} px, at least {SMALLEST} are needed")
    return Found(member, cosine, hashlib.sha256(content).hexdigest(), content, image)


def _seen_before(found: Found, looks: list[NDArray[np.float32]]) -> bool:
    """Whether an image looks like one of `looks`; if not, it becomes one of them."""
    small = np.asarray(found.image.resize((THUMBNAIL, THUMBNAIL)), dtype=np.float32)
    if any(float(np.abs(small - other).mean()) <= SAME for other in looks):
        return True
    looks.append(small)
    return False
