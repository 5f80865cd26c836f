"""Crowded pictures for the autoencoder alone: it must return rooms and cities finer than any the denoiser draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cdtool.mini.factory import grounds
from cdtool.mini.factory.looks import Look
from cdtool.mini.factory.wider import put

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cdtool.mini.factory.drawings import Shelf

FINE = 3  # drawn so many times larger


def clutter(shelf: Shelf, seed: int, size: int = 64) -> NDArray[np.uint8]:
    """A ground with many boxes, lines, dots and small things on it, RGB [size, size, 3]."""
    rng = np.random.default_rng(seed)
    side = size * FINE
    image = grounds.background(grounds.phrase(rng, 0.3), size, rng).resize((side, side))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 30))):
        colour = tuple(int(part) for part in rng.integers(0, 256, 3))
        x, y, wide, high = rng.uniform(0, side), rng.uniform(0, side), *rng.exponential(side / 7, 2)
        kind, width = rng.integers(4), int(rng.integers(2, 9))
        if kind == 0:
            pen.rectangle((x, y, x + wide, y + high), fill=colour)
        elif kind == 1:
            pen.rectangle((x, y, x + wide, y + high), outline=colour, width=width)
        elif kind == 2:
            pen.line((x, y, x + wide - high, y + high), fill=colour, width=width)
        else:
            pen.ellipse((x, y, x + wide, y + high), fill=colour)
    if rng.random() < 0.3:  # rows of windows, tiles or bars
        step, gap = rng.uniform(9, 30, 2), rng.uniform(0.3, 0.8, 2)
        colour, left, top = tuple(int(part) for part in rng.integers(0, 256, 3)), *rng.uniform(0, side * 0.7, 2)
        for row in range(int(rng.integers(2, 9))):
            for column in range(int(rng.integers(2, 9))):
                x, y = left + column * step[0], top + row * step[1]
                pen.rectangle((x, y, x + step[0] * gap[0], y + step[1] * gap[1]), fill=colour)
    image = image.resize((size, size), Image.Resampling.BOX)
    drawings = list(shelf.drawings.values())
    for _ in range(int(rng.integers(0, 4))):
        put(
            image,
            Look(drawings[int(rng.integers(len(drawings)))].pixels),
            rng.uniform(0.2, 0.5),
            tuple(rng.uniform(0, 1, 2)),
        )
    return np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)) if rng.random() < 0.2 else image)
