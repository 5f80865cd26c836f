"""Stand-ins for the artwork, which the tests do not need: a plain shape for every drawing of the small world."""

from __future__ import annotations

import colorsys

import numpy as np

from cdtool.mini.factory import art

HELD_OUT = (255, 0, 255)  # nothing else in the world is magenta


def colour_of(noun):
    """A colour of the noun's own, bright and not magenta."""
    place = list(art.NOUNS).index(noun) / len(art.NOUNS)
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(0.05 + 0.65 * place, 1, 1))


def shape(colour, height=112, width=90):
    """An ellipse on transparent ground, RGBA [height, width, 4]."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = 255 * (x * x + y * y <= 1)
    return pixels


def fake_cutouts():
    """A shape for every drawing: the noun's colour for the known ones, magenta for the held-out ones."""
    found = {}
    for noun in art.NOUNS:
        found |= {drawing: shape(colour_of(noun)) for drawing in art.drawings(noun)}
        if art.held_out(noun):
            found[art.held_out(noun)] = shape(HELD_OUT)
    return found


def near(pixels, colour, within=60):
    """Where a picture [height, width, 3] has about a colour."""
    return np.abs(pixels.astype(int) - np.array(colour)).max(axis=-1) < within
