"""All drawings of the wider world: every noun of shapes.txt in each artwork set, its flat regions, our own gates."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageFont

from cdtool.mini.factory import art, gateways

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIST = Path(__file__).with_name("shapes.txt")
SIDE = 80  # longest side of a stored drawing, px
REGIONS = 4  # flat regions told apart in a drawing
ROUNDS = 8  # of k-means
FITTED_ON = 400  # pixels that settle a drawing's regions
SETS = "ntf"


class Drawing(NamedTuple):
    """A drawing RGBA [h, w, 4], the region of each pixel [h, w], the regions' mean colours [r, 3] and areas [r]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    colours: NDArray[np.float32]
    areas: NDArray[np.float32]


def nouns() -> dict[str, list[str]]:
    """Every noun and the ids of its drawings that may be learned; held-out drawings are in no noun's list."""
    held = {art.held_out(noun) for noun in art.NOUNS}
    own = {noun: [one for one in art.drawings(noun) if one[0] == "o"] for noun in art.NOUNS}
    found = {noun: ids for noun, ids in own.items() if ids}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        noun, codes = line.split(": ")
        ids = [kind + code for code in codes.split() for kind in SETS]
        found.setdefault(noun, []).extend(one for one in ids if one not in held)
    return found


def collect(twemoji: Path, fluent: Path, font: Path = art.NOTO_FONT) -> dict[str, NDArray[np.uint8]]:
    """Every drawing some set has: id -> RGBA [h, w, 4], longest side SIDE; those no set has are left out."""
    strike = ImageFont.truetype(str(font), art.NOTO_STRIKE)
    found: dict[str, NDArray[np.uint8]] = {}
    for name in (name for ids in nouns().values() for name in ids):
        with contextlib.suppress(FileNotFoundError, ValueError):
            found[name] = smaller(_drawn(name, twemoji, fluent, strike))
    return found


def _drawn(name: str, twemoji: Path, fluent: Path, strike: ImageFont.FreeTypeFont) -> Image.Image:
    kind, code = name[0], name[1:]
    if kind == "o":
        return gateways.drawing(code)
    if kind == "t":
        return art._svg(art._by_code(twemoji, code, "svg"))
    if kind == "f":
        return Image.open(art._by_code(fluent, code, "webp"))
    return art._glyph(strike, code)


def smaller(image: Image.Image, side: int = SIDE) -> NDArray[np.uint8]:
    """A picture cut to its alpha box, longest side `side`; ValueError where it is empty."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        raise ValueError("there is nothing in this drawing")
    scale = side / max(box[2] - box[0], box[3] - box[1])
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    return np.asarray(image.crop(box).resize(size, Image.Resampling.LANCZOS))


def parted(pixels: NDArray[np.uint8]) -> Drawing:
    """A drawing with its flat regions: k-means of its solid colours, the largest region first."""
    flat = pixels[..., :3].reshape(-1, 3).astype(np.float32)
    solid = flat[pixels[..., 3].ravel() > 128]
    rng = np.random.default_rng(zlib.crc32(pixels.tobytes()))
    solid = solid[rng.choice(len(solid), FITTED_ON)]
    centres = solid[:REGIONS] + rng.normal(0, 1, (REGIONS, 3)).astype(np.float32)
    for _ in range(ROUNDS):
        nearest = ((solid[:, None] - centres) ** 2).sum(-1).argmin(1)
        centres = np.stack([solid[nearest == at].mean(0) if (nearest == at).any() else centres[at]
                            for at in range(REGIONS)])  # fmt: skip
    areas = np.bincount(nearest, minlength=REGIONS) / len(solid)
    order = np.argsort(-areas)
    centres = centres[order]
    labels = ((flat[:, None] - centres) ** 2).sum(-1).argmin(1).reshape(pixels.shape[:2])
    return Drawing(pixels, labels.astype(np.uint8), centres.astype(np.float32), areas[order].astype(np.float32))


class Shelf(NamedTuple):
    """What can be drawn: drawings by id, and the ids of each noun that has any."""

    drawings: dict[str, Drawing]
    nouns: dict[str, list[str]]


def shelf(pixels: dict[str, NDArray[np.uint8]]) -> Shelf:
    """The shelf of collected drawings."""
    known = {noun: [one for one in ids if one in pixels] for noun, ids in nouns().items()}
    return Shelf({name: parted(one) for name, one in pixels.items()}, {noun: ids for noun, ids in known.items() if ids})
