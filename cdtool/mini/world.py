"""The small world: captioned 64x64 pictures composited from cut-outs, drawn on the fly from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cdtool.mini import art

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
    styles: float = 0.0  # share of pictures in a style
    plain: float = 0.35  # share of backgrounds that are one plain colour
    spread: float = 0.4  # how much of the free room around a thing it may wander in
    rotation: float = 0.0  # largest tilt, degrees
    scale: tuple[float, float] = (0.62, 0.78)  # longest side of a single thing, share of the picture
    rare: float = 0.0005  # share of things with a rare word before them
    open: float = 0.3  # share of captions that leave the place open

    def names(self) -> list[str]:
        """The nouns of this world."""
        return list(art.NOUNS)[: self.nouns]


NARROW = World()
WIDE = World(
    nouns=len(art.NOUNS), drawings=3, pairs=0.3, sized=0.2, tints=0.1, styles=0.08, plain=0.3, spread=0.7,
    rotation=8.0, scale=(0.5, 0.8),
)  # fmt: skip


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
TINTS = {
    "red": (220, 40, 40), "orange": (240, 140, 30), "yellow": (240, 215, 50), "green": (50, 170, 70),
    "blue": (50, 100, 230), "purple": (150, 70, 200), "pink": (245, 130, 180),
}  # fmt: skip
PLAIN = TINTS | {"white": (245, 245, 245), "grey": (140, 140, 145), "black": (25, 25, 28)}
FAR = ("far away", "very small")
NEAR = ("close up", "zoomed in")


# ---------------------------------------------------------------- backgrounds: (size, generator) -> RGB picture


def _ramp(size: int, top: tuple[int, ...], bottom: tuple[int, ...]) -> NDArray[np.float32]:
    t = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    ramp = (1 - t) * np.asarray(top, np.float32) + t * np.asarray(bottom, np.float32)
    return np.broadcast_to(ramp, (size, size, 3))


def _ground(
    size: int, rng: Generator, sky: tuple[tuple[int, ...], tuple[int, ...]], floor: tuple[tuple[int, ...], ...]
) -> Image.Image:
    pixels = np.array(_ramp(size, *sky))
    horizon = int(size * rng.uniform(0.5, 0.66))
    pixels[horizon:] = _ramp(size, floor[0], floor[1])[: size - horizon]
    pixels += rng.uniform(-12, 12, 3).astype(np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


BLUE_SKY = ((90, 160, 235), (200, 228, 250))


def _beach(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, BLUE_SKY, ((238, 214, 150), (222, 188, 118)))
    level = int(size * rng.uniform(0.42, 0.5))
    ImageDraw.Draw(image).rectangle((0, level, size, level + size // 6), fill=(40, 130, 190))
    return image


def _grass(size: int, rng: Generator) -> Image.Image:
    return _ground(size, rng, BLUE_SKY, ((120, 190, 80), (60, 140, 50)))


def _snow(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, ((150, 170, 200), (205, 215, 230)), ((250, 250, 255), (225, 232, 245)))
    draw = ImageDraw.Draw(image)
    for x, y in rng.integers(0, size, (14, 2)):
        draw.point((int(x), int(y)), fill=(255, 255, 255))
    return image


def _desert(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, ((240, 170, 90), (250, 220, 160)), ((220, 150, 80), (190, 115, 60)))
    left = int(rng.uniform(-0.3, 0.5) * size)
    peak = (left + size // 2, int(size * 0.42))
    ImageDraw.Draw(image).polygon([(left, int(size * 0.68)), peak, (left + size, int(size * 0.68))], (214, 140, 72))
    return image


def _night(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, ((8, 10, 40), (36, 40, 90)), ((24, 40, 44), (12, 22, 26)))
    draw = ImageDraw.Draw(image)
    for x, y in rng.integers(0, (size, size // 2), (12, 2)):
        draw.point((int(x), int(y)), fill=(255, 255, 210))
    return image


def _forest(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, ((40, 90, 50), (90, 150, 80)), ((70, 84, 40), (48, 60, 30)))
    draw = ImageDraw.Draw(image)
    for x in rng.integers(-4, size, 6):
        width = int(rng.integers(3, 6))
        draw.rectangle((int(x), 0, int(x) + width, int(size * 0.66)), fill=(84, 56, 34))
    return image


def _city(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, ((170, 190, 215), (215, 222, 232)), ((96, 96, 104), (70, 70, 78)))
    draw = ImageDraw.Draw(image)
    for x in range(0, size, size // 5):
        shade = int(rng.integers(90, 150))
        top = int(size * rng.uniform(0.08, 0.4))
        draw.rectangle((x, top, x + size // 5 - 2, int(size * 0.62)), fill=(shade, shade, shade + 18))
        for y in range(top + 3, int(size * 0.56), 6):
            draw.rectangle((x + 3, y, x + 4, y + 2), fill=(250, 235, 150))
    return image


def _room(size: int, rng: Generator) -> Image.Image:
    wall, light = (226, 204, 176), (214, 190, 160)
    image = _ground(size, rng, (wall, light), ((150, 100, 62), (124, 80, 48)))
    left = int(size * rng.choice([0.06, 0.66]))
    box = (left, int(size * 0.08), left + int(size * 0.28), int(size * 0.38))
    draw = ImageDraw.Draw(image)
    draw.rectangle(box, fill=(160, 210, 245), outline=(255, 255, 255), width=2)
    draw.line(((box[0] + box[2]) // 2, box[1], (box[0] + box[2]) // 2, box[3]), fill=(255, 255, 255), width=1)
    return image


def _sea(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, BLUE_SKY, ((40, 120, 190), (16, 70, 140)))
    draw = ImageDraw.Draw(image)
    for x, y in rng.integers((0, int(size * 0.66)), (size, size), (8, 2)):
        draw.line((int(x), int(y), int(x) + 5, int(y)), fill=(150, 200, 235))
    return image


def _space(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, ((6, 6, 18), (14, 14, 34)), ((150, 150, 156), (104, 104, 112)))
    draw = ImageDraw.Draw(image)
    for x, y in rng.integers((0, int(size * 0.7)), (size, size - 4), (5, 2)):
        draw.ellipse((int(x), int(y), int(x) + 7, int(y) + 3), fill=(92, 92, 100))
    return image


def _mountains(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, ((120, 170, 230), (220, 232, 245)), ((96, 150, 80), (70, 120, 60)))
    draw = ImageDraw.Draw(image)
    for middle in rng.uniform(0, 1, 3) * size:
        height, half = size * rng.uniform(0.3, 0.5), size * 0.3
        top = size * 0.62 - height
        for share, colour in ((1.0, (120, 112, 128)), (0.25, (255, 255, 255))):  # the rock, and the snow on its top
            foot = top + height * share
            draw.polygon([(middle - half * share, foot), (middle, top), (middle + half * share, foot)], colour)
    return image


PLACES: dict[str, Callable[[int, Generator], Image.Image]] = {
    "on the beach": _beach, "on the grass": _grass, "in the snow": _snow, "in the desert": _desert,
    "at night": _night, "in the forest": _forest, "in the city": _city, "in a room": _room, "on the sea": _sea,
    "on the moon": _space, "in the mountains": _mountains,
}  # fmt: skip


def background(place: str, size: int, rng: Generator) -> Image.Image:
    """The picture of a place phrase ("on the beach", "on a red background"), RGB [size, size]."""
    if place in PLACES:
        return PLACES[place](size, rng)
    colour = np.asarray(PLAIN[place.split()[-2]], np.float32) + rng.uniform(-14, 14, 3)
    pixels = colour + np.linspace(8, -8, size, dtype=np.float32)[:, None, None] * np.ones((1, size, 1), np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


# ---------------------------------------------------------------- styles: (picture, generator) -> picture


def _sketch(image: Image.Image, _: Generator) -> Image.Image:
    return _edges(image).point(lambda v: 255 - min(255, int(v * 2.2))).convert("RGB")


def _pixels(image: Image.Image, _: Generator) -> Image.Image:
    small = image.resize((image.width // 4, image.height // 4), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def _grey(image: Image.Image, _: Generator) -> Image.Image:
    return image.convert("L").convert("RGB")


def _painting(image: Image.Image, _: Generator) -> Image.Image:
    return image.filter(ImageFilter.ModeFilter(5)).filter(ImageFilter.SMOOTH)


def _blueprint(image: Image.Image, _: Generator) -> Image.Image:
    return _duotone(_edges(image).point(lambda v: min(255, int(v * 2.2))), (20, 60, 150), (235, 242, 255))


def _neon(image: Image.Image, _: Generator) -> Image.Image:
    edges = np.asarray(_edges(image), np.float32)[..., None] / 90
    glow = np.asarray(image.convert("HSV").point(lambda v: v), np.uint8).copy()
    glow[..., 1:] = 255
    colours = np.asarray(Image.fromarray(glow, "HSV").convert("RGB"), np.float32)
    return Image.fromarray((edges.clip(0, 1) * colours).clip(0, 255).astype(np.uint8))


def _sepia(image: Image.Image, _: Generator) -> Image.Image:
    return _duotone(image.convert("L"), (60, 30, 10), (255, 232, 180))


def _edges(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L"), np.float32)
    down, across = np.gradient(grey)
    return Image.fromarray(np.hypot(down, across).clip(0, 255).astype(np.uint8))


def _duotone(grey: Image.Image, dark: tuple[int, ...], light: tuple[int, ...]) -> Image.Image:
    t = np.asarray(grey, np.float32)[..., None] / 255
    pixels = (1 - t) * np.asarray(dark, np.float32) + t * np.asarray(light, np.float32)
    return Image.fromarray(pixels.astype(np.uint8))


STYLES: dict[str, Callable[[Image.Image, Generator], Image.Image]] = {
    "sketch": _sketch, "pixel art": _pixels, "black and white photo": _grey, "painting": _painting,
}  # fmt: skip
HELD_OUT_STYLES = {"blueprint": _blueprint, "neon": _neon, "sepia": _sepia}


# ---------------------------------------------------------------- things and layouts

RELATIONS = ("in front of", "next to", "on the left of", "on top of", "and")


def _thing(world: World, cutouts: dict[str, NDArray[np.uint8]], noun: str, rng: Generator) -> Thing:
    drawings = art.drawings(noun)[: world.drawings]
    pixels, words = cutouts[drawings[rng.integers(len(drawings))]], noun
    if rng.random() < world.tints:
        tint = str(rng.choice(list(TINTS)))
        pixels, words = tinted(pixels, TINTS[tint]), f"{tint} {noun}"
    elif rng.random() < world.rare:
        words = f"{rng.choice(RARE_WORDS)} {noun}"
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
