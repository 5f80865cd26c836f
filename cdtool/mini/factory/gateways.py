"""Our own drawings of gates: no set of emoji has any but the shrine gate, which is held out."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageDraw

SIZE = 240  # twice what is needed, for smooth edges
Colour = tuple[int, int, int]


class Posts(NamedTuple):
    """Two posts and what lies across them; lengths in px of a drawing of `SIZE`."""

    colour: Colour
    trim: Colour  # of caps, feet and outlines
    width: int  # of a post
    beams: tuple[int, ...]  # top of each beam
    thick: int  # of a beam
    out: int = 0  # how far the beams reach beyond the posts
    roof: int = 0  # height of a gable
    bars: int = 0  # upright bars between the posts


POSTS = {
    "-ranch": Posts((150, 98, 52), (104, 62, 30), 22, (52,), 24, out=10),
    "-brick": Posts((176, 84, 62), (128, 56, 42), 46, (70,), 34, roof=52),
    "-pergola": Posts((238, 236, 228), (196, 190, 178), 26, (36, 92), 20, out=12),
    "-iron": Posts((58, 62, 72), (34, 36, 44), 16, (40, 176), 14, bars=5),
    "-timber": Posts((96, 72, 58), (60, 42, 34), 34, (44,), 38, out=14),
    "-garden": Posts((92, 142, 84), (58, 98, 56), 24, (64, 130), 18, roof=40),
}


def arch() -> Image.Image:
    """A stone arch."""
    image = Image.new("RGBA", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 20, 220, 236), fill=(150, 148, 156, 255))
    draw.rectangle((8, 8, 232, 40), fill=(112, 110, 122, 255))
    for row in range(5):
        for column in range(6):
            left = 20 + column * 40 - (row % 2) * 20
            draw.rectangle((left, 40 + row * 40, left + 40, 80 + row * 40), outline=(112, 110, 122, 255), width=4)
    hole = Image.new("L", image.size, 0)
    cut = ImageDraw.Draw(hole)
    cut.ellipse((62, 66, 178, 182), fill=255)
    cut.rectangle((62, 124, 178, 240), fill=255)
    cut.rectangle((0, 0, 19, 240), fill=0)
    image.paste((0, 0, 0, 0), mask=hole)
    return image


def fence() -> Image.Image:
    """A wooden field gate."""
    image = Image.new("RGBA", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    draw.line((30, 200, 210, 80), fill=(122, 74, 36, 255), width=18)
    for height in (70, 125, 180):
        draw.rectangle((14, height, 226, height + 24), fill=(176, 112, 58, 255), outline=(122, 74, 36, 255), width=4)
    for left in (10, 104, 198):
        draw.rectangle((left, 40, left + 32, 226), fill=(150, 92, 46, 255), outline=(108, 64, 30, 255), width=4)
    return image


def posts(row: Posts) -> Image.Image:
    """A gate of two posts."""
    image = Image.new("RGBA", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    left, right, top = 26, SIZE - 26, row.beams[0]
    gap = (right - left - 2 * row.width) / (row.bars + 1)
    for bar in range(row.bars):
        x = left + row.width + gap * (bar + 1)
        draw.line((x, top, x, 232), fill=row.colour, width=8)
    for edge in (left, right - row.width):
        draw.rectangle((edge, top, edge + row.width, 234), fill=row.colour, outline=row.trim, width=4)
        draw.rectangle((edge - 5, 220, edge + row.width + 5, 236), fill=row.trim)
    for height in row.beams:
        draw.rectangle((left - row.out, height, right + row.out, height + row.thick), row.colour, row.trim, 4)
    if row.roof:
        draw.polygon([(left - 16, top), (SIZE // 2, top - row.roof), (right + 16, top)], row.trim)
    return image


def drawing(name: str) -> Image.Image:
    """Our drawing of a name ("-arch", "-ranch"), RGBA [`SIZE`, `SIZE`]."""
    return {"-arch": arch, "-fence": fence}[name]() if name not in POSTS else posts(POSTS[name])
