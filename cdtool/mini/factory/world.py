"""The small world: captioned 64x64 pictures composited from cut-outs, drawn on the fly from a seed."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from cdtool.mini.factory import art
from cdtool.mini.factory.places import PLACES, PLAIN, TINTS, background
from cdtool.mini.factory.styles import STYLES

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray


@dataclass(frozen=True)
class World:
    """The dials of the world; the defaults are the narrow one."""

    size: int = 64  # picture side, px
    nouns: int = 40  # the first so many of art.NOUNS
    drawings: int = 2  # at most so many per noun, the most typical first
    pairs: float = 0.25  # share of pictures with two things
    sized: float = 0.15  # share of single things that are far away or close up, and say so
    tints: float = 0.0  # share of things with a colour word
    coats: float = 0.0  # share of things, of those nouns that a drawing is held out of, in a coat no word tells of
    styles: float = 0.0  # share of pictures in a style
    plain: float = 0.35  # share of backgrounds that are one plain colour
    spread: float = 0.4  # how much of the free room around a thing it may wander in
    rotation: float = 0.0  # largest tilt, degrees
    scale: tuple[float, float] = (0.62, 0.78)  # longest side of a single thing, share of the picture
    rare: float = 0.0005  # share of things with a rare word before them
    twins: float = 0.0  # share of things drawn as a near twin of their held-out drawing; not for what draws
    open: float = 0.3  # share of captions that leave the place open

    def names(self) -> list[str]:
        """The nouns of this world."""
        return list(art.NOUNS)[: self.nouns]


NARROW = World()
BROAD = World(
    drawings=10, coats=0.4, pairs=0.25, sized=0.15, tints=0.12, styles=0.1, spread=0.55, scale=(0.55, 0.8), rare=0.0,
)  # fmt: skip
WIDE = World(
    nouns=len(art.NOUNS), drawings=3, pairs=0.3, sized=0.2, tints=0.1, styles=0.08, plain=0.3, spread=0.7,
    rotation=8.0, scale=(0.5, 0.8),
)  # fmt: skip


JUDGED = replace(
    WIDE, drawings=10, coats=0.3, twins=0.3
)  # what the judge sees: it must know a castle of a kind it has not met


class Thing(NamedTuple):
    """A noun as it is drawn: words for the caption, and the cut-out."""

    words: str
    cutout: Image.Image


class Picture(NamedTuple):
    """A finished picture: RGB [size, size, 3] uint8, its caption, and its nouns in caption order."""

    pixels: NDArray[np.uint8]
    caption: str
    nouns: tuple[str, ...]


RARE_WORDS = ("ktn", "pll", "ucd", "zqv", "wjx", "bfk", "gdh", "yrp")
FAR = ("far away", "very small")
NEAR = ("close up", "zoomed in")


# ---------------------------------------------------------------- things and layouts

RELATIONS = ("in front of", "next to", "on the left of", "on top of", "and")


def _thing(world: World, cutouts: dict[str, NDArray[np.uint8]], noun: str, rng: Generator) -> Thing:
    drawings = art.drawings(noun)[: world.drawings]
    if world.twins and rng.random() < world.twins:
        drawings = [drawing for drawing in art.twins(noun) if drawing in cutouts] or drawings
    pixels, words = cutouts[drawings[rng.integers(len(drawings))]], noun
    if rng.random() < world.tints:
        tint = str(rng.choice(list(TINTS)))
        pixels, words = tinted(pixels, TINTS[tint]), f"{tint} {noun}"
    elif rng.random() < world.rare:
        words = f"{rng.choice(RARE_WORDS)} {noun}"
    if world.coats and words == noun and art.held_out(noun) and rng.random() < world.coats:
        pixels = coated(pixels, rng)
    image = Image.fromarray(pixels)
    return Thing(words, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image)


def tinted(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A cut-out recoloured: its brightness spread around the mean, times `colour`."""
    grey = pixels[..., :3].mean(-1, keepdims=True)
    solid = pixels[..., 3:] > 128
    middle = float(grey[solid].mean()) if solid.any() else 128.0
    shade = np.clip(grey / max(middle, 60.0), 0.25, 1.6)
    coloured = (shade * np.asarray(colour, np.float32)).clip(0, 255).astype(np.uint8)
    return np.concatenate([coloured, pixels[..., 3:]], -1)


def coated(pixels: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """A cut-out as another of its kind might look: partly of another colour, mostly to one side, and stretched."""
    hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.1, 0.9), rng.uniform(0.2, 0.95)
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    height, width = pixels.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    across = np.linspace(-1, 1, width)[None, :] * np.cos(angle) + np.linspace(-1, 1, height)[:, None] * np.sin(angle)
    share = np.clip(rng.uniform(0, 0.9) + rng.uniform(0, 0.8) * across, 0, 1)[..., None]
    mixed = (1 - share) * pixels + share * tinted(pixels, (red, green, blue))
    taller = rng.uniform(0.85, 1.2)
    image = Image.fromarray(mixed.astype(np.uint8))
    return np.asarray(
        image.resize((round(width / taller**0.5), round(height * taller**0.5)), Image.Resampling.BILINEAR)
    )


def paste(
    canvas: Image.Image, cutout: Image.Image, side: float, centre: tuple[float, float], tilt: float = 0.0
) -> None:
    """Draw a cut-out on `canvas`: longest side and centre as shares of the canvas, tilt in degrees."""
    size = canvas.width
    scale = side * size / max(cutout.size)
    shape = (max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale)))
    image = cutout.resize(shape, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if tilt:
        image = image.rotate(tilt, Image.Resampling.BILINEAR, expand=True)
    corner = (round(centre[0] * size - image.width / 2), round(centre[1] * size - image.height / 2))
    canvas.paste(image, corner, image)


def _single(world: World, canvas: Image.Image, thing: Thing, size_word: str, rng: Generator) -> None:
    if size_word in FAR:
        side, spread = rng.uniform(0.25, 0.4), 1.0
    elif size_word in NEAR:
        side, spread = rng.uniform(1.0, 1.35), 0.3
    else:
        side, spread = rng.uniform(*world.scale), world.spread
    room = max(0.1, 1 - side) / 2 * spread
    x, y = 0.5 + rng.uniform(-room, room), 0.54 + rng.uniform(-room, room)
    paste(canvas, thing.cutout, side, (x, y), rng.uniform(-world.rotation, world.rotation))


def _pair(canvas: Image.Image, first: Thing, second: Thing, relation: str, rng: Generator) -> None:
    jitter = rng.uniform(-0.03, 0.03, 4)
    side = rng.uniform(0.42, 0.5)
    if relation == "in front of":
        behind, x = rng.uniform(0.66, 0.78), rng.choice([0.32, 0.5, 0.68])
        paste(canvas, second.cutout, behind, (0.5 + jitter[0], 0.4 + jitter[1]))
        paste(canvas, first.cutout, side, (x + jitter[2], 0.74 + jitter[3]))
    elif relation == "on top of":
        paste(canvas, second.cutout, side, (0.5 + jitter[0], 0.74 + jitter[1]))
        paste(canvas, first.cutout, side * 0.95, (0.5 + jitter[0], 0.3 + jitter[3]))
    else:
        left, right = (first, second) if relation == "on the left of" or rng.random() < 0.5 else (second, first)
        paste(canvas, left.cutout, side, (0.26 + jitter[0], 0.56 + jitter[1]))
        paste(canvas, right.cutout, side, (0.74 + jitter[2], 0.56 + jitter[3]))


# ---------------------------------------------------------------- the grammar


def article(words: str) -> str:
    """`words` with its indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def place_phrase(world: World, rng: Generator) -> str:
    """A random place phrase of the world."""
    if rng.random() < world.plain:
        return f"on {article(str(rng.choice(list(PLAIN))))} background"
    return str(rng.choice(list(PLACES)))


def draw(world: World, cutouts: dict[str, NDArray[np.uint8]], seed: int, nouns: tuple[str, ...] = ()) -> Picture:
    """The picture of `seed`; `nouns` fixes what is in it (one or two), otherwise the world chooses."""
    rng = np.random.default_rng(seed)
    names = world.names()
    if not nouns:
        count = 2 if rng.random() < world.pairs else 1
        nouns = tuple(str(noun) for noun in rng.choice(names, count, replace=False))
    place = place_phrase(world, rng)
    canvas = background(place, world.size, rng)
    things = [_thing(world, cutouts, noun, rng) for noun in nouns]
    size_word = ""
    if len(things) == 1:
        if rng.random() < world.sized:
            size_word = str(rng.choice(FAR + NEAR))
        _single(world, canvas, things[0], size_word, rng)
        words = article(things[0].words)
    else:
        relation = str(rng.choice(RELATIONS))
        _pair(canvas, things[0], things[1], relation, rng)
        words = f"{article(things[0].words)} {relation} {article(things[1].words)}"
    medium = "photo" if rng.random() < 0.6 else ""
    if rng.random() < world.styles:
        medium = str(rng.choice(list(STYLES)))
        canvas = STYLES[medium](canvas, rng)
    caption = _caption(words, "" if rng.random() < world.open else f" {place}", medium, size_word, rng)
    return Picture(np.asarray(canvas), caption, nouns)


def _caption(words: str, place: str, medium: str, size_word: str, rng: Generator) -> str:
    text = f"{medium} of {words}{place}" if medium else f"{words}{place}"
    if medium and rng.random() < 0.2:
        text = article(text)
    if not size_word:
        return text
    return f"a {size_word} {text}" if size_word == "far away" else f"{size_word} {text}"
