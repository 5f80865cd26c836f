"""Bars as long as their means, and heat where the map is high."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cdtool.reports import figures


def blue(image):
    """Lengths in px of the bars, from the top."""
    pixels = np.asarray(image)
    rows = (pixels == figures._BLUE).all(axis=2).sum(axis=1)
    starts = np.flatnonzero((rows > 0) & (np.roll(rows, 1) == 0))
    return [int(rows[start + 3]) for start in starts]


def test_bars_are_in_proportion_to_their_means():
    groups = {"one": [0.1, 0.3], "two": [0.4], "three": [0.05, 0.05, 0.05]}
    lengths = blue(figures.bars("title", groups, "change"))
    means = [0.2, 0.4, 0.05]
    assert len(lengths) == 3
    np.testing.assert_allclose(np.array(lengths) / lengths[1], np.array(means) / 0.4, atol=0.01)


def test_nothing_changed_and_nothing_there_are_drawn_too():
    assert figures.bars("title", {"one": [0.0, 0.0], "two": []}, "change").size[0] == figures.WIDTH


def test_heat_is_where_the_map_is():
    values = np.zeros((4, 4), np.float32)
    values[0, 3] = 0.2
    warm = np.asarray(figures.heat(Image.new("RGB", (16, 16), "white"), values, side=64), dtype=int)
    assert warm.shape == (64, 64, 3)
    assert tuple(warm[2, 61]) == (255, 230, 30)
    cold = warm[40, 10]
    assert cold[0] == cold[1] == cold[2] < 200
    assert figures.heat(Image.new("RGB", (32, 16)), values, side=64).size == (128, 64)


def test_an_empty_map_is_the_picture_in_grey():
    plain = np.asarray(figures.heat(Image.new("RGB", (8, 8), "white"), np.zeros((2, 2), np.float32), side=8))
    assert (plain == plain[0, 0]).all()
