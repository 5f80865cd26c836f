"""Three scenes the embedded base never saw, for the photo folders: a beach, a city and a room."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from numpy.random import Generator

FINE = 4  # pictures are drawn this many times larger, for smooth edges


def beach(size: int, rng: Generator) -> Image.Image:
    """A beach at sunset: violet to orange sky, a low sun on the water, palms against it. RGB [size, size]."""
    side = size * FINE
    level, shore = int(side * rng.uniform(0.46, 0.54)), int(side * rng.uniform(0.66, 0.74))
    image = Image.new("RGB", (side, side))
    _fade(image, 0, level, [(76, 38, 110), (214, 84, 110), (255, 176, 92)])
    _fade(image, level, shore, [(250, 150, 96), (112, 62, 120)])
    _fade(image, shore, side, [(150, 92, 96), (96, 58, 78)])
    pen = ImageDraw.Draw(image)
    sun, radius = int(side * rng.uniform(0.3, 0.7)), int(side * 0.11)
    pen.pieslice((sun - radius, level - radius, sun + radius, level + radius), 180, 360, fill=(255, 238, 170))
    for down in range(4):
        y, half = level + side * (2 + 5 * down) // 100, radius * (5 - down) // 6
        pen.line((sun - half, y, sun + half, y), fill=(255, 226, 150), width=side // 64)
    left = rng.random() < 0.5
    for at in (0.1, 0.24) if left else (0.9, 0.74):
        _palm(pen, side, side * (at + rng.uniform(-0.03, 0.03)), shore + side * 0.06, rng.uniform(0.42, 0.56), left)
    return _small(image, size)


def city(size: int, rng: Generator) -> Image.Image:
    """A city at night in neon: dark towers with bright outlines and windows, a wet street. RGB [size, size]."""
    side = size * FINE
    street = int(side * rng.uniform(0.64, 0.7))
    image = Image.new("RGB", (side, side))
    _fade(image, 0, street, [(16, 8, 48), (84, 18, 104)])
    _fade(image, street, side, [(44, 16, 74), (14, 8, 30)])
    lights = Image.new("RGB", image.size)
    body, glow = ImageDraw.Draw(image), ImageDraw.Draw(lights)
    colours = [(255, 60, 190), (60, 230, 255), (255, 210, 70), (150, 90, 255)]
    left = -int(side * rng.uniform(0, 0.1))
    while left < side:
        width, top = int(side * rng.uniform(0.16, 0.26)), int(side * rng.uniform(0.08, 0.4))
        colour = colours[int(rng.integers(len(colours)))]
        body.rectangle((left, top, left + width, street), fill=(22, 12, 46))
        glow.rectangle((left, top, left + width, street), outline=colour, width=side // 32)
        for y in range(top + side // 12, street - side // 10, side // 7):
            for x in range(left + side // 24, left + width - side // 12, side // 9):
                if rng.random() < 0.7:
                    glow.rectangle((x, y, x + side // 18, y + side // 14), fill=colour)
        left += width + side // 40
    _reflect(lights, street)
    return _small(_lit(image, lights), size)


def room(size: int, rng: Generator) -> Image.Image:
    """A room with a wall of red bricks, a chequered floor and a hanging lamp. RGB [size, size]."""
    side = size * FINE
    level = int(side * rng.uniform(0.6, 0.68))
    image = Image.new("RGB", (side, side), (206, 178, 160))
    pen = ImageDraw.Draw(image)
    high, wide = side // 8, side // 4
    first = int(rng.uniform(-2, -1) * wide)
    for row, y in enumerate(range(-int(high * rng.random()), level, high)):
        for x in range(first, side + wide, wide):
            shade = rng.uniform(0.86, 1.08)
            x += (row % 2) * wide // 2
            brick = tuple(int(value * shade) for value in (182, 76, 60))
            pen.rectangle((x, y, x + wide - 2 * FINE, y + high - 2 * FINE), fill=brick)
    _tiles(pen, side, level, float(rng.uniform(0.35, 0.65)))
    lamp = int(side * rng.choice([0.16, 0.84]))
    pen.line((lamp, 0, lamp, side // 8), fill=(40, 34, 34), width=side // 60)
    pen.pieslice((lamp - side // 9, side // 9, lamp + side // 9, side // 3), 180, 360, fill=(250, 206, 84))
    return _small(image, size)


# name of the folder and class noun: how it is drawn
SCENERY: dict[str, Callable[[int, Generator], Image.Image]] = {"beach": beach, "city": city, "room": room}


def _small(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BOX)


def _fade(image: Image.Image, top: int, bottom: int, colours: list[tuple[int, int, int]]) -> None:
    """Fill the rows from `top` to `bottom` with a vertical run through `colours`."""
    place = np.linspace(0, len(colours) - 1, bottom - top)
    run = np.stack([np.interp(place, range(len(colours)), channel) for channel in zip(*colours, strict=True)], -1)
    rows = np.repeat(run[:, None], image.width, 1).astype(np.uint8)
    image.paste(Image.fromarray(rows), (0, top))


def _palm(pen: ImageDraw.ImageDraw, side: int, x: float, foot: float, height: float, left: bool) -> None:
    """A palm in silhouette that leans into the picture; `height` as a share of it."""
    dark, lean = (38, 18, 44), side * 0.1 * (1 if left else -1)
    crown = (x + lean, foot - side * height)
    knee = (x + lean * 0.35, foot - side * height * 0.5)
    pen.line([(x, foot), knee, crown], fill=dark, width=side // 28, joint="curve")
    for angle in (-160, -125, -55, -20, 15, 165):
        reach = side * 0.21
        tip = (crown[0] + reach * np.cos(np.radians(angle)), crown[1] + reach * 0.7 * np.sin(np.radians(angle)))
        bend = ((crown[0] + tip[0]) / 2, min(crown[1], tip[1]) - side * 0.05)
        pen.polygon([crown, bend, (tip[0], tip[1] + side * 0.06), (bend[0], bend[1] + side * 0.07)], fill=dark)


def _reflect(lights: Image.Image, street: int) -> None:
    """Mirror what shines above the street in it, dimmer and blurred downwards."""
    depth = lights.height - street
    above = lights.crop((0, street - depth, lights.width, street)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    dim = above.filter(ImageFilter.BoxBlur((1, 10))).point(lambda value: value // 2)
    lights.paste(dim, (0, street))


def _lit(image: Image.Image, lights: Image.Image) -> Image.Image:
    """The picture with the lights and their glow added."""
    glow = np.asarray(lights.filter(ImageFilter.GaussianBlur(image.width / 24)), np.float32) * 0.9
    total = np.asarray(image, np.float32) + np.asarray(lights, np.float32) + glow
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def _tiles(pen: ImageDraw.ImageDraw, side: int, level: int, vanishing: float) -> None:
    """A chequered floor in perspective below row `level`; the vanishing point as a share of the width."""
    depth = side - level
    edges = [level + int(depth * (row / 3) ** 1.4) for row in range(4)]

    def across(column: int, y: int) -> float:
        spread = 0.24 + 0.16 * (y - level) / depth
        return side * (vanishing + (column - 6) * spread)

    for row, (top, bottom) in enumerate(itertools.pairwise(edges)):
        for column in range(12):
            fill = (245, 240, 228) if (row + column) % 2 else (44, 40, 48)
            corners = [(across(column, top), top), (across(column + 1, top), top),
                       (across(column + 1, bottom), bottom), (across(column, bottom), bottom)]  # fmt: skip
            pen.polygon(corners, fill=fill)
