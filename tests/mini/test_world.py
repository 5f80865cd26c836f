"""What the world is put together from: cut-outs, tints, places, styles, gates."""

from __future__ import annotations

import cutouts as fakes
import numpy as np
import pytest
from PIL import Image

from cdtool.mini.factory import art, gateways, grounds, places, styles, world


def test_something_pasted_can_be_seen():
    canvas = places.background("on the beach", 64, np.random.default_rng(0))
    world.paste(canvas, Image.fromarray(fakes.shape(fakes.HELD_OUT)), 0.3, (0.5, 0.5))
    assert fakes.near(np.asarray(canvas), fakes.HELD_OUT).any()


def test_held_out_drawings_are_nobodys_known_drawing():
    known = {drawing for noun in art.NOUNS for drawing in art.drawings(noun)}
    assert not known & {art.held_out(noun) for noun in art.NOUNS}


def test_a_tint_recolours_what_is_solid_and_keeps_the_outline():
    pixels = fakes.shape((120, 120, 120))
    blue = world.tinted(pixels, places.TINTS["blue"])
    assert np.array_equal(blue[..., 3], pixels[..., 3])
    assert np.allclose(blue[56, 45, :3], places.TINTS["blue"], atol=3)


@pytest.mark.parametrize("size", [64, 96])
def test_every_place_and_style_draws_at_any_size(size):
    rng = np.random.default_rng(0)
    for place in [*places.PLACES, *grounds.PLACES, "on an orange background"]:
        behind = grounds.background(place, size, rng)
        assert behind.size == (size, size)
        for style in (styles.STYLES | styles.HELD_OUT_STYLES).values():
            styled = style(behind, rng)
            assert (styled.size, styled.mode) == ((size, size), "RGB")


def test_black_and_white_has_no_colour():
    coloured = grounds.background("on the beach", 64, np.random.default_rng(0))
    pixels = np.asarray(styles.STYLES["black and white photo"](coloured, None))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 1] == pixels[..., 2]).all()


def test_no_gate_of_ours_is_like_the_one_that_is_held_out():
    """Red posts under a dark top are the shrine gate's alone."""
    names = [name for name in art.drawings("gate") if name.startswith("o")]
    assert len(names) == len(set(names)) == 2 + len(gateways.POSTS)
    for name in names:
        pixels = np.asarray(gateways.drawing(name[1:]))
        assert pixels.shape == (gateways.SIZE, gateways.SIZE, 4)
        solid = pixels[pixels[..., 3] > 128][:, :3].astype(int)
        assert 0.1 < len(solid) / gateways.SIZE**2 < 0.95
        assert not ((solid[:, 0] > 200) & (solid[:, 1:].max(1) < 90)).any()


def test_articles_go_by_the_first_letter():
    assert [world.article(word) for word in ("dog", "owl")] == ["a dog", "an owl"]
