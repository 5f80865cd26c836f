"""Scores against hand computation and plain loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from cdtool.errors import InputError
from cdtool.evaluation import alignment
from cdtool.evaluation.alignment import Sample
from cdtool.models import encoders

SPEC = encoders.EncoderSpec("fake", "nowhere", 0.85)


def rows(count, width=6, seed=0):
    return encoders.unit(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


def direction(degrees):
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def encoder():
    """Pictures lie at the angle of their grey, prompts at the angle of their last word."""
    return encoders.Encoder(
        SPEC,
        lambda texts: np.array([direction(float(text.split()[-1])) for text in texts], dtype=np.float32),
        lambda images: np.array([direction(image.getpixel((0, 0))[0]) for image in images], dtype=np.float32),
    )


def grey(degrees):
    return Image.new("RGB", (4, 4), (degrees,) * 3)


def test_text_alignment_is_clipscore():
    images = np.array([[1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32)
    prompts = np.array([[1, 0], [1, 0], [-1, 0]], dtype=np.float32)
    assert np.allclose(alignment.text_alignment(images, prompts), [2.5, 1.5, 0.0])


def test_image_alignment_is_the_mean_over_all_pairs():
    images, photos = rows(7), rows(4, seed=1)
    found = alignment.image_alignment(images, photos)
    pairs = [
        sum(a * b for a, b in zip(one, other, strict=True)) for one in images.tolist() for other in photos.tolist()
    ]
    assert found.mean() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert found[2] == pytest.approx(sum(pairs[8:12]) / 4, abs=1e-6)


def test_evaluate_against_hand_computation():
    samples = [Sample(grey(10), "a dog 0"), Sample(grey(30), "a dog 0"), Sample(grey(90), "a cat 40")]
    base = [Sample(grey(40), "a dog 0"), Sample(grey(40), "a dog 0"), Sample(grey(170), "a cat 40")]
    found = alignment.score(samples, {"dog": [grey(20), grey(60)]}, encoder(), base=base)

    def cos(degrees):
        return max(math.cos(math.radians(degrees)), 0)

    text, image = (
        (cos(10) + cos(30) + cos(50)) * 2.5 / 3,
        (cos(10) + cos(50) + cos(10) + cos(30) + cos(70) + cos(30)) / 6,
    )
    assert found.concept == {"text": pytest.approx(text, abs=1e-6), "image": pytest.approx(image, abs=1e-6)}
    assert found.base["text"] == pytest.approx((cos(40) + cos(40)) * 2.5 / 3, abs=1e-6)
    for name in ("text", "image"):
        interval = found.difference[name]
        assert interval.mean == pytest.approx(found.concept[name] - found.base[name], abs=1e-6)
        assert interval.low <= interval.mean <= interval.high
    assert (found.prompts, found.samples, found.photos) == (2, 3, {"dog": 2})
    assert json.loads(json.dumps(found.as_dict()))["difference"]["text"]["low"] == found.difference["text"].low


def test_each_target_has_a_column_of_its_own():
    samples = [Sample(grey(10), "x 0")]
    found = alignment.score(samples, {"dog": [grey(10)], "cat": [grey(100)]}, encoder(), metrics=["image"])
    assert found.concept == {"image dog": pytest.approx(1, abs=1e-6), "image cat": pytest.approx(0, abs=1e-6)}
    assert found.base == {}
    assert found.difference == {}


def test_without_photos_only_the_text_is_scored():
    assert set(alignment.score([Sample(grey(10), "x 0")], {}, encoder()).concept) == {"text"}


def test_samples_and_base_must_match():
    with pytest.raises(InputError, match="no samples"):
        alignment.score([], {}, encoder())
    with pytest.raises(InputError, match="same prompts"):
        alignment.score([Sample(grey(1), "a 0")], {}, encoder(), base=[Sample(grey(1), "b 0")])


def slow_bootstrap(values, groups, seed):
    """The same idea with nested loops and Python's own generator."""
    import random

    chance, means = random.Random(seed), []
    table = {}
    for value, group in zip(values, groups, strict=True):
        table.setdefault(group, []).append(value)
    for _ in range(2000):
        drawn = []
        for group in chance.choices(list(table), k=len(table)):
            drawn += chance.choices(table[group], k=len(table[group]))
        means.append(sum(drawn) / len(drawn))
    means.sort()
    return means[50], means[1949]


@pytest.mark.parametrize("sizes", [(5, 5, 5, 5), (1, 9, 4), (30,), (1, 1, 1, 1, 1, 1, 1, 1)])
def test_the_interval_agrees_with_a_plain_one(sizes):
    rng = np.random.default_rng(3)
    groups = [f"prompt {place}" for place, size in enumerate(sizes) for _ in range(size)]
    order = rng.permutation(len(groups))
    groups = [groups[place] for place in order]
    values = rng.normal(size=len(groups)) + np.array([int(group[-1]) for group in groups])
    found = alignment.bootstrap(values, groups, seed=1)
    low, high = slow_bootstrap(values.tolist(), groups, seed=2)
    width = high - low
    assert found.mean == pytest.approx(values.mean())
    assert abs(found.low - low) < 0.12 * width
    assert abs(found.high - high) < 0.12 * width
    assert found == alignment.bootstrap(values, groups, seed=1)


def test_the_interval_is_paired():
    """Prompts differ wildly, but each pair by the same amount: the interval has no width."""
    base = np.array([0.1, 5.0, 9.0])
    found = alignment.bootstrap((base + 0.25) - base, ["a", "b", "c"])
    assert (found.low, found.high) == (pytest.approx(0.25), pytest.approx(0.25))
