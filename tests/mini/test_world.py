"""The small world: what is drawn, that captions say it, and that held-out drawings never occur."""

from __future__ import annotations

import re
from dataclasses import replace

import cutouts as fakes
import numpy as np
import pytest
from PIL import Image

from cdtool.mini.factory import art, gateways, places, styles, world
from cdtool.mini.factory.world import BROAD, JUDGED, NARROW, WIDE, draw

# The grammar a second time, written down as the captions are meant to be.
NOUN = rf"(?:{'|'.join(art.NOUNS)})"
THING = rf"an? (?:(?:red|orange|yellow|green|blue|purple|pink|{'|'.join(world.RARE_WORDS)}) )?{NOUN}"
PLACE = (r"(?:on the (?:beach|grass|sea|moon)|in the (?:snow|desert|forest|city|mountains)|at night|in a room"
         r"|on an? (?:red|orange|yellow|green|blue|purple|pink|white|grey|black) background)")  # fmt: skip
SIZE = r"(?:a far away|very small|close up|zoomed in)"
MEDIUM = r"(?:an? )?(?:photo|sketch|pixel art|black and white photo|painting) of"
GRAMMAR = re.compile(
    rf"(?:{SIZE} )?(?:{MEDIUM} )?{THING}(?: (?:in front of|next to|on the left of|on top of|and) {THING})?(?: {PLACE})?"
)


@pytest.fixture(scope="module")
def cutouts():
    return fakes.fake_cutouts()


@pytest.mark.parametrize("sort", [NARROW, WIDE], ids=["narrow", "wide"])
def test_a_seed_always_draws_the_same_picture(cutouts, sort):
    for seed in range(5):
        first, second = draw(sort, cutouts, seed), draw(sort, cutouts, seed)
        assert np.array_equal(first.pixels, second.pixels)
        assert first[1:] == second[1:]
        assert not np.array_equal(first.pixels, draw(sort, cutouts, seed + 5).pixels)
        assert first.pixels.shape == (64, 64, 3)
        assert first.pixels.dtype == np.uint8


def test_held_out_drawings_are_never_drawn(cutouts):
    held = [noun for noun in art.NOUNS if art.held_out(noun)]
    assert len(held) >= 24
    plain = replace(WIDE, tints=0.0, styles=0.0, drawings=99)
    for seed in range(120):
        picture = draw(plain, cutouts, seed, (held[seed % len(held)],))
        assert not fakes.near(picture.pixels, fakes.HELD_OUT).any(), picture.caption


def test_the_search_for_held_out_drawings_would_find_one(cutouts):
    canvas = places.background("on the beach", 64, np.random.default_rng(0))
    world.paste(canvas, Image.fromarray(cutouts[art.held_out("dog")]), 0.3, (0.5, 0.5))
    assert fakes.near(np.asarray(canvas), fakes.HELD_OUT).any()


def test_held_out_drawings_are_nobodys_known_drawing():
    known = {drawing for noun in art.NOUNS for drawing in art.drawings(noun)}
    assert not known & {art.held_out(noun) for noun in art.NOUNS}


def test_only_the_first_nouns_and_drawings_of_a_world_occur(cutouts):
    asked = set()

    class Watched(dict):
        def __getitem__(self, name):
            asked.add(name)
            return super().__getitem__(name)

    small = replace(NARROW, nouns=3, drawings=2)
    pictures = [draw(small, Watched(cutouts), seed) for seed in range(60)]
    assert {noun for picture in pictures for noun in picture.nouns} == {"dog", "cat", "gate"}
    assert asked == {drawing for noun in ("dog", "cat", "gate") for drawing in art.drawings(noun)[:2]}


@pytest.mark.parametrize("sort", [NARROW, WIDE], ids=["narrow", "wide"])
def test_captions_keep_to_the_grammar_and_name_the_nouns_in_order(cutouts, sort):
    for seed in range(150):
        picture = draw(replace(sort, rare=0.1), cutouts, seed)
        assert GRAMMAR.fullmatch(picture.caption), picture.caption
        places = [re.search(rf"an? (?:\w+ )?{noun}\b", picture.caption).start() for noun in picture.nouns]
        assert places == sorted(places)


def middle(picture, noun):
    """Row and column of the middle of a noun's pixels."""
    return np.argwhere(fakes.near(picture.pixels, fakes.colour_of(noun))).mean(axis=0)


def test_pairs_stand_as_their_caption_says(cutouts):
    plain = replace(NARROW, plain=1.0)
    told = {}
    for seed in range(60):
        picture = draw(plain, cutouts, seed, ("truck", "mushroom"))
        (row, column), (other_row, other_column) = middle(picture, "truck"), middle(picture, "mushroom")
        for words, holds in (
            ("on the left of", column < other_column),
            ("on top of", row < other_row),
            ("in front of", row > other_row),
        ):
            if words in picture.caption:
                told[words] = told.get(words, 0) + 1
                assert holds, picture.caption
    assert len(told) == 3


def test_size_words_are_true(cutouts):
    sizes = {}
    plain = replace(NARROW, sized=1.0, plain=1.0)
    for seed in range(80):
        picture = draw(plain, cutouts, seed, ("mushroom",))
        size = fakes.near(picture.pixels, fakes.colour_of("mushroom")).mean()
        word = re.match(SIZE, picture.caption)[0]
        sizes.setdefault(word.removeprefix("a "), []).append(size)
    assert sizes.keys() == {*world.FAR, *world.NEAR}
    assert max(sizes["far away"] + sizes["very small"]) < min(sizes["close up"] + sizes["zoomed in"])


def test_a_tint_recolours_what_is_solid_and_keeps_the_outline():
    pixels = fakes.shape((120, 120, 120))
    blue = world.tinted(pixels, places.TINTS["blue"])
    assert np.array_equal(blue[..., 3], pixels[..., 3])
    assert np.allclose(blue[56, 45, :3], places.TINTS["blue"], atol=3)


@pytest.mark.parametrize("size", [64, 96])
def test_every_place_and_style_draws_at_any_size(size):
    rng = np.random.default_rng(0)
    for place in [*places.PLACES, "on an orange background"]:
        behind = places.background(place, size, rng)
        assert behind.size == (size, size)
        for style in (styles.STYLES | styles.HELD_OUT_STYLES).values():
            styled = style(behind, rng)
            assert (styled.size, styled.mode) == ((size, size), "RGB")


def test_black_and_white_has_no_colour(cutouts):
    pixels = np.asarray(styles.STYLES["black and white photo"](Image.fromarray(draw(NARROW, cutouts, 0).pixels), None))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 1] == pixels[..., 2]).all()


def test_only_the_judges_world_has_near_twins():
    twins = {drawing for noun in art.NOUNS for drawing in art.twins(noun)}
    assert not twins & {art.held_out(noun) for noun in art.NOUNS}  # what the photos show, nothing was trained on
    assert [world.twins for world in (NARROW, BROAD, WIDE)] == [0, 0, 0]
    assert JUDGED.twins > 0


def test_a_coat_keeps_the_outline_and_says_nothing(cutouts):
    dog = fakes.shape((200, 140, 90), 100, 80)
    ours = [world.coated(dog, np.random.default_rng(seed)) for seed in range(40)]
    colours = np.stack([coat[coat[..., 3] > 250][:, :3].mean(0) for coat in ours])
    assert (colours.std(0) > 10).all()  # all kinds of dogs
    for coat in ours:
        assert (coat[..., 3] > 128).mean() == pytest.approx((dog[..., 3] > 128).mean(), abs=0.02)
        assert 0.8 < (coat.shape[0] / coat.shape[1]) / (100 / 80) < 1.25
    coated, bare = replace(NARROW, coats=1.0), replace(NARROW, coats=0.0)
    assert {draw(coated, cutouts, seed, ("dog",)).caption.count("dog") for seed in range(20)} == {1}
    for seed in range(20):  # nothing a drawing is held out of: as it always is
        first, second = draw(coated, cutouts, seed, ("panda",)), draw(bare, cutouts, seed, ("panda",))
        assert np.array_equal(first.pixels, second.pixels)
    changed = [draw(coated, cutouts, seed, ("dog",)).pixels.mean() != draw(bare, cutouts, seed, ("dog",)).pixels.mean()
               for seed in range(20)]  # fmt: skip
    assert sum(changed) > 15


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
