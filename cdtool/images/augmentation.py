"""The crops training sees: square, flipped, near and far, with the size words and the loss mask that go with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAR = ("a far away ", "very small ")
NEAR = ("zoomed in ", "close up ")
FLIPPED = 1 / 2  # share of mirrored crops
ZOOMED = 1 / 3  # share of zoomed crops
ZOOM = (1.2, 1.4)
SCALE = (0.4, 1.0)  # of the others
SMALL = 0.6  # below it a picture is pasted small; from it on it is shown in full size
GREY = 128  # zero in [-1, 1]
Seed = int | Sequence[int]


@dataclass(frozen=True)
class Crop:
    """A training picture: pixels uint8 [S, S, 3], where the loss counts bool [h, w], and the caption's size word."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    prefix: str = ""
    flipped: bool = False


def crop(
    image: Image.Image, resolution: int, latent_side: int, *, seed: Seed, photo: int, index: int, augment: bool = True
) -> Crop:
    """Crop number `index` of photo number `photo`: a function of (seed, photo, index) and of nothing else.

    `resolution` is S in px, `latent_side` the mask's side h = w. Without `augment` only the flip is left to chance.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(photo, index)))
    flip, zoomed, scale, word, x, y = rng.random(6)
    flipped = bool(flip < FLIPPED)
    square = _square(image, flipped)
    if not augment:
        return Crop(_resized(square, resolution), _everywhere(latent_side), flipped=flipped)
    if zoomed < ZOOMED:
        side = round(resolution * _between(ZOOM, scale))
        pixels = _window(_resized(square, side), resolution, (x, y))
        return Crop(pixels, _everywhere(latent_side), NEAR[int(word * len(NEAR))], flipped)
    ratio = _between(SCALE, scale)
    if ratio >= SMALL:
        return Crop(_resized(square, resolution), _everywhere(latent_side), flipped=flipped)
    pixels, mask = _pasted(_resized(square, round(resolution * ratio)), resolution, latent_side, (x, y))
    return Crop(pixels, mask, FAR[int(word * len(FAR))], flipped)


def class_crop(image: Image.Image, resolution: int, latent_side: int, *, flipped: bool) -> Crop:
    """A class image in full size: centre crop, mirrored if `flipped`."""
    return Crop(_resized(_square(image, flipped), resolution), _everywhere(latent_side), flipped=flipped)


def prefixed(prefix: str, caption: str) -> str:
    """The caption with a size word before it: "very small photo of a V* dog", "a far away V* dog on the grass"."""
    return prefix + re.sub(r"^(a|an|the) ", "", caption, flags=re.IGNORECASE) if prefix else caption


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + share * (bounds[1] - bounds[0])


def _square(image: Image.Image, flipped: bool) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else square


def _resized(square: Image.Image, side: int) -> NDArray[np.uint8]:
    # The gap lets PIL halve a large photo first: several times faster, and no eye can tell.
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0))


def _everywhere(latent_side: int) -> NDArray[np.bool_]:
    return np.ones((latent_side, latent_side), dtype=bool)


def _offset(room: int, share: float) -> int:
    return int(share * (room + 1))


def _window(pixels: NDArray[np.uint8], resolution: int, place: tuple[float, float]) -> NDArray[np.uint8]:
    room = pixels.shape[0] - resolution
    left, top = _offset(room, place[0]), _offset(room, place[1])
    return np.ascontiguousarray(pixels[top : top + resolution, left : left + resolution])


def _pasted(
    small: NDArray[np.uint8], resolution: int, latent_side: int, place: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The picture somewhere on grey, and the latent cells well inside it."""
    side, cell = small.shape[0], resolution / latent_side
    left, top = _offset(resolution - side, place[0]), _offset(resolution - side, place[1])
    pixels = np.full((resolution, resolution, 3), GREY, dtype=np.uint8)
    pixels[top : top + side, left : left + side] = small
    mask = np.zeros((latent_side, latent_side), dtype=bool)
    mask[_inside(top, side, cell), _inside(left, side, cell)] = True
    return pixels, mask


def _inside(start: int, side: int, cell: float) -> slice:
    """Latent cells of a box without one cell at each end, as CompVis rounds them; always at least one."""
    first = int(start // cell) + 1
    return slice(first, max(int((start + side) // cell) - 1, first + 1))
