"""More places of the world, beside the plain ones and landscapes of `places`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from cdtool.mini.factory import places

if TYPE_CHECKING:
    from numpy.random import Generator


def _faded(size: int, rng: Generator, *colours: tuple[int, int, int]) -> Image.Image:
    """Colours from top to bottom, a little off each time."""
    at = np.linspace(0, len(colours) - 1, size)
    stops = np.asarray(colours, np.float32) + rng.uniform(-12, 12, 3)
    column = np.stack([np.interp(at, np.arange(len(colours)), stops[:, channel]) for channel in range(3)], -1)
    return Image.fromarray(np.broadcast_to(column[:, None], (size, size, 3)).clip(0, 255).astype(np.uint8))


def _sunset(size: int, rng: Generator) -> Image.Image:
    image = _faded(size, rng, (90, 60, 130), (240, 110, 90), (255, 200, 110))
    pen = ImageDraw.Draw(image)
    x, level = size * rng.uniform(0.15, 0.85), int(size * rng.uniform(0.58, 0.7))
    pen.ellipse((x - size * 0.1, level - size * 0.12, x + size * 0.1, level + size * 0.08), fill=(255, 240, 190))
    pen.rectangle((0, level, size, size), fill=(86, 56, 70))
    return image


def _garden(size: int, rng: Generator) -> Image.Image:
    image = _faded(size, rng, (150, 205, 245), (215, 238, 250), (110, 185, 90), (60, 140, 60))
    pen = ImageDraw.Draw(image)
    for x, y in rng.integers((0, size // 2), (size, size), (16, 2)):
        pen.ellipse((int(x), int(y), int(x) + 2, int(y) + 2), fill=[(240, 80, 90), (250, 220, 80), (250, 250, 250),
                                                                  (200, 110, 220)][int(rng.integers(4))])  # fmt: skip
    return image


def _under_water(size: int, rng: Generator) -> Image.Image:
    image = _faded(size, rng, (70, 180, 220), (20, 90, 160), (10, 50, 100))
    pen = ImageDraw.Draw(image)
    for x, y in rng.integers(0, size, (9, 2)):
        pen.ellipse((int(x), int(y), int(x) + 3, int(y) + 3), outline=(190, 230, 245))
    return image


def _road(size: int, rng: Generator) -> Image.Image:
    image = _faded(size, rng, (140, 190, 235), (210, 228, 240))
    pen = ImageDraw.Draw(image)
    level, middle = int(size * rng.uniform(0.45, 0.6)), size * rng.uniform(0.3, 0.7)
    pen.rectangle((0, level, size, size), fill=(110, 160, 80))
    pen.polygon([(middle - 3, level), (middle + 3, level), (size * 1.1, size), (-size * 0.1, size)], fill=(90, 90, 98))
    pen.line((middle, level, size / 2, size), fill=(240, 230, 150), width=2)
    return image


def _table(size: int, rng: Generator) -> Image.Image:
    image = _faded(size, rng, (232, 224, 210), (214, 204, 190))
    pen = ImageDraw.Draw(image)
    level = int(size * rng.uniform(0.55, 0.68))
    pen.rectangle((0, level, size, size), fill=(168, 112, 66))
    for y in range(level + 5, size, 7):
        pen.line((0, y, size, y), fill=(140, 90, 50))
    return image


def _wall(size: int, rng: Generator) -> Image.Image:
    image = _faded(size, rng, (186, 96, 74), (160, 80, 62))
    pen = ImageDraw.Draw(image)
    for row, y in enumerate(range(0, size, 8)):
        pen.line((0, y, size, y), fill=(214, 190, 176))
        for x in range(row % 2 * 8, size, 16):
            pen.line((x, y, x, y + 8), fill=(214, 190, 176))
    return image


def _checks(size: int, rng: Generator) -> Image.Image:
    step, names = int(rng.integers(6, 12)), list(places.PLAIN)
    two = np.asarray([places.PLAIN[names[int(at)]] for at in rng.choice(len(names), 2, replace=False)], np.uint8)
    y, x = np.mgrid[:size, :size] // step
    return Image.fromarray(two[(x + y) % 2 if rng.random() < 0.5 else x % 2])


PLACES: dict[str, Callable[[int, Generator], Image.Image]] = {
    "at sunset": _sunset, "in a garden": _garden, "under water": _under_water, "on a road": _road,
    "on a table": _table, "in front of a wall": _wall, "on a pattern": _checks,
}  # fmt: skip


def background(place: str, size: int, rng: Generator) -> Image.Image:
    """The picture of a place phrase, RGB [size, size]."""
    return PLACES[place](size, rng) if place in PLACES else places.background(place, size, rng)


def phrase(rng: Generator, plain: float) -> str:
    """A random place phrase, a plain ground in a share of `plain`."""
    names = [*places.PLAIN] if rng.random() < plain else [*places.PLACES, *PLACES]
    name = names[int(rng.integers(len(names)))]
    return f"on a{'n' if name[0] in 'aeiou' else ''} {name} background" if name in places.PLAIN else name
