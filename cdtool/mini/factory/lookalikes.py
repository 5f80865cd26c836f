"""Look-alikes of the held-out concepts: others of the same class, that a trained concept must not be taken for.

Half of a concept's look-alikes have its very shape in another look; the others are other drawings of its noun.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdtool.mini.factory import art, grounds
from cdtool.mini.factory.drawings import Shelf, parted, smaller
from cdtool.mini.factory.looks import Dials, Look, look
from cdtool.mini.factory.near import NEAR
from cdtool.mini.factory.photosets import CONCEPTS, Concept, held_out
from cdtool.mini.factory.wider import put

EACH = 10  # look-alikes of a concept
VIEWS = 3  # pictures of each
FIRST = 1_560_000_000  # seeds
SIZE = 64
SAME = Dials(recoloured=1.0, marked=0.3, worn=0.2, bent=0.0)
OTHER = Dials(recoloured=0.5, marked=0.2, worn=0.2, bent=0.5)
BESIDE = "panda"  # a known thing in the prompts of learnability
ON = ("on the grass", "on the beach", "in the snow", "in a room", "in the city", "on a white background",
      "on a blue background", "on a yellow background")  # fmt: skip


def make(cutouts: dict[str, Any], shelf: Shelf, folder: Path) -> Iterator[tuple[str, int]]:
    """Write a sheet for each object of the photo folders: a row of VIEWS pictures for each look-alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, concept in CONCEPTS.items():
        if concept.kind != "object":
            continue
        sheet = Image.new("RGB", (VIEWS * SIZE, EACH * SIZE))
        for row, own in enumerate(others(concept, cutouts, shelf)):
            for column, picture in enumerate(views(own, FIRST + row)):
                sheet.paste(picture, (column * SIZE, row * SIZE))
        sheet.save(folder / f"{name}.webp", quality=92, method=6)
        yield name, EACH


def make_things(cutouts: dict[str, Any], shelf: Shelf, folder: Path) -> Iterator[tuple[str, int]]:
    """Write each held-out thing itself, cut out, and the known one of BESIDE: what a perfect pupil would draw."""
    folder.mkdir(parents=True, exist_ok=True)
    held = held_out(cutouts, shelf)
    things = {name: held[art.held_out(concept.noun)] for name, concept in CONCEPTS.items() if concept.kind == "object"}
    for name, pixels in {**things, BESIDE: cutouts[art.drawings(BESIDE)[0]]}.items():
        Image.fromarray(smaller(Image.fromarray(pixels))).save(folder / f"{name}.webp", lossless=True)
        yield name, 1


def others(concept: Concept, cutouts: dict[str, Any], shelf: Shelf) -> list[Look]:
    """The look-alikes of a near or far concept."""
    noun, near = concept.noun, NEAR.get(concept.name)
    held = shelf.drawings[near.drawing] if near else parted(smaller(Image.fromarray(cutouts[art.held_out(noun)])))
    known = [shelf.drawings[name] for name in shelf.nouns[noun] if not near or name != near.drawing]
    found = []
    for row in range(EACH):
        rng = np.random.default_rng(FIRST + sum(noun.encode()) * 1000 + row)
        drawing = held if row % 2 == 0 else known[row // 2 % len(known)]
        found.append(look(drawing, rng, SAME if row % 2 == 0 else OTHER))
    return found


def views(own: Look, seed: int) -> Iterator[Image.Image]:
    """A look on different grounds, every other one mirrored."""
    rng = np.random.default_rng(seed)
    for at, place in enumerate(rng.choice(ON, VIEWS, replace=False)):
        canvas = grounds.background(str(place), SIZE, rng)
        side = rng.uniform(0.55, 0.85)
        put(canvas, own, side, (0.5 + rng.uniform(-0.08, 0.08), 0.52), mirrored=at % 2 == 1)
        yield canvas
