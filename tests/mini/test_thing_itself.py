"""The held-out things put into the scenes of prompts, which learnability compares with."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks import learn_pairs, learnability
from tests.benchmarks.thing_itself import THINGS, scene

ALONE = [prompt for prompts in learnability.PROMPTS.values() for prompt in prompts]
PLAIN = "photo of a {} on a white background"


def pixels(prompt, *names, seed=3):
    return np.asarray(scene(prompt, names, seed), float)


@pytest.mark.parametrize("prompt", [*ALONE, *learn_pairs.PROMPTS])
def test_every_prompt_has_a_scene_of_its_seed(prompt):
    names = ("dog", "castle")[: prompt.count("{}")]
    one = pixels(prompt, *names)
    assert one.shape == (64, 64, 3)
    assert np.array_equal(one, pixels(prompt, *names))
    assert not np.array_equal(one, pixels(prompt, *names, seed=4))


def test_every_concept_of_learnability_is_there():
    assert {*learnability.NEAR, *learnability.FAR} <= {path.stem for path in THINGS.iterdir()}


def test_words_count():
    whole, small = (shown(pixels(prompt, "castle")) for prompt in (PLAIN, f"a very small {PLAIN[11:]}"))
    assert small.mean() < whole.mean() / 2
    red = pixels("a red {} on a white background", "fish")  # which is blue
    apart = red[..., 0] - red[..., 2]
    assert apart[shown(red)].mean() > 60


def shown(picture):
    """Where a picture on white is not white."""
    return (picture < 225).any(-1)
