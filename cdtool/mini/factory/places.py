"""The places of the small world: backgrounds by place phrase, landscapes and plain colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

TINTS = {
    "red": (220, 40, 40), "orange": (240, 140, 30), "yellow": (240, 215, 50), "green": (50, 170, 70),
    "blue": (50, 100, 230), "purple": (150, 70, 200), "pink": (245, 130, 180),
}  # fmt: skip
PLAIN = TINTS | {"white": (245, 245, 245), "grey": (140, 140, 145), "black": (25, 25, 28)}


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
