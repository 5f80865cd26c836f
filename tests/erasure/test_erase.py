"""Erasing: the closed form against a plain least-squares solve, and what a made-up phrase and its neighbours become."""

from __future__ import annotations

import pytest
import torch

from cdtool.erasure import erase
from cdtool.models import deltas, pipelines, text
from cdtool.tokens import Prompt


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def base(wide_base):
    return pipelines.load(str(wide_base), precision="fp32", device="cpu", parts=("text",))


def test_where_every_direction_stands_out_it_is_plain_least_squares():
    pairs = erase.Pairs(random(40, 6), random(40, 6, seed=1))
    change = erase.solve(
        [pairs], 1e-9 * torch.eye(6, dtype=torch.float64), torch.zeros(6, 0, dtype=torch.float64), further=1.0
    )
    expected = torch.linalg.lstsq(pairs.features, pairs.wanted - pairs.features).solution.T
    assert change.rank == 6
    assert torch.allclose(change.up @ change.down, expected, atol=1e-6)


def test_it_acts_only_along_directions_that_the_others_hardly_have():
    axes = torch.eye(8, dtype=torch.float64)
    kept = axes @ torch.diag(torch.tensor([1.0] * 6 + [1e-3] * 2, dtype=torch.float64)) @ axes
    features = random(200, 8)
    pairs = erase.Pairs(features, torch.zeros_like(features))
    change = erase.solve([pairs], kept, torch.zeros(8, 0, dtype=torch.float64), least=50.0, further=1.0)
    assert change.rank == 2
    moved = deltas.apply(change, axes)
    assert float(moved[:6].norm()) < 0.3 * float(moved[6:].norm())
    assert torch.allclose(moved[6:, 6:], -torch.eye(2, dtype=torch.float64), atol=0.1)  # c there becomes 0


def test_held_directions_stay_exactly():
    held = torch.linalg.qr(random(6, 2, seed=4))[0]
    pairs = erase.Pairs(random(30, 6), random(30, 6, seed=1))
    change = erase.solve([pairs], torch.eye(6, dtype=torch.float64), held, least=0.0)
    assert float(deltas.apply(change, held.T).abs().max()) < 1e-12
    assert float(change.up.abs().max()) > 0.1


def test_contexts_put_a_hole_where_a_noun_stood():
    found = erase.contexts(["a red dog on the beach", "two dogs", "a cat in {braces}", "the sea horse"],
                           ["horse", "dog", "sea horse"])  # fmt: skip
    own = list(zip(found.templates, found.nouns, strict=True))[len(erase.TEMPLATES) :]
    assert own == [("a red {} on the beach", "dog"), ("the {}", "sea horse")]


def test_positions_behind_the_phrase_are_matched_one_by_one(base):
    places = erase.Contexts(["a {} on the beach"], ["cat"])
    found = erase.pairs(base, "dog dog", "", places)
    mine, theirs = (erase._encoded(base, [f"a {words} on the beach"])[0] for words in ("dog dog", "cat"))
    length = len(mine)
    lengths = [len(base.tokenizers[0](word, add_special_tokens=False)["input_ids"]) for word in ("a", "dog dog", "cat")]
    start, old, new = lengths
    assert torch.equal(found.features, mine[start + 1 :])
    assert torch.equal(found.wanted[0], theirs[start + new])  # the first of the phrase's tokens
    assert torch.equal(found.wanted[old - 1], theirs[start + new])  # and its last
    assert torch.equal(found.wanted[old], theirs[start + new + 1])  # "on" stands for "on"
    assert torch.equal(found.wanted[-1], theirs[length - 1 - old + new])


def test_an_article_fits_what_takes_the_place():
    assert erase._filled("photo of a {} in the snow", "apple") == "photo of an apple in the snow"
    assert erase._filled("the {} at night", "dog") == "the dog at night"


def test_the_tensors_are_the_base_times_the_map(base):
    change = deltas.Factors(random(160, 3), random(3, 160, seed=2))
    stored = erase.tensors(base, change)
    for module, weight in base.kv.items():
        found = deltas.dense(deltas.read(stored, f"unet.{module}.weight"))
        expected = weight.double() @ change.up @ change.down
        assert float((found - expected).norm()) < 1e-3 * float(expected.norm())


def test_other_text_moves_little_beside_what_is_forgotten(base):
    others = ["a dog", "the beach", "a dog on the beach"]
    pairs = erase.pairs(base, "cat", "dog", erase.Contexts(list(erase.TEMPLATES), ["dog"] * len(erase.TEMPLATES)))
    kept = erase.moment(base, others)
    change = erase.solve([pairs], kept, text.empty_directions(base, erase.HELD).double())

    def moved(prompt):
        with torch.no_grad():
            features = text.encode(base, [text.tokenize(base, Prompt((prompt,)), ())]).features[0].double()
        return float(deltas.apply(change, features).norm())

    assert max(map(moved, others)) < 0.5 * moved("photo of a cat")
    assert erase.drift(change, kept, [pairs]) < 0.5
