"""What a modifier token begins as: rare words that differ between concepts, the class's word, or noise."""

from __future__ import annotations

import itertools

import pytest
import torch

from cdtool.errors import TokenError
from cdtool.models import initializers, pipelines
from cdtool.tokens import Token
from tests.benchmarks import rare_words


@pytest.fixture(scope="module")
def sd(sd_base):
    return pipelines.load(str(sd_base), precision="fp32", device="cpu")


# ---------------------------------------------------------------- CLIP's real vocabulary


def test_the_real_tokenizer_is_the_one_of_the_public_bases(clip_tokenizer):
    assert len(clip_tokenizer.get_vocab()) == 49408
    assert clip_tokenizer("photo of a dog")["input_ids"] == [49406, 1125, 539, 320, 1929, 49407]
    assert clip_tokenizer("ktn", add_special_tokens=False)["input_ids"] == [74, 7248]
    assert initializers.vocabulary_ids([clip_tokenizer], "ktn") == (42170,)
    assert initializers.vocabulary_ids([clip_tokenizer], "pll") == (47629,)


def test_the_shipped_words_are_those_the_command_makes(clip_tokenizer):
    vocabulary = clip_tokenizer.get_vocab()
    shipped = initializers.SHIPPED.read_text().split()
    assert shipped == [word for word in initializers.rare(vocabulary) if word not in rare_words.KNOWN]
    assert set(initializers.rare(vocabulary)) >= rare_words.KNOWN  # none is crossed out in vain


def test_each_shipped_word_is_one_token_part_of_no_other_and_seldom(clip_tokenizer):
    vocabulary = clip_tokenizer.get_vocab()
    entries = "\n".join({entry.removesuffix("</w>") for entry in vocabulary})
    shipped = initializers.SHIPPED.read_text().split()
    assert len(shipped) == len(set(shipped)) >= 300
    assert "sks" not in shipped
    ids = clip_tokenizer(shipped, add_special_tokens=False)["input_ids"]
    assert ids == [[vocabulary[f"{word}</w>"]] for word in shipped]
    assert all(index > len(vocabulary) / 2 for (index,) in ids)
    for word in shipped:
        assert word not in vocabulary  # as it stands inside a word
        assert entries.count(word) == 1


def test_three_hundred_concepts_on_one_machine_all_begin_apart(clip_tokenizer, root):
    plain = (root / "cdtool" / "assets" / "nouns.txt").read_text().splitlines()
    nouns = [f"{kind} {noun}".strip() for kind in ("", "wooden", "toy", "old") for noun in plain][:298] + ["dog", "dog"]
    known, taken = initializers.words([clip_tokenizer.get_vocab()]), []
    for noun in nouns:
        taken += initializers.choose(known, [noun], taken)
    assert len(taken) == len(set(taken)) == 300
    alone = [initializers.choose(known, [noun])[0] for noun in nouns]  # each on a machine of its own
    alike = sum(one == other for one, other in itertools.combinations(alone, 2))
    assert alike / (300 * 299 / 2) < 0.006  # 1 in 334 by chance; 24 % with four words


def test_thirty_two_modifier_tokens_in_one_training(clip_tokenizer):
    tokens = initializers.assign([clip_tokenizer, clip_tokenizer], [Token("dog") for _ in range(32)])
    assert len({token.initializer for token in tokens}) == len({token.ids for token in tokens}) == 32
    more = initializers.assign([clip_tokenizer, clip_tokenizer], [*tokens, Token("dog")])
    assert more[:32] == tokens
    assert more[32].initializer not in {token.initializer for token in tokens}


# ---------------------------------------------------------------- any vocabulary


def test_a_noun_decides_and_a_recorded_word_is_kept(sd):
    tokens = [Token("dog"), Token("cat", modifier=False), Token("bird", initializer="moongate")]
    first, plain, named = initializers.assign(sd.tokenizers, tokens)
    assert initializers.assign(sd.tokenizers, tokens) == (first, plain, named)
    assert (plain.initializer, plain.ids, named.initializer) == ("", (), "moongate")
    vocabulary = sd.tokenizers[0].get_vocab()
    assert named.ids == (vocabulary["moongate</w>"],)
    other = initializers.assign(sd.tokenizers, [Token("dog")], taken=[first.initializer])[0]
    assert other.initializer != first.initializer


def test_the_order_of_a_noun_depends_on_the_noun_alone():
    known = [f"w{number}" for number in range(50)]
    dog, cat = (initializers.choose(known, [noun])[0] for noun in ("dog", "cat"))
    assert initializers.choose(known[::-1], ["dog"]) == [dog] != [cat]
    rest = [word for word in known if word != dog]
    assert initializers.choose(known, ["dog"], [dog]) == initializers.choose(rest, ["dog"])
    assert initializers.choose(known, ["cat"], [dog]) == [cat]


def test_words_of_other_concepts_are_used_where_no_others_are_left():
    assert sorted(initializers.choose(["a", "b"], ["dog", "dog"], ["a", "b"])) == ["a", "b"]
    assert initializers.choose(["a", "b"], ["dog"], ["b"]) == ["a"]


def test_too_few_rare_words_are_an_error_that_names_both_numbers(sd):
    with pytest.raises(TokenError, match=r"4 modifier tokens .* has 3") as caught:
        initializers.assign(sd.tokenizers, [Token("dog")] * 4)
    assert "plain noun" in caught.value.hint


def test_a_word_that_is_no_single_entry_is_refused_with_the_nearest(sd):
    with pytest.raises(TokenError, match="not one entry") as caught:
        initializers.vocabulary_ids(sd.tokenizers, "moongaet")
    assert "moongate" in caught.value.hint


def test_rare_words_of_a_vocabulary():
    common = [f"e{number}" for number in range(12)]
    parts = ["wxz", "wxz</w>", "zqvd</w>", "zqvdx", "bcd</w>", "xbcdx</w>"]  # not whole words alone, or in another
    entries = ["brk</w>", *common, "ktn</w>", *parts, "zzz</w>", "pfy</w>", "dog</w>", "gh</w>", "hjkl</w>"]
    assert initializers.rare({entry: index for index, entry in enumerate(entries)}) == ["ktn", "hjkl"]


# ---------------------------------------------------------------- embeddings


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
