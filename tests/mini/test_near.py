"""Near concepts: their drawings are known, their looks are held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cdtool.mini.factory import drawings, near, wider
from cdtool.mini.factory.looks import Dials


@pytest.fixture(scope="module")
def shelf():
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    disc = np.full((60, 60, 4), 90, np.uint8)
    disc[..., 0] = np.where(x < 0, 200, 40)
    disc[..., 3] = 255 * (x * x + y * y <= 1)
    return drawings.shelf({own.drawing: disc for own in near.NEAR.values()})


def test_each_wears_what_its_table_says(shelf):
    for name, own in near.individuals(shelf).items():
        assert (own.mark, own.worn) == (near.NEAR[name].mark, near.NEAR[name].worn)


def test_their_drawings_may_be_learned_but_never_in_their_looks(shelf, monkeypatch):
    known = {one for ids in drawings.nouns().values() for one in ids}
    assert {own.drawing for own in near.NEAR.values()} <= known
    met = []
    monkeypatch.setattr(
        wider, "look", lambda drawing, rng, dials, real=wider.look: met.append(real(drawing, rng, dials)) or met[-1]
    )
    world = replace(wider.Wide(), pairs=0.0, hybrids=0.0, dials=Dials(marked=1.0, worn=1.0))
    refused = 0
    for seed in range(60):
        met.clear()
        wider.draw(world, shelf, seed, ("dog",))
        *before, last = met
        drawing = near.NEAR["dog"].drawing
        assert all(near.unmet(drawing, one) for one in before)
        assert not near.unmet(drawing, last)
        refused += len(before)
    assert refused  # the rule was needed
