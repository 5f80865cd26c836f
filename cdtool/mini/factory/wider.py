"""The wider world: individuals of any shape in any look, alone or two together, in many places, told in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from cdtool.mini.factory import art, grounds, near, telling
from cdtool.mini.factory.drawings import Drawing, Shelf
from cdtool.mini.factory.looks import COLOURS, Dials, Look, look
from cdtool.mini.factory.styles import STYLES
from cdtool.mini.factory.world import FAR, NEAR, tinted

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

COMMON = list(art.NOUNS)[:40]  # what people ask for most


@dataclass(frozen=True)
class Wide:
    """The dials of the wider world."""

    size: int = 64  # side of a picture, px
    common: float = 0.5  # share of things that are of the nouns people ask for most
    hybrids: float = 0.06  # share of things whose upper and lower halves are of two drawings
    pairs: float = 0.3
    named: float = 0.5  # share of things told by a name instead of by their looks
    tinted: float = 0.06  # share of things in one colour all over
    sized: float = 0.12
    styles: float = 0.07
    plain: float = 0.3  # share of plain grounds
    open: float = 0.25  # share of captions that leave the place open
    tilt: float = 6.0  # degrees
    dials: Dials = field(default_factory=Dials)


class Scene(NamedTuple):
    """A picture [size, size, 3], its caption, its nouns, and a view by itself of each individual that has a name."""

    pixels: NDArray[np.uint8]
    caption: str
    nouns: tuple[str, ...]
    views: tuple[NDArray[np.uint8] | None, ...]


def draw(world: Wide, shelf: Shelf, seed: int, nouns: tuple[str, ...] = ()) -> Scene:
    """The picture of `seed`; `nouns` fixes what is in it (one or two)."""
    rng = np.random.default_rng(seed)
    nouns = nouns or tuple(_noun(world, shelf, rng) for _ in range(2 if rng.random() < world.pairs else 1))
    place = grounds.phrase(rng, world.plain)
    canvas = grounds.background(place, world.size, rng)
    looks, told, views = [], [], []
    for order, noun in enumerate(nouns):
        own, words, view = _individual(world, shelf, noun, telling.NAMES[order], rng)
        looks.append(own)
        told.append(words)
        views.append(view)
    size, relation = "", telling.RELATIONS[int(rng.integers(len(telling.RELATIONS)))]
    if len(looks) == 1:
        size = str(rng.choice(FAR + NEAR)) if rng.random() < world.sized else ""
        single(world, canvas, looks[0], size, rng)
    else:
        pair(world, canvas, looks[0], looks[1], relation, rng)
    medium = "photo" if rng.random() < 0.6 else ""
    if rng.random() < world.styles:
        medium = str(rng.choice(list(STYLES)))
        canvas = STYLES[medium](canvas, rng)
    text = telling.caption(told, relation, "" if rng.random() < world.open else place, medium, size, rng)
    return Scene(np.asarray(canvas), text, nouns, tuple(views))


def _noun(world: Wide, shelf: Shelf, rng: Generator) -> str:
    names = COMMON if rng.random() < world.common else list(shelf.nouns)
    noun = names[int(rng.integers(len(names)))]
    return noun if noun in shelf.nouns else _noun(world, shelf, rng)


def _individual(
    world: Wide, shelf: Shelf, noun: str, name: str, rng: Generator
) -> tuple[Look, str, NDArray[np.uint8] | None]:
    ids = shelf.nouns[noun]
    chosen = ids[int(rng.integers(len(ids)))]
    drawing, named = shelf.drawings[chosen], rng.random() < world.named
    if rng.random() < world.hybrids:
        other = list(shelf.drawings.values())[int(rng.integers(len(shelf.drawings)))]
        drawing, noun = hybrid(drawing, other, rng), "thing"
    own = look(drawing, rng, world.dials)
    while near.unmet(chosen, own):
        own = look(drawing, rng, world.dials)
    view = alone(own, world.size) if named else None
    words = telling.thing(noun, own, rng, name if named else "")
    if rng.random() < world.tinted:
        colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
        own.pixels = tinted(own.pixels, COLOURS[colour])
        words = f"{colour} {name} {noun}" if named else f"{colour} {noun}"
    return own, words, view


def hybrid(upper: Drawing, lower: Drawing, rng: Generator) -> Drawing:
    """The upper part of one drawing on the lower part of another, regions and all."""
    height, width = upper.labels.shape
    cut = int(height * rng.uniform(0.35, 0.65))
    rows = (np.linspace(0, len(lower.labels) - 1, height).astype(int))[cut:]
    columns = np.linspace(0, lower.labels.shape[1] - 1, width).astype(int)
    pixels, labels = upper.pixels.copy(), upper.labels.copy()
    pixels[cut:] = lower.pixels[rows][:, columns]
    labels[cut:] = lower.labels[rows][:, columns]
    return upper._replace(pixels=pixels, labels=labels)


def alone(own: Look, size: int) -> NDArray[np.uint8]:
    """An individual by itself on white, RGB [size, size, 3]: what its name stands for."""
    canvas = Image.new("RGB", (size, size), (255, 255, 255))
    put(canvas, own, 0.9, (0.5, 0.5))
    return np.asarray(canvas)


def put(
    canvas: Image.Image, own: Look, side: float, centre: tuple[float, float], tilt: float = 0.0, mirrored: bool = False
) -> None:
    """Draw a look on `canvas`: longest side and centre as shares of it, tilt in degrees."""
    pixels = own.pixels[:, ::-1] if mirrored else own.pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = side * canvas.width / max(image.size)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(shape, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if abs(tilt) > 1:
        image = image.rotate(tilt, Image.Resampling.BILINEAR, expand=True)
    corner = (round(centre[0] * canvas.width - image.width / 2), round(centre[1] * canvas.height - image.height / 2))
    canvas.paste(image, corner, image)


def single(world: Wide, canvas: Image.Image, own: Look, size: str, rng: Generator) -> None:
    """Draw one thing on `canvas`; `size` is one of the size words or ""."""
    side, spread = rng.uniform(0.5, 0.85), 0.8
    if size in FAR:
        side, spread = rng.uniform(0.25, 0.4), 1.0
    elif size in NEAR:
        side, spread = rng.uniform(1.0, 1.35), 0.3
    room = max(0.1, 1 - side) / 2 * spread
    centre = (0.5 + rng.uniform(-room, room), 0.53 + rng.uniform(-room, room))
    put(canvas, own, side, centre, rng.uniform(-world.tilt, world.tilt), bool(rng.random() < 0.5))


def pair(world: Wide, canvas: Image.Image, first: Look, second: Look, relation: str, rng: Generator) -> None:
    """Draw two things on `canvas` as one of `telling.RELATIONS` says."""
    shift, side, flips = rng.uniform(-0.04, 0.04, 4), rng.uniform(0.42, 0.52), rng.random(2) < 0.5
    tilt = rng.uniform(-world.tilt, world.tilt, 2) / 2
    if relation == "in front of":
        behind = (rng.choice([0.36, 0.5, 0.64]) + shift[0], 0.4 + shift[1])
        before = (rng.choice([0.28, 0.5, 0.72]) + shift[2], 0.74 + shift[3])
        put(canvas, second, rng.uniform(0.62, 0.78), behind, tilt[0], flips[0])
        put(canvas, first, side, before, tilt[1], flips[1])
    elif relation == "on top of":
        put(canvas, second, side, (0.5 + shift[0], 0.74 + shift[1]), tilt[0], flips[0])
        put(canvas, first, side * 0.95, (0.5 + shift[2], 0.3 + shift[3]), tilt[1], flips[1])
    else:
        swapped = relation != "on the left of" and rng.random() < 0.5
        left, right = (second, first) if swapped else (first, second)
        put(canvas, left, side, (0.26 + shift[0], 0.56 + shift[1]), tilt[0], flips[0])
        put(canvas, right, side, (0.74 + shift[2], 0.56 + shift[3]), tilt[1], flips[1])
