"""What a modifier token begins as: rare words that differ between concepts, the class's word, or noise."""

from __future__ import annotations

import pytest
import torch

from cdtool.errors import TokenError
from cdtool.models import initializers, pipelines
from cdtool.tokens import Token


@pytest.fixture(scope="module")
def sd(sd_base):
    return pipelines.load(str(sd_base), precision="fp32", device="cpu")


def test_initializers_are_dealt_by_noun_and_a_named_one_is_kept(sd):
    found = initializers.assign(sd.tokenizers, [Token("dog"), Token("cat", modifier=False), Token("bird")])
    assert [token.initializer for token in found] == ["ucd", "", "ktn"]  # both begin at the third, and take turns
    assert found[1].ids == ()
    vocabulary = sd.tokenizers[0].get_vocab()
    assert found[0].ids == (vocabulary["ucd"] if "ucd" in vocabulary else vocabulary["ucd</w>"],)
    named = initializers.assign(sd.tokenizers, [Token("dog"), Token("bird", initializer="ucd")])
    assert [token.initializer for token in named] == ["ktn", "ucd"]


def test_concepts_trained_apart_begin_at_words_of_their_own(sd):
    alone = [initializers.assign(sd.tokenizers, [Token(noun)])[0].initializer for noun in ("dog", "cat", "gate")]
    assert sorted(alone) == ["ktn", "pll", "ucd"]


def test_a_word_that_is_no_single_entry_is_refused_with_the_nearest(sd):
    with pytest.raises(TokenError, match="not one entry") as caught:
        initializers.vocabulary_ids(sd.tokenizers, "moongaet")
    assert "moongate" in caught.value.hint


def test_too_few_rare_words_are_an_error(sd):
    with pytest.raises(TokenError, match="too few rare words"):
        initializers.assign(sd.tokenizers, [Token("dog")] * 4)


class Words:
    """A tokenizer that knows a vocabulary, one id a word."""

    def __init__(self, *entries):
        self.entries = {entry: place for place, entry in enumerate(entries)}

    def get_vocab(self):
        return self.entries

    def __call__(self, captions, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [[self.entries[word] for word in caption.split()] for caption in captions]}


@pytest.mark.parametrize(
    ("noun", "word"),
    [("dog", "dog"), ("wooden pot", "pot"), ("moongate", "gate"), ("tortoise plushy", "plush"), ("Teddybear", "bear")],
)
def test_the_paper_chose_one_word_for_a_class(noun, word):
    known = ("dog", "pot", "gate", "moon", "plush", "shy", "bear", "teddy", "tortoise", "wooden")
    assert initializers.class_word(Words(*(f"{entry}</w>" for entry in known), "moongate"), noun) == word


def test_a_class_without_any_word_is_refused():
    with pytest.raises(TokenError, match="stands for") as caught:
        initializers.class_word(Words("dog</w>"), "zebra")
    assert "word:" in caught.value.hint


def test_rows_begin_as_asked(sd):
    (token,) = initializers.assign(sd.tokenizers, [Token("cat")])
    table = sd.text_encoders[0].get_input_embeddings().weight.detach()
    vocabulary = sd.tokenizers[0].get_vocab()

    def row(init, seed=0):
        return initializers.initial_embeddings(sd, [token], init, seed)[0][0]

    assert torch.equal(row("rare"), table[token.ids[0]])
    assert torch.equal(row("class"), table[vocabulary["cat</w>"]])
    assert torch.equal(row("word:Dog"), table[vocabulary["dog</w>"]])
    with pytest.raises(TokenError, match="not one entry"):
        row("word:zebra")
    drawn = torch.stack([row("normal", seed) for seed in range(2000)])
    assert torch.equal(row("normal"), drawn[0])
    assert not torch.equal(drawn[0], drawn[1])
    spread = table.std(dim=0)
    assert ((drawn.mean(dim=0) - table.mean(dim=0)).abs() < 5 * spread / 2000**0.5).all()
    torch.testing.assert_close(drawn.std(dim=0), spread, rtol=0.1, atol=0)
    two = initializers.initial_embeddings(sd, [token, token], "normal")[0]
    assert not torch.equal(two[0], two[1])


def test_rare_words_are_met_five_to_ten_times_and_part_of_nothing_else():
    words = Words("dog</w>", "ktn", "pll", "pll</w>", "seld</w>", "often</w>", "part</w>", "partly</w>", "x1</w>")
    counts = {"dog</w>": 50, "ktn": 5, "pll": 7, "pll</w>": 2, "seld</w>": 4, "often</w>": 11, "part</w>": 6,
              "partly</w>": 10, "x1</w>": 8}  # fmt: skip
    captions = [word for word, count in counts.items() for _ in range(count)]
    assert initializers.rare_words([words], captions) == {"ktn": 5, "pll": 7, "partly": 10}
    assert initializers.rare_words([words, Words("ktn</w>")], captions) == {"ktn": 5}
