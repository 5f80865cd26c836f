"""The styles of the small world, and those held out of it: (picture, generator) -> picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from numpy.random import Generator


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
    edges = (
        np.asarray(_edges(image).filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.SMOOTH), np.float32)[..., None]
        / 90
    )
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
