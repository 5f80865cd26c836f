"""Whose row is whose: the prompts of a merge, and the positions of each that belong to a token."""

from __future__ import annotations

import pytest
import torch

from cdtool.merging import targets
from cdtool.merging.targets import Targets
from cdtool.models import initializers, pipelines, text
from cdtool.tokens import Token, bind


@pytest.fixture(scope="module")
def base(wide_base):
    return pipelines.load(str(wide_base), precision="fp32", device="cpu", parts=("text",))


@pytest.fixture(scope="module")
def tokens(base):
    return initializers.assign(base.tokenizers, [Token("dog"), Token("moongate", modifier=False)])


@pytest.fixture(scope="module")
def learned(base):
    return [[torch.full((160,), 0.5), torch.empty(0)]]


def encoded(base, prompt, tokens, learned):
    with torch.no_grad():
        return text.encode(base, [text.tokenize(base, bind(prompt, tokens), tokens)], learned).features[0].double()


def test_two_things_are_target_values_for_alone_and_in_both_orders():
    tokens = (Token("dog"), Token("apple", modifier=False))
    assert targets.prompts(tokens, [False, False]) == [
        "V1 dog", "photo of a V1 dog", "apple", "photo of an apple", "a photo of an apple",
        "photo of a V1 dog and an apple", "photo of a V1 dog in front of an apple",
        "photo of an apple and a V1 dog", "photo of an apple in front of a V1 dog",
    ]  # fmt: skip
    assert len(targets.prompts(tokens, [False, False], pairs=False)) == 5


def test_a_style_is_target_values_for_as_one():
    tokens = (Token("dog"), Token("art"), Token("ink"))
    assert targets.prompts(tokens, [False, True, True]) == [
        "V1 dog", "photo of a V1 dog",
        "V2 art", "painting in the style of V2 art",
        "V3 ink", "painting in the style of V3 ink",
        "photo of a V1 dog in the style of V2 art", "photo of a V1 dog in the style of V3 ink",
        "painting in the style of V2 art of a V1 dog", "painting in the style of V2 art and V3 ink",
        "painting in the style of V3 ink of a V1 dog", "painting in the style of V3 ink and V2 art",
    ]  # fmt: skip


def test_no_trial_is_a_constraint_and_every_token_is_tried():
    tokens = (Token("dog"), Token("art"), Token("umbrella", modifier=False))
    styles = [False, True, False]
    trials = targets.held_out_prompts(tokens, styles)
    assert not set(trials) & set(targets.prompts(tokens, styles))
    assert "a painting of an umbrella" in trials
    for token in range(3):
        assert any(bind(trial, tokens).named == {token} for trial in trials)
    assert any(bind(trial, tokens).named == {0, 1} for trial in trials)


def test_a_prompt_of_its_own_is_a_concepts_from_its_first_word_to_its_end(base, tokens, learned):
    row = encoded(base, "photo of a V1 dog", tokens, learned)
    found = targets.collect(base, ["photo of a V1 dog"], tokens, learned, whole={0, 1})
    # start, photo, of, a, V1, dog, end; the padding behind it binds nothing
    assert torch.allclose(found.features, row[4:7], atol=1e-5)
    assert found.owners == [(0,)] * 3


def test_what_follows_the_words_is_a_concepts_too(base, tokens, learned):
    row = encoded(base, "moongate on the beach", tokens, learned)
    found = targets.collect(base, ["moongate on the beach"], tokens, learned, whole={0, 1})
    assert torch.allclose(found.features, row[1:6], atol=1e-5)
    assert found.owners == [(1,)] * 5


def test_where_several_are_named_only_own_words_count(base, tokens, learned):
    prompt = "moongate on the V1 dog"
    row = encoded(base, prompt, tokens, learned)
    for whole in (True, False):
        found = targets.collect(base, [prompt], tokens, learned, whole={0, 1} if whole else ())
        assert torch.allclose(found.features, row[[1, 4, 5]], atol=1e-5)
        assert found.owners == [(1,), (0,), (0,)]


def test_rows_alone_are_own_words_alone(base, tokens, learned):
    found = targets.collect(base, ["photo of a V1 dog on the beach"], tokens, learned)
    assert found.owners == [(0,)] * 2


def test_rows_that_coincide_are_one_that_belongs_to_all():
    one, other = torch.eye(3, dtype=torch.float64)[:2]
    features = torch.stack([one, other, one * (1 + 1e-6), one])
    found = targets.distinct(Targets(features, [(0,), (1,), (2,), (0,)]))
    assert torch.equal(found.features, features[:2])
    assert found.owners == [(0, 2), (1,)]
    assert found.by_concept([5, 5, 6]).owners == [(5, 6), (5,)]


def test_a_common_beginning_is_no_trial(base, tokens, learned):
    bound = targets.collect(base, ["photo of a V1 dog"], tokens, learned, whole={0, 1})
    tried = targets.collect(base, ["photo of a V1 dog on the beach", "the V1 dog"], tokens, learned)
    found = targets.excluding(tried, bound)
    assert torch.equal(found.features, tried.features[2:])
    assert found.owners == [(0,)] * 2


NOUNS = ("dog", "cat", "beach", "photo", "moongate")


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("focused", [False, True])
def test_the_count_told_before_encoding_is_that_of_the_targets(base, plain, focused):
    """Where no two coincide but by a common beginning; a plain word's neighbours may."""
    tokens = initializers.assign(base.tokenizers, [Token(noun, modifier=not plain) for noun in NOUNS[:3]])
    draw = torch.Generator().manual_seed(1)
    rows = [[torch.randn(160, generator=draw) if token.modifier else torch.empty(0) for token in tokens]]
    styles = [False, False, not plain]
    whole = () if focused else range(3)
    texts = targets.prompts(tokens, styles)
    found = targets.distinct(targets.collect(base, texts, tokens, rows, whole=whole))
    count = len(found.features)
    assert not targets.fit_in(base, tokens, styles, whole, count - 1)
    assert plain or targets.fit_in(base, tokens, styles, whole, count)


def test_a_focused_token_binds_its_own_words_alone(base, tokens, learned):
    one, other = (targets.collect(base, ["photo of a V1 dog"], tokens, learned, whole=whole) for whole in ({1}, {0}))
    assert len(other.features) == len(one.features) + 1  # the end of the text


def test_many_tokens_are_tried_on_some_of_their_pairs():
    assert len(targets._some_pairs(4)) == 12
    some = targets._some_pairs(40)
    assert len(some) == 80
    assert {one for one, _ in some} == {other for _, other in some} == set(range(40))
    assert all(one != other for one, other in some)
