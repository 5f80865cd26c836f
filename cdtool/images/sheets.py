"""Contact sheets: labelled pictures in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

GAP = 8  # px around pictures
FONT = 13  # px


class Row(NamedTuple):
    """A line of text and the pictures under it."""

    label: str
    images: Sequence[Image.Image]


def contact_sheet(rows: Sequence[Row], *, side: int = 128) -> Image.Image:
    """All rows below one another on white: each label, then its pictures at `side` px height.

    Small pictures are enlarged with hard pixels, so that what is seen is what was drawn.
    """
    font = ImageFont.load_default(FONT)
    scaled = [Row(row.label, [_scaled(image, side) for image in row.images]) for row in rows]
    widest = max(sum(image.width + GAP for image in row.images) for row in scaled) + GAP
    height = sum(FONT + 2 * GAP + side for _ in scaled) + GAP
    sheet = Image.new("RGB", (widest, height), "white")
    pen, top = ImageDraw.Draw(sheet), GAP
    for row in scaled:
        pen.text((GAP, top), _fitted(row.label, font, widest - 2 * GAP), fill=(40, 40, 40), font=font)
        left, top = GAP, top + FONT + GAP // 2
        for image in row.images:
            sheet.paste(image, (left, top))
            left += image.width + GAP
        top += side + GAP + GAP // 2
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets below one another on white."""
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def labelled(cells: Sequence[tuple[str, Image.Image]], *, side: int = 128, columns: int = 8) -> Image.Image:
    """Pictures in rows of `columns`, each at `side` px height with its own label below, cut to the picture's width."""
    font = ImageFont.load_default(FONT - 2)
    scaled = [(label, _scaled(image, side)) for label, image in cells]
    width = max(image.width for _, image in scaled) + GAP
    height = side + FONT + 2 * GAP
    sheet = Image.new(
        "RGB", (min(columns, len(cells)) * width + GAP, -(-len(cells) // columns) * height + GAP), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for place, (label, image) in enumerate(scaled):
        left, top = GAP + place % columns * width, GAP + place // columns * height
        sheet.paste(image, (left, top))
        pen.text((left, top + side + 2), _fitted(label, font, width - GAP), fill=(40, 40, 40), font=font)
    return sheet


def _scaled(image: Image.Image, side: int) -> Image.Image:
    shape = (round(image.width * side / image.height), side)
    enlarge = image.height < side
    return image.convert("RGB").resize(shape, Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
