"""What a perfect pupil would draw: a held-out thing itself, put into the scene a prompt tells as the world draws it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from cdtool.mini.factory import grounds, lookalikes, places, wider
from cdtool.mini.factory.looks import COLOURS
from cdtool.mini.factory.styles import STYLES
from cdtool.mini.factory.telling import RELATIONS
from cdtool.mini.factory.world import FAR, tinted
from tests.benchmarks.tune_methods import FOLDER

THINGS = FOLDER / "card" / "things"
PLACES = (*places.PLACES, *grounds.PLACES, *(f"on a {colour} background" for colour in places.PLAIN))


def scene(prompt: str, names: tuple[str, ...], seed: int, things: Path = THINGS) -> Image.Image:
    """The picture that a prompt with {} for each of `names` tells, by the parts of it that the world has words for."""
    rng = np.random.default_rng(seed)
    place = next((place for place in PLACES if prompt.endswith(place)), "")
    canvas = grounds.background(place or grounds.phrase(rng, 1.0), wider.Wide.size, rng)
    shown = [_look(things / f"{name}.webp") for name in names]
    if lookalikes.BESIDE in prompt:
        shown.append(_look(things / f"{lookalikes.BESIDE}.webp"))
    colour = next((colour for colour in COLOURS if f"a {colour} {{}}" in prompt), "")
    if colour:
        shown[0] = SimpleNamespace(pixels=tinted(shown[0].pixels, COLOURS[colour]))
    if len(shown) == 2:
        relation = next(relation for relation in RELATIONS if f" {relation} " in prompt)
        wider.pair(wider.Wide(), canvas, shown[0], shown[1], relation, rng)
    else:
        wider.single(wider.Wide(), canvas, shown[0], next((size for size in FAR if size in prompt), ""), rng)
    style = next((style for style in STYLES if prompt.startswith(style)), "")
    return STYLES[style](canvas, rng) if style else canvas


def _look(path: Path) -> Any:
    with Image.open(path) as image:
        return SimpleNamespace(pixels=np.asarray(image.convert("RGBA")))
