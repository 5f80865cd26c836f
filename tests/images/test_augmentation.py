"""Crops against a slow plain re-implementation, and their probabilities by counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from cdtool.images import augmentation

SIZE, LATENT = 64, 8


@pytest.fixture
def image():
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    return coarse.resize((150, 100), Image.Resampling.BICUBIC)


def slow_crop(image, size, latent, seed, photo, index):
    """The same draws, turned into a crop pixel by pixel and cell by cell."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(photo, index)))
    flip, zoomed, scale, word, x, y = [rng.random() for _ in range(6)]
    width, height = image.size
    side = min(width, height)
    source = np.asarray(image)[(height - side) // 2 :][:side, (width - side) // 2 :][:, :side]
    if flip < 0.5:
        source = np.stack([row[::-1] for row in source])
    ratio = 1.2 + 0.2 * scale if zoomed < 1 / 3 else 0.4 + 0.6 * scale
    full = 0.6 <= ratio <= 1
    edge = size if full else round(size * ratio)
    resized = np.asarray(Image.fromarray(source).resize((edge, edge), Image.Resampling.BICUBIC, reducing_gap=3.0))
    pixels = np.full((size, size, 3), 128, np.uint8)
    left, top = math.floor(x * (abs(size - edge) + 1)), math.floor(y * (abs(size - edge) + 1))
    sign = 1 if edge <= size else -1
    for row in range(size):
        for column in range(size):
            at, along = row - sign * top, column - sign * left
            if 0 <= at < edge and 0 <= along < edge:
                pixels[row, column] = resized[at, along]
    mask = np.ones((latent, latent), bool)
    if edge < size:
        cell = size // latent
        for row in range(latent):
            for column in range(latent):
                mask[row, column] = all(
                    start // cell + 1 <= place < max((start + edge) // cell - 1, start // cell + 2)
                    for place, start in ((row, top), (column, left))
                )
    words = ("zoomed in ", "close up ") if edge > size else ("a far away ", "very small ")
    return pixels, mask, "" if full else words[math.floor(word * 2)], flip < 0.5


@pytest.mark.parametrize(("size", "latent"), [(64, 8), (64, 16), (32, 4)])
def test_crops_equal_the_slow_ones(image, size, latent):
    for index in range(60):
        made = augmentation.crop(image, size, latent, seed=3, photo=2, index=index)
        pixels, mask, prefix, flipped = slow_crop(image, size, latent, 3, 2, index)
        assert np.array_equal(made.pixels, pixels)
        assert np.array_equal(made.mask, mask)
        assert (made.prefix, made.flipped) == (prefix, flipped)


def test_every_kind_of_crop_comes_as_often_as_it_should(image):
    count = 3000
    tiny = image.resize((12, 12))
    made = [augmentation.crop(tiny, 8, 2, seed=0, photo=0, index=index) for index in range(count)]
    expected = {
        ("zoomed in ", "close up "): 1 / 3,
        ("a far away ", "very small "): 2 / 3 * (0.6 - 0.4) / (1.0 - 0.4),
        ("",): 2 / 3 * (1.0 - 0.6) / (1.0 - 0.4),
        ("a far away ",): 1 / 9,
        ("close up ",): 1 / 6,
    }
    for words, share in expected.items():
        seen = sum(crop.prefix in words for crop in made)
        assert abs(seen - count * share) < 4 * math.sqrt(count * share * (1 - share)), words
    assert abs(sum(crop.flipped for crop in made) - count / 2) < 4 * math.sqrt(count / 4)


def test_the_loss_counts_only_inside_a_small_picture(image):
    white = Image.new("RGB", image.size, "white")
    for index in range(200):
        made = augmentation.crop(white, SIZE, LATENT, seed=1, photo=0, index=index)
        assert made.mask.any()
        if made.prefix in augmentation.FAR:
            cells = made.pixels.reshape(LATENT, 8, LATENT, 8, 3).swapaxes(1, 2)
            assert (cells[made.mask] == 255).all()
            assert not made.mask.all()
            assert (made.pixels == augmentation.GREY).any()
        else:
            assert made.mask.all()
            assert (made.pixels == 255).all()


def test_a_crop_depends_on_nothing_but_its_numbers(image):
    first = augmentation.crop(image, SIZE, LATENT, seed=7, photo=1, index=4)
    augmentation.crop(image, SIZE, LATENT, seed=8, photo=1, index=4)
    again = augmentation.crop(image, SIZE, LATENT, seed=7, photo=1, index=4)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.prefix == again.prefix
    others = [
        augmentation.crop(image, SIZE, LATENT, seed=seed, photo=photo, index=index)
        for seed, photo, index in [(8, 1, 4), (7, 2, 4), (7, 1, 5), (7, 4, 1)]
    ]
    assert not all(np.array_equal(first.pixels, other.pixels) for other in others)


def plainly_cropped(image, flipped):
    plain = image.crop((25, 0, 125, 100))
    source = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else plain
    return np.asarray(source.resize((SIZE, SIZE), Image.Resampling.BICUBIC, reducing_gap=3.0))


def test_without_augmentation_only_the_flip_is_left_to_chance(image):
    made = [augmentation.crop(image, SIZE, LATENT, seed=0, photo=0, index=index, augment=False) for index in range(200)]
    for crop in made:
        assert np.array_equal(crop.pixels, plainly_cropped(image, crop.flipped))
        assert crop.mask.all()
        assert crop.mask.shape == (LATENT, LATENT)
        assert crop.prefix == ""
    assert abs(sum(crop.flipped for crop in made) - 100) < 4 * math.sqrt(50)


@pytest.mark.parametrize("flipped", [False, True])
def test_prior_pictures_are_shown_in_full_size(image, flipped):
    made = augmentation.class_crop(image, SIZE, LATENT, flipped=flipped)
    assert np.array_equal(made.pixels, plainly_cropped(image, flipped))
    assert made.mask.all()
    assert made.mask.shape == (LATENT, LATENT)
    assert made.prefix == ""
    assert made.flipped is flipped


def test_a_seed_may_be_several_numbers(image):
    one, other = (
        [augmentation.crop(image, 8, 2, seed=(0, subject), photo=0, index=index).flipped for index in range(40)]
        for subject in (0, 1)
    )
    assert one != other


@pytest.mark.parametrize(
    ("prefix", "caption", "expected"),
    [
        ("a far away ", "photo of a V* dog", "a far away photo of a V* dog"),
        ("very small ", "painting in the style of V* art", "very small painting in the style of V* art"),
        ("close up ", "A V* dog on the beach", "close up V* dog on the beach"),
        ("a far away ", "an old V* dog", "a far away old V* dog"),
        ("", "a V* dog", "a V* dog"),
    ],
)
def test_size_words_read_naturally(prefix, caption, expected):
    assert augmentation.prefixed(prefix, caption) == expected
