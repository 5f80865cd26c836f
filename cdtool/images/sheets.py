"""Contact sheets: labelled pictures in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

GAP = 8  # px around pictures
FONT = 13  # px
_INK, _PALE = (40, 40, 40), (170, 170, 170)


class Row(NamedTuple):
    """A line of text and the pictures under it."""

    label: str
    images: Sequence[Image.Image]


def contact_sheet(rows: Sequence[Row | Sequence[Row]], *, side: int = 128) -> Image.Image:
    """All rows below one another on white: each label, then its pictures at `side` px height.

    Several rows in place of one stand side by side with a line between them. Small pictures are enlarged with hard
    pixels, so that what is seen is what was drawn.
    """
    lines = [[row] if isinstance(row, Row) else list(row) for row in rows]
    scaled = [[Row(row.label, [_scaled(image, side) for image in row.images]) for row in line] for line in lines]
    widths = {len(line): [0] * len(line) for line in scaled}  # of a row's place, in all lines of as many rows
    for line in scaled:
        widths[len(line)] = [max(known, _width(row)) for known, row in zip(widths[len(line)], line, strict=True)]
    widest = max(sum(places) + GAP * len(places) for places in widths.values()) + GAP
    step = FONT + side + 2 * GAP
    sheet = Image.new("RGB", (widest, len(lines) * step + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for number, line in enumerate(scaled):
        left, top = GAP, GAP + number * step
        for row, width in zip(line, widths[len(line)], strict=True):
            if left > GAP:
                middle = left - GAP // 2 - 1
                pen.line((middle, top, middle, top + step - GAP), fill=_PALE)
            alone = widest - 2 * GAP if len(line) == 1 else width
            pen.text((left, top), _fitted(row.label, font, alone), fill=_INK, font=font)
            _paste_row(sheet, row.images, left, top + FONT + GAP // 2)
            left += width + GAP
    return sheet


def _width(row: Row) -> int:
    return sum(image.width + GAP for image in row.images) - GAP


def _paste_row(sheet: Image.Image, images: Sequence[Image.Image], left: int, top: int) -> None:
    for image in images:
        sheet.paste(image, (left, top))
        left += image.width + GAP


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets below one another on white."""
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def labelled(
    cells: Sequence[tuple[str, Image.Image]], *, side: int = 128, columns: int = 8, font: int = FONT - 2
) -> Image.Image:
    """Pictures in rows of `columns`, each at `side` px height with its own label below, cut to the picture's width.

    font: px of the labels.
    """
    letters = ImageFont.load_default(font)
    scaled = [(label, _scaled(image, side)) for label, image in cells]
    width = max(image.width for _, image in scaled) + GAP
    height = side + font + 3 * GAP
    sheet = Image.new(
        "RGB", (min(columns, len(cells)) * width + GAP, -(-len(cells) // columns) * height + GAP), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for place, (label, image) in enumerate(scaled):
        left, top = GAP + place % columns * width, GAP + place // columns * height
        sheet.paste(image, (left, top))
        pen.text((left, top + side + 2), _fitted(label, letters, width - GAP), fill=_INK, font=letters)
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
