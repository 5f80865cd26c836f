"""What a modifier token begins as: a rare word of the vocabulary, its class's word, or noise."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch

from cdtool.errors import TokenError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import CLIPTokenizer

    from cdtool.models.pipelines import Base
    from cdtool.tokens import Token

RARE = range(5, 11)  # occurrences in captions of a word that means next to nothing
_SHORTEST_PART = 4  # letters of a word that may stand for a longer one
# Rare in captions, alphabetic, no part of another: those of the paper's code, and more for bases that hold them.
INITIALIZERS = ("ktn", "pll", "ucd", "sks", "zqv", "wjx", "bfk", "gdh", "yrp")


def vocabulary_ids(tokenizers: Sequence[CLIPTokenizer], word: str) -> tuple[int, ...]:
    """The id of a vocabulary entry in each tokenizer: as it stands inside a word ("ktn"), else as a whole word.

    Raises TokenError when it is no single entry.
    """
    ids = []
    for tokenizer in tokenizers:
        vocabulary = tokenizer.get_vocab()
        index = vocabulary.get(word, vocabulary.get(f"{word}</w>"))
        if index is None:
            raise TokenError(
                f'"{word}" is not one entry of the base\'s vocabulary.',
                nearest(word, (entry.removesuffix("</w>") for entry in vocabulary)) or "Choose another word.",
            )
        ids.append(int(index))
    return tuple(ids)


def assign(tokenizers: Sequence[CLIPTokenizer], tokens: Sequence[Token]) -> tuple[Token, ...]:
    """The tokens with an initializer each: their own where they name one, else a rare word of the vocabulary.

    The noun decides which one, so that concepts trained separately seldom share an initializer: embeddings move little
    in training, and a merge cannot tell two modifier tokens apart that began as the same word.
    Raises TokenError when the vocabulary holds too few.
    """
    known = [word for word in INITIALIZERS if all(_holds(tokenizer, word) for tokenizer in tokenizers)]
    taken = {token.initializer for token in tokens}
    assigned = []
    for token in tokens:
        if not token.modifier:
            assigned.append(token)
            continue
        free = [word for word in _ordered(token.noun, known) if word not in taken]
        if not token.initializer and not free:
            raise TokenError(f'The base holds too few rare words to start "{token.words()}" from.')
        word = token.initializer or free[0]
        taken.add(word)
        assigned.append(replace(token, initializer=word, ids=vocabulary_ids(tokenizers, word)))
    return tuple(assigned)


def _ordered(noun: str, words: list[str]) -> list[str]:
    """The words in the order in which a noun tries them."""
    first = int(hashlib.sha256(noun.encode()).hexdigest(), 16) % max(1, len(words))
    return words[first:] + words[:first]


def _holds(tokenizer: CLIPTokenizer, word: str) -> bool:
    vocabulary = tokenizer.get_vocab()
    return word in vocabulary or f"{word}</w>" in vocabulary


def initial_embeddings(base: Base, tokens: Sequence[Token], init: str = "rare", seed: int = 0) -> list[list[Tensor]]:
    """The embeddings [d] that the tokens begin as, one list per text encoder; `init` as in TrainSettings.token_init.

    Raises TokenError where the word it names is no single entry of the vocabulary.
    """
    embeddings = []
    for encoder, (model, tokenizer) in enumerate(zip(base.text_encoders, base.tokenizers, strict=True)):
        table = cast("nn.Embedding", model.get_input_embeddings()).weight.detach()
        embeddings.append([
            _initial_embedding(table, tokenizer, encoder, token, init, (seed, index))
            if token.modifier else table.new_zeros(0) for index, token in enumerate(tokens)
        ])  # fmt: skip
    return embeddings


def _initial_embedding(
    table: Tensor, tokenizer: CLIPTokenizer, encoder: int, token: Token, init: str, seed: tuple[int, int]
) -> Tensor:
    if init == "rare":
        return table[token.ids[encoder]].clone()
    if init == "normal":  # as spread as the table is in each dimension: the paper's table 5
        generator = torch.Generator().manual_seed(1_000_003 * seed[0] + 101 * seed[1] + encoder)
        noise = torch.randn(table.shape[1], generator=generator).to(table)
        return table.mean(dim=0) + table.std(dim=0) * noise
    word = class_word(tokenizer, token.noun) if init == "class" else init.removeprefix("word:").strip()
    vocabulary = tokenizer.get_vocab()
    index = vocabulary.get(f"{word.lower()}</w>", vocabulary.get(word.lower()))
    if index is None:
        raise TokenError(
            f'"{word}" is not one entry of the base\'s vocabulary.', "Choose another: --token-init word:WORD"
        )
    return table[index].clone()


def class_word(tokenizer: CLIPTokenizer, noun: str) -> str:
    """One word of the vocabulary that stands for a class noun: its last word, or the word that one is made of.

    As the paper chose them: pot of wooden pot, gate of moongate, plush of tortoise plushy. Raises TokenError.
    """
    vocabulary = tokenizer.get_vocab()
    last = noun.lower().split()[-1]
    sizes = range(len(last) - 1, _SHORTEST_PART - 1, -1)
    for word in (last, *(last[-size:] for size in sizes), *(last[:size] for size in sizes)):
        if f"{word}</w>" in vocabulary:
            return word
    raise TokenError(f'No word of the base\'s vocabulary stands for "{noun}".', "Name one: --token-init word:WORD")


def rare_words(tokenizers: Sequence[CLIPTokenizer], captions: Sequence[str]) -> dict[str, int]:
    """Words for a modifier token to begin as, by the paper's rule, with their occurrences in captions.

    Vocabulary entries that occur 5 to 10 times, of letters only, and no part of any other entry.
    """
    counts: Counter[int] = Counter()
    for start in range(0, len(captions), 1000):
        for ids in tokenizers[0](list(captions[start : start + 1000]), add_special_tokens=False)["input_ids"]:
            counts.update(ids)
    vocabulary = tokenizers[0].get_vocab()
    words = {entry.removesuffix("</w>") for entry in vocabulary}
    every = "\n".join(sorted(words))
    rare: dict[str, int] = {}
    for entry, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        word = entry.removesuffix("</w>")
        seldom = counts[index] in RARE and word.isascii() and word.isalpha()
        if seldom and every.count(word) == 1 and all(_holds(tokenizer, word) for tokenizer in tokenizers):
            rare[word] = counts[index]
    return rare
