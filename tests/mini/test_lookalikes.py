"""Look-alikes of the held-out concepts."""

from __future__ import annotations

import cutouts as fakes
import numpy as np

from cdtool.mini.factory import art, drawings, lookalikes, near
from cdtool.mini.factory.near import NEAR
from cdtool.mini.factory.photosets import CONCEPTS


def test_half_have_the_held_out_shape_in_another_look_and_none_looks_like_it():
    found = fakes.fake_cutouts()
    known = {name: pixels for name, pixels in found.items() if name not in {art.held_out(noun) for noun in art.NOUNS}}
    others = lookalikes.others(CONCEPTS["teapot"], found, drawings.shelf(known))
    assert len(others) == lookalikes.EACH
    for own in others:
        solid = own.pixels[own.pixels[..., 3] > 200][:, :3].astype(float)
        assert np.abs(solid.mean(0) - fakes.HELD_OUT).max() > 30
    same, other = others[0::2], others[1::2]
    assert all(own.colours for own in same)
    assert len(other) == len(same)


def test_those_of_a_near_concept_have_its_known_shape_in_other_looks():
    found = fakes.fake_cutouts()
    shelf = drawings.shelf({**found, NEAR["dog"].drawing: fakes.shape((90, 60, 30))})
    same = lookalikes.others(CONCEPTS["dog"], found, shelf)[0::2]
    mask = shelf.drawings[NEAR["dog"].drawing].pixels[..., 3] > 200
    assert all(one.pixels.shape[1] == mask.shape[1] for one in same)
    assert not any(near.unmet(NEAR["dog"].drawing, one) for one in same)


def test_views_of_a_look_are_on_different_grounds():
    own = lookalikes.Look(fakes.shape((10, 200, 10)))
    seen = [np.asarray(view) for view in lookalikes.views(own, 1)]
    assert len(seen) == lookalikes.VIEWS
    assert all(view.shape == (64, 64, 3) for view in seen)
    corners = {tuple(view[0, 0]) for view in seen}
    assert len(corners) == lookalikes.VIEWS
