"""The measuring pair: what it is asked, and what it learns from the answers."""

from __future__ import annotations

import numpy as np
import torch

from cdtool.mini.factory import judge


def test_the_nouns_of_the_pictures_are_always_among_those_asked():
    nouns = [f"noun{at}" for at in range(200)]
    batch = judge.Batch(None, [], [("noun1",), ("noun2", "noun150")])
    for update in range(5):
        questions = judge.asked(nouns, batch, update)
        assert {"noun1", "noun2", "noun150"} <= set(questions)
        assert len(questions) == len(set(questions)) >= judge.ASKED
    assert judge.asked(nouns, batch, 0) != judge.asked(nouns, batch, 1)


def test_naming_is_the_mean_over_a_picture_s_nouns():
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    batch = judge.Batch(None, [], [("b",), ("a", "c")])
    share = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True))
    expected = -(share[0, 1] + (share[1, 0] + share[1, 2]) / 2) / 2
    assert np.isclose(float(judge._naming(logits, batch, ["a", "b", "c"])), expected)
