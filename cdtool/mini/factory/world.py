"""What the world's pictures and captions are put together from: cut-outs, colours, articles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 64  # side of a picture, px
FAR = ("far away", "very small")
NEAR = ("close up", "zoomed in")


def article(words: str) -> str:
    """`words` with its indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


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
