"""The tokenizer of the embedded base: nothing a user can type breaks it, and rare words stay whole."""

from __future__ import annotations

import json
import random

import pytest

from cdtool.mini.factory import prompts, telling, words
from cdtool.models import initializers

CAPTIONS = ["photo of a dog on the beach", "a cat in front of a castle", "a red car in the snow"] * 20


@pytest.fixture(scope="module")
def shipped():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(prompts.FOLDER.parent / "base" / "tokenizer")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return words.build(CAPTIONS, 40, telling.NAMES, 24, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(params=["shipped", "learned"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def test_the_byte_symbols_are_256_different_letters():
    symbols = words.byte_symbols()
    assert len(set(symbols)) == len(symbols) == 256
    assert all(len(symbol) == 1 and symbol.isprintable() and not symbol.isspace() for symbol in symbols)
    assert symbols[0] == "!"


def test_the_vocabulary_holds_every_byte_within_and_at_the_end_of_a_word(tokenizer):
    vocabulary = tokenizer.get_vocab()
    for symbol in words.byte_symbols():
        assert symbol in vocabulary
        assert f"{symbol}</w>" in vocabulary
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    assert tokenizer.eos_token_id == len(tokenizer) - 1  # pooling in CLIP looks for the highest id


def random_text(rng):
    planes = [(0x20, 0x7E), (0xA0, 0x2FF), (0x370, 0x1FFF), (0x2000, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x10FFFF)]
    return "".join(chr(rng.randint(*rng.choice(planes))) for _ in range(rng.randint(0, 12)))


def test_any_unicode_becomes_known_tokens_and_ends_once(tokenizer):
    rng = random.Random(7)
    texts = [random_text(rng) for _ in range(400)]
    texts += ["", " ", "\n\t\x00", "DOG", "🐕", "don't", "ﬁ", "ab" * 40, "<|endoftex", "\u200d", "ktn" * 3, "dog,cat"]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids.index(tokenizer.eos_token_id) == len(ids) - 1, repr(text)
        assert tokenizer.bos_token_id not in ids[1:]


def test_padding_is_end_of_text_to_the_length_of_the_encoder(shipped):
    ids = shipped("a dog", padding="max_length", truncation=True)["input_ids"]
    assert len(ids) == shipped.model_max_length == 24
    assert set(ids[ids.index(shipped.eos_token_id) :]) == {shipped.eos_token_id}
    long = shipped("a dog " * 40, truncation=True)["input_ids"]
    assert len(long) == 24
    assert long[-1] == shipped.eos_token_id


def test_rare_words_are_single_tokens(shipped):
    def whole(word):
        return len(shipped(f"a {word} dog")["input_ids"]) == len(shipped("a dog")["input_ids"]) + 1

    assert sum(map(whole, initializers.rare(shipped.get_vocab()))) > 200
    assert all(map(whole, (*words.NAMES, *telling.NAMES)))


@pytest.mark.parametrize("word", telling.NAMES)
def test_rare_words_are_whole_though_no_caption_has_them(learned, word):
    assert learned.tokenize(word) == [f"{word}</w>"]


def test_frequent_words_are_learned_and_capitals_do_not_matter(learned):
    assert learned.tokenize("Photo of a dog") == learned.tokenize("photo of a DOG")
    assert "photo</w>" in learned.tokenize("photo of a dog")
    assert len(learned.tokenize("zebra")) > 1


def test_the_files_are_clips_own_format(tmp_path):
    words.write([("d", "o"), ("do", "g</w>")], tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert len(ids) == 512 + 2 + 2
    assert (ids["dog</w>"], ids[words.START], ids[words.END]) == (513, 514, 515)
    assert (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:] == ["d o", "do g</w>"]
