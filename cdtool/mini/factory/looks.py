"""Looks, independent of shapes: a drawing recoloured by its regions, marked, bent, with things worn; told in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from cdtool.mini.factory.drawings import Drawing

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

COLOURS = {
    "red": (215, 40, 40), "orange": (240, 135, 30), "yellow": (242, 212, 50), "green": (50, 165, 70),
    "blue": (50, 100, 225), "purple": (145, 70, 200), "pink": (245, 130, 180), "brown": (125, 76, 40),
    "tan": (212, 170, 115), "white": (244, 244, 244), "grey": (140, 140, 146), "black": (38, 38, 44),
    "teal": (40, 165, 170),
}  # fmt: skip
MARKS = ("spots", "stripes", "patches")
ADJECTIVES = {"spots": "spotted", "stripes": "striped", "patches": "patched"}


@dataclass(frozen=True)
class Dials:
    """How often a thing gets which look."""

    recoloured: float = 0.6
    marked: float = 0.25
    worn: float = 0.25
    bent: float = 0.7
    bend: float = 0.1  # of a corner, share of the side


@dataclass
class Look:
    """One individual: RGBA [h, w, 4], and what can be told of it: colours, the largest area first, marks, things."""

    pixels: NDArray[np.uint8]
    colours: list[str] = field(default_factory=list)
    mark: str = ""
    mark_colour: str = ""
    worn: str = ""
    worn_colour: str = ""


def look(drawing: Drawing, rng: Generator, dials: Dials | None = None) -> Look:
    """A drawing in a look of its own."""
    dials = dials or Dials()
    own = Look(drawing.pixels)
    if rng.random() < dials.recoloured:
        own = recoloured(drawing, rng)
    if rng.random() < dials.marked:
        marked(own, drawing, rng)
    if rng.random() < dials.bent:
        own.pixels = bent(own.pixels, rng, dials.bend)
    if rng.random() < dials.worn:
        wear(own, rng)
    return own


def _colour(rng: Generator, but: tuple[str, ...] = ()) -> tuple[str, NDArray[np.float32]]:
    names = [name for name in COLOURS if name not in but]
    name = names[int(rng.integers(len(names)))]
    return name, np.asarray(COLOURS[name], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)


def recoloured(drawing: Drawing, rng: Generator) -> Look:
    """One to three of the largest regions in new colours, each keeping its shades; the others stay as they are."""
    count = int(rng.choice([1, 2, 2, 3, 4]))
    table, gain = np.zeros((len(drawing.colours), 3), np.float32), rng.uniform(0.5, 1.1)
    names: list[str] = []
    last = np.zeros(3, np.float32)
    moved = np.zeros(len(drawing.colours), bool)
    for region in range(min(count, len(drawing.colours))):
        same = len(names) == 1 and rng.random() < 0.35
        name, colour = (names[-1], last * rng.uniform(0.7, 0.95)) if same else _colour(rng, tuple(names))
        table[region], moved[region] = colour, True
        if name not in names:
            names.append(name)
    shades = (drawing.pixels[..., :3] - drawing.colours[drawing.labels]) * gain
    fresh = (table[drawing.labels] + shades).clip(0, 255).astype(np.uint8)
    rgb = np.where(moved[drawing.labels][..., None], fresh, drawing.pixels[..., :3])
    return Look(np.concatenate([rgb, drawing.pixels[..., 3:]], -1), names)


def marked(own: Look, drawing: Drawing, rng: Generator) -> None:
    """Spots, stripes or patches of another colour on the largest region, or on all of the thing."""
    height, width = drawing.labels.shape
    own.mark = MARKS[int(rng.integers(len(MARKS)))]
    own.mark_colour, colour = _colour(rng, tuple(own.colours[:1]))
    where = _pattern(own.mark, height, width, rng)
    if rng.random() < 0.6:
        where = where & (drawing.labels <= 1)
    pixels = own.pixels.copy()
    grey = pixels[..., :3].mean(-1, keepdims=True)
    shade = 0.75 + 0.25 * grey / max(float(grey.mean()), 40.0)
    pixels[..., :3] = np.where(where[..., None], (colour * shade).clip(0, 255), pixels[..., :3]).astype(np.uint8)
    own.pixels = pixels


def _pattern(mark: str, height: int, width: int, rng: Generator) -> NDArray[np.bool_]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    if mark == "stripes":
        angle, period = rng.uniform(0, np.pi), rng.uniform(9, 22)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + rng.uniform(0, 6))
        stripes: NDArray[np.bool_] = wave > rng.uniform(0, 0.5)
        return stripes
    many = mark == "spots"
    count, low, high = (int(rng.integers(7, 16)), 3.5, 7.5) if many else (int(rng.integers(1, 4)), 12.0, 26.0)
    mask = Image.new("1", (width, height))
    pen = ImageDraw.Draw(mask)
    for _ in range(count):
        cx, cy, r, s = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(low, high), rng.uniform(0.7, 1.3)
        pen.ellipse((cx - r * s, cy - r / s, cx + r * s, cy + r / s), fill=1)
    return np.asarray(mask)


def bent(pixels: NDArray[np.uint8], rng: Generator, most: float) -> NDArray[np.uint8]:
    """The corners pulled by up to `most` of the side, and stretched or squeezed: another of its kind."""
    height, width = pixels.shape[:2]
    taller = float(rng.uniform(0.85, 1.18)) ** 0.5
    size = (max(8, round(width / taller)), max(8, round(height * taller)))
    pull = rng.uniform(-most, most, 8) * np.tile([width, height], 4) - most / 2 * np.array(
        [width, height, width, -height, -width, -height, -width, height]
    )
    quad = np.array([0, 0, 0, height, width, height, width, 0]) + pull
    image = Image.fromarray(pixels).transform(size, Image.Transform.QUAD, tuple(quad), Image.Resampling.BILINEAR)
    box = image.getchannel("A").getbbox()
    return np.asarray(image.crop(box) if box else image)


# ---------------------------------------------------------------- things worn


class Body:
    """Where things go on a drawing: its canvas with room above, its mask, and the box of the mask."""

    def __init__(self, pixels: NDArray[np.uint8], room: int = 0) -> None:
        """Add `room` px above."""
        self.pixels = np.pad(pixels, ((room, 0), (0, 0), (0, 0))) if room else pixels.copy()
        self.mask = self.pixels[..., 3] > 128
        self.height, self.width = pixels.shape[:2]
        self.top = room

    def row(self, share: float) -> int:
        """The row at a share of the body's height."""
        return self.top + int(self.height * share)

    def paint(self, where: NDArray[np.bool_], colour: NDArray[np.float32]) -> None:
        """Colour the pixels of the mask."""
        self.pixels[where, :3] = colour.clip(0, 255).astype(np.uint8)
        self.pixels[where, 3] = 255

    def span(self, row: int) -> tuple[int, int]:
        """First and last column of the mask in a row; the whole width where it is empty."""
        found = np.flatnonzero(self.mask[min(row, len(self.mask) - 1)])
        return (int(found[0]), int(found[-1])) if len(found) else (0, self.width - 1)


def _vest(body: Body, colour: NDArray[np.float32], rng: Generator) -> None:
    left, width = rng.uniform(0.25, 0.45), rng.uniform(0.25, 0.4)
    top, high = rng.uniform(0.3, 0.45), rng.uniform(0.3, 0.45)
    where = np.zeros_like(body.mask)
    rows, columns = slice(body.row(top), body.row(top + high)), slice(int(body.width * left),
                                                                    int(body.width * (left + width)))  # fmt: skip
    where[rows, columns] = body.mask[rows, columns]
    body.paint(where, colour)
    if rng.random() < 0.6:  # a bright stripe
        bright = np.zeros_like(where)
        at = body.row(top + high * rng.uniform(0.3, 0.7))
        bright[at : at + 4] = where[at : at + 4]
        body.paint(bright, np.asarray((250, 245, 170) if rng.random() < 0.5 else (245, 245, 245), np.float32))


def _band(
    low: float, high: float, thick: tuple[float, float]
) -> Callable[[Body, NDArray[np.float32], Generator], None]:
    def put(body: Body, colour: NDArray[np.float32], rng: Generator) -> None:
        at, size = rng.uniform(low, high), rng.uniform(*thick)
        where = np.zeros_like(body.mask)
        rows = slice(body.row(at), body.row(at + size) + 1)
        where[rows] = body.mask[rows]
        body.paint(where, colour)

    return put


def _scarf(body: Body, colour: NDArray[np.float32], rng: Generator) -> None:
    at = rng.uniform(0.36, 0.5)
    rows = slice(body.row(at), body.row(at + 0.11))
    where = np.zeros_like(body.mask)
    where[rows] = body.mask[rows]
    left, right = body.span(body.row(at + 0.1))
    x = int(left + (right - left) * rng.uniform(0.15, 0.7))
    where[body.row(at) : body.row(at + 0.36), x : x + max(5, body.width // 9)] = True
    body.paint(where, colour)


def _hat(body: Body, colour: NDArray[np.float32], rng: Generator) -> None:
    columns = np.flatnonzero(body.mask[body.row(0.02) : body.row(0.12)].any(0))
    middle = float(np.median(columns)) if len(columns) else body.width / 2
    half, base = body.width * rng.uniform(0.16, 0.24), body.row(0.07)
    image = Image.new("1", body.mask.shape[::-1])
    pen = ImageDraw.Draw(image)
    top = max(0, base - 22)
    if rng.random() < 0.5:
        pen.rectangle((middle - half * 1.5, base - 4, middle + half * 1.5, base), fill=1)
        pen.rectangle((middle - half * 0.8, top + 3, middle + half * 0.8, base), fill=1)
    else:
        pen.polygon([(middle - half, base), (middle, top), (middle + half, base)], fill=1)
    body.paint(np.asarray(image), colour)


def _bag(body: Body, colour: NDArray[np.float32], rng: Generator) -> None:
    image = Image.new("1", body.mask.shape[::-1])
    pen = ImageDraw.Draw(image)
    x, y, side = (
        body.width * rng.uniform(0.3, 0.6),
        body.row(rng.uniform(0.5, 0.6)),
        body.width * rng.uniform(0.2, 0.28),
    )
    pen.rectangle((x, y, x + side, y + side * 0.85), fill=1)
    pen.line((x + side / 2, y, x + side * rng.uniform(-0.4, 0.4), body.row(0.25)), fill=1, width=3)
    body.paint(np.asarray(image), colour)


def _bow(body: Body, colour: NDArray[np.float32], rng: Generator) -> None:
    image = Image.new("1", body.mask.shape[::-1])
    pen = ImageDraw.Draw(image)
    row = body.row(rng.uniform(0.3, 0.55))
    left, right = body.span(row)
    x, size = left + (right - left) * rng.uniform(0.3, 0.7), body.width * rng.uniform(0.14, 0.2)
    for way in (-1, 1):
        pen.polygon([(x, row), (x + way * size, row - size * 0.7), (x + way * size, row + size * 0.7)], fill=1)
    body.paint(np.asarray(image), colour)


WORN: dict[str, Callable[[Body, NDArray[np.float32], Generator], None]] = {
    "vest": _vest, "scarf": _scarf, "hat": _hat, "bag": _bag, "bow": _bow,
    "band": _band(0.45, 0.7, (0.07, 0.13)), "collar": _band(0.36, 0.46, (0.05, 0.07)),
}  # fmt: skip


def wear(own: Look, rng: Generator) -> None:
    """Put one thing of WORN on a look."""
    own.worn = list(WORN)[int(rng.integers(len(WORN)))]
    own.worn_colour, colour = _colour(rng, tuple(own.colours[:1]))
    body = Body(own.pixels, room=18 if own.worn == "hat" else 0)
    WORN[own.worn](body, colour, rng)
    own.pixels = body.pixels
