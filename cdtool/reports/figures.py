"""Figures drawn with Pillow alone: bars with the values behind them, and heat maps over a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, BAR, GAP, LEFT = 760, 46, 22, 190  # px
_INK, _PALE, _BLUE = (50, 50, 50), (150, 150, 150), (70, 120, 180)
_DIMMED = 0.55  # how much of the picture's brightness stays under a heat map


def bars(title: str, groups: Mapping[str, Sequence[float]], unit: str) -> Image.Image:
    """A horizontal bar per group at the mean of its values, every value a tick below it, on one scale from 0."""
    height = GAP * 3 + len(groups) * (BAR + GAP + 12) + GAP
    sheet = Image.new("RGB", (WIDTH, height), "white")
    pen = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    pen.text((GAP, GAP), title, fill=_INK, font=font)
    top = max((value for values in groups.values() for value in values), default=0.0) or 1.0
    scale = (WIDTH - LEFT - 4 * GAP) / top
    for place, (name, values) in enumerate(groups.items()):
        y = GAP * 3 + place * (BAR + GAP + 12)
        mean = sum(values) / max(len(values), 1)
        pen.text((GAP, y + 6), name, fill=_INK, font=font)
        pen.text((GAP, y + 26), f"{len(values)} layers", fill=_PALE, font=small)
        if mean:
            pen.rectangle((LEFT, y, LEFT + mean * scale, y + BAR), fill=_BLUE)
        pen.text((LEFT + mean * scale + 8, y + BAR // 2 - 8), f"{mean:.3g}", fill=_INK, font=font)
        for value in values:
            x = LEFT + value * scale
            pen.line((x, y + BAR + 3, x, y + BAR + 11), fill=_PALE)
    pen.text((LEFT, height - GAP - 4), f"{unit}; ticks are single layers, the last one at {top:.3g}",
             fill=_PALE, font=small)  # fmt: skip
    return sheet


def heat(image: Image.Image, values: NDArray[np.float32], *, side: int = 256) -> Image.Image:
    """A heat map [h, w] over a picture in grey, both at `side` px height: its largest value yellow, zero clear."""
    size = (round(image.width * side / image.height), side)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)[..., None]
    strength = values / max(float(values.max(initial=0)), 1e-12)
    smooth = Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    share = np.asarray(smooth)[..., None].clip(0, 1)
    colour = np.concatenate([np.full_like(share, 255), 40 + 190 * share, 20 + 10 * share], axis=-1)
    mixed = (1 - share) * grey * _DIMMED + share * colour
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
