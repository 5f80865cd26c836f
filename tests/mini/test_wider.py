"""The wider world: looks, captions and pictures of it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cdtool.mini.factory import art, drawings, grounds, looks, telling, wider
from cdtool.mini.factory.clutter import clutter
from cdtool.mini.factory.looks import COLOURS, Dials, Look

MAGENTA = (255, 0, 255)


def two_regions(first=(200, 30, 30), second=(30, 30, 200)):
    """A disc whose left part is of one colour and whose smaller right part is of another."""
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    pixels = np.zeros((60, 60, 4), np.uint8)
    pixels[..., :3] = np.where((x < 0.3)[..., None], first, second)
    pixels[..., 3] = 255 * (x * x + y * y <= 1)
    return pixels


@pytest.fixture(scope="module")
def shelf():
    names = [name for ids in list(drawings.nouns().values())[:60] for name in ids[:1]]
    for noun in art.NOUNS:
        names += drawings.nouns().get(noun, [])[:1]
    rng = np.random.default_rng(0)
    return drawings.shelf({name: two_regions(tuple(rng.integers(40, 220, 3))) for name in dict.fromkeys(names)})


def test_no_held_out_drawing_may_be_learned():
    known = {name for ids in drawings.nouns().values() for name in ids}
    held = {art.held_out(noun) for noun in art.NOUNS} - {""}
    assert held
    assert not known & held
    assert len(drawings.nouns()) > 400
    assert len(known) > 1400


def test_a_drawing_s_regions_are_its_flat_colours_the_largest_first():
    one = drawings.parted(two_regions())
    inside = one.pixels[..., 3] > 128
    left, right = one.labels[30, 10], one.labels[30, 55]
    assert (one.labels[inside] == left).mean() > 0.5
    assert np.allclose(one.colours[left], (200, 30, 30), atol=3)
    assert np.allclose(one.colours[right], (30, 30, 200), atol=3)
    assert list(one.areas) == sorted(one.areas, reverse=True)


def test_recolouring_tells_the_colour_of_the_largest_region_and_keeps_the_outline():
    one = drawings.parted(two_regions())
    for seed in range(20):
        own = looks.recoloured(one, np.random.default_rng(seed))
        assert np.array_equal(own.pixels[..., 3], one.pixels[..., 3])
        seen = own.pixels[30, 10, :3].astype(float)
        nearest = min(COLOURS, key=lambda name: np.abs(seen - COLOURS[name]).sum())
        assert np.abs(seen - COLOURS[own.colours[0]]).max() < 40 or nearest == own.colours[0]


@pytest.mark.parametrize("mark", looks.MARKS)
def test_marks_show_both_colours(mark):
    shares = [looks._pattern(mark, 60, 60, np.random.default_rng(seed)).mean() for seed in range(12)]
    assert 0.02 < np.mean(shares) < 0.8
    assert max(shares) < 1


@pytest.mark.parametrize("thing", looks.WORN)
def test_what_is_worn_is_seen_in_its_colour(thing):
    body = looks.Body(two_regions(), room=18 if thing == "hat" else 0)
    looks.WORN[thing](body, np.asarray(MAGENTA, np.float32), np.random.default_rng(3))
    seen = (body.pixels[..., :3] == MAGENTA).all(-1) & (body.pixels[..., 3] == 255)
    assert 0.01 < seen.mean() < 0.4
    if thing == "hat":
        assert np.flatnonzero(seen.any(1)).mean() < 30


def test_a_hybrid_is_one_drawing_above_and_another_below():
    upper, lower = (drawings.parted(two_regions(colour, colour)) for colour in ((250, 0, 0), (0, 250, 0)))
    mixed = wider.hybrid(upper, lower, np.random.default_rng(0)).pixels
    assert tuple(mixed[5, 30, :3]) == (250, 0, 0)
    assert tuple(mixed[55, 30, :3]) == (0, 250, 0)


def test_a_named_thing_is_told_by_its_name_alone():
    look = Look(two_regions(), ["red"], "spots", "blue", "vest", "green")
    told = {telling.thing("lamp", look, np.random.default_rng(seed), "ktn") for seed in range(40)}
    assert told == {"ktn", "ktn lamp"}


def test_captions_tell_what_is_seen_and_nothing_else():
    look = Look(two_regions(), ["red", "white"], "spots", "blue", "vest", "green")
    told = [telling.thing("lamp", look, np.random.default_rng(seed)) for seed in range(300)]
    words = set(re.findall(r"[a-z]+", " ".join(told)))
    assert words <= {
        "lamp",
        "red",
        "white",
        "and",
        "a",
        "with",
        "in",
        "wearing",
        "spotted",
        "blue",
        "spots",
        "green",
        "vest",
    }
    assert "lamp" in told
    assert any({"red", "white", "vest", "spots"} <= set(one.split()) for one in told)
    assert {"red and white lamp", "white and red lamp"} <= {
        " ".join(re.findall(r"\w+ and \w+ lamp", one)) for one in told
    }


def test_a_seed_always_draws_the_same_picture(shelf):
    world = wider.Wide()
    for seed in range(12):
        first, second = wider.draw(world, shelf, seed), wider.draw(world, shelf, seed)
        assert first.pixels.shape == (64, 64, 3)
        assert np.array_equal(first.pixels, second.pixels)
        assert first.caption == second.caption
    assert len({wider.draw(world, shelf, seed).caption for seed in range(30)}) > 25


def test_names_and_views_belong_together(shelf):
    world = replace(wider.Wide(), named=0.5, pairs=0.7)
    for seed in range(40):
        scene = wider.draw(world, shelf, seed)
        for name, view in zip(telling.NAMES, scene.views, strict=False):
            assert (view is not None) == (name in scene.caption.split()), scene.caption


def test_each_of_two_things_is_as_often_second_as_first(shelf):
    world = replace(wider.Wide(), pairs=1.0, common=1.0)
    nouns = [wider.draw(world, shelf, seed).nouns for seed in range(150)]
    first = sum(one < other for one, other in nouns)
    assert 50 < first < 100


def test_a_thing_on_a_plain_ground_is_where_its_size_says(shelf):
    world = replace(wider.Wide(), plain=1.0, pairs=0.0, sized=0.0, styles=0.0, named=0.0, dials=Dials(0, 0, 0, 0, 0))
    for seed in range(8):
        scene = wider.draw(world, shelf, seed)
        changed = np.abs(np.diff(scene.pixels.astype(int), axis=1)).sum(-1) > 60
        assert changed.any(), scene.caption


@pytest.mark.parametrize("place", grounds.PLACES)
def test_every_ground_can_be_drawn(place):
    image = grounds.background(place, 64, np.random.default_rng(1))
    assert image.size == (64, 64)
    assert np.asarray(image).std() > 5


def test_crowded_pictures_are_finer_than_plain_ones(shelf):
    def fine(pixels):
        return np.abs(np.diff(pixels.astype(float), axis=1)).mean()

    assert np.mean([fine(clutter(shelf, seed)) for seed in range(5)]) > fine(
        np.asarray(Image.new("RGB", (64, 64), (90, 90, 90)))
    )
