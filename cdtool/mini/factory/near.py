"""Near concepts: drawings the base knows, in a mark and a worn thing it never met together on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cdtool.mini.factory.drawings import Shelf
from cdtool.mini.factory.looks import Dials, Look, look


class Near(NamedTuple):
    """A held-out individual: the id of its drawing, the seed of its look, and what that look wears."""

    drawing: str
    seed: int
    mark: str
    worn: str


NEAR: dict[str, Near] = {  # chosen by eye among seeds with this mark and this thing
    "dog": Near("t1f415", 1_600_065_012, "patches", "vest"),
    "cat": Near("t1f408", 1_600_000_099, "stripes", "scarf"),
    "car": Near("n1f697", 1_600_000_301, "spots", "band"),
    "horse": Near("f1f40e", 1_600_000_093, "patches", "bag"),
    "fish": Near("n1f41f", 1_600_000_104, "stripes", "bow"),
}
UNMET = {(own.drawing, own.mark, own.worn) for own in NEAR.values()}  # never trained on, in whatever colours
ALL = Dials(recoloured=1.0, marked=1.0, worn=1.0, bent=0.0)


def individuals(shelf: Shelf) -> dict[str, Look]:
    """The near concepts by name."""
    return {name: look(shelf.drawings[own.drawing], np.random.default_rng(own.seed), ALL) for name, own in NEAR.items()}


def unmet(drawing: str, own: Look) -> bool:
    """Whether this drawing in this look is held out."""
    return (drawing, own.mark, own.worn) in UNMET
