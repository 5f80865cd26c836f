"""What a modifier token begins as: a rare word of the vocabulary, its class's word, or noise."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from cdtool.errors import TokenError, nearest
from cdtool.models import pipelines

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import CLIPTokenizer

    from cdtool.models.pipelines import Base
    from cdtool.tokens import Token

PAPER = ("ktn", "pll", "ucd")  # the words the paper's own code begins at
SHIPPED = Path(__file__).parent.parent / "assets" / "initializers-clip.txt"  # made by tests/benchmarks/rare_words.py
OCCURRENCES = range(5, 11)  # in captions, of a word that is rare by the paper's rule
_CONSONANTS = re.compile(r"[b-df-hj-np-tv-xz]{3,4}")  # no vowel: no word of a language, nothing a picture shows
_SHORTEST_PART = 4  # letters of a word that may stand for a longer one


def assign(
    tokenizers: Sequence[CLIPTokenizer], tokens: Sequence[Token], taken: Collection[str] = ()
) -> tuple[Token, ...]:
    """The tokens with an initializer each: their own where they have one, else a rare word of the vocabulary.

    `taken` are the initializers of other concepts, avoided while the vocabulary holds more. Raises TokenError for an
    initializer that is no entry of the vocabulary, and when there are fewer rare words than modifier tokens.
    """
    vocabularies = [tokenizer.get_vocab() for tokenizer in tokenizers]
    own = {token.initializer for token in tokens}
    nouns = [token.noun for token in tokens if token.modifier and not token.initializer]
    chosen = iter(choose([word for word in words(vocabularies) if word not in own], nouns, taken) if nouns else ())
    assigned = []
    for token in tokens:
        if token.modifier:
            word = token.initializer or next(chosen)
            token = replace(token, initializer=word, ids=_ids(vocabularies, word))
        assigned.append(token)
    return tuple(assigned)


def choose(words: Sequence[str], nouns: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """One of `words` for each noun, no two alike, and none of `taken` while there are others.

    The order in which a noun tries them depends on the noun alone, so results are stable. Concepts need different
    words because an embedding moves little in training: a merge cannot tell two apart that began as the same word.
    """
    if len(nouns) > len(words):
        raise TokenError(
            f"{len(nouns)} modifier tokens need a rare word each to begin as; the base's vocabulary has {len(words)}.",
            'Train fewer tokens together, or call some by a plain noun: --token "moongate".',
        )
    chosen: list[str] = []
    for noun in nouns:
        free = [word for word in words if word not in chosen]
        untaken = [word for word in free if word not in taken]
        chosen.append(min(untaken or free, key=lambda word: hashlib.sha256(f"{noun} {word}".encode()).digest()))
    return chosen


def words(vocabularies: Sequence[Mapping[str, int]]) -> list[str]:
    """The rare words that every one of a base's vocabularies holds: the shipped list of CLIP's, or `rare`."""
    shipped = SHIPPED.read_text(encoding="utf-8").split()
    known = shipped if all(f"{word}</w>" in vocabularies[0] for word in shipped) else rare(vocabularies[0])
    return [word for word in dict.fromkeys([*PAPER, *known]) if all(_holds(found, word) for found in vocabularies)]


def rare(vocabulary: Mapping[str, int]) -> list[str]:
    """Entries of a vocabulary for modifier tokens to begin as, most frequent first: the paper's rule without captions.

    Whole words of three or four consonants that are no part of another entry, in the less frequent half: byte pairs
    are numbered by how frequent they were.
    """
    parts = Counter(part for entry in {entry.removesuffix("</w>") for entry in vocabulary} for part in _parts(entry))
    found = []
    for entry, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        word = entry.removesuffix("</w>")
        whole = entry != word and word not in vocabulary
        seldom = index >= len(vocabulary) / 2 and parts[word] == 1
        if whole and seldom and _CONSONANTS.fullmatch(word) and len(set(word)) > 1:
            found.append(word)
    return found


def _parts(entry: str) -> set[str]:
    """Every part of three or four characters."""
    return {entry[start : start + size] for size in (3, 4) for start in range(len(entry) - size + 1)}


def vocabulary_ids(tokenizers: Sequence[CLIPTokenizer], word: str) -> tuple[int, ...]:
    """The id of a vocabulary entry in each tokenizer: as it stands inside a word ("ktn"), else as a whole word.

    Raises TokenError when it is no single entry.
    """
    return _ids([tokenizer.get_vocab() for tokenizer in tokenizers], word)


def _ids(vocabularies: Sequence[Mapping[str, int]], word: str) -> tuple[int, ...]:
    ids = []
    for vocabulary in vocabularies:
        index = vocabulary.get(word, vocabulary.get(f"{word}</w>"))
        if index is None:
            raise TokenError(
                f'"{word}" is not one entry of the base\'s vocabulary.',
                nearest(word, (entry.removesuffix("</w>") for entry in vocabulary)) or "Choose another word.",
            )
        ids.append(int(index))
    return tuple(ids)


def _holds(vocabulary: Mapping[str, int], word: str) -> bool:
    return word in vocabulary or f"{word}</w>" in vocabulary


def initial_embeddings(base: Base, tokens: Sequence[Token], init: str = "rare", seed: int = 0) -> list[list[Tensor]]:
    """The embeddings [d] that the tokens begin as, one list per text encoder; `init` as in TrainSettings.token_init.

    Raises TokenError where the word it names is no single entry of the vocabulary.
    """
    pipelines.need(base, "text")
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
    vocabularies = [tokenizer.get_vocab() for tokenizer in tokenizers]
    vocabulary = vocabularies[0]
    every = "\n".join(sorted({entry.removesuffix("</w>") for entry in vocabulary}))
    found: dict[str, int] = {}
    for entry, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        word = entry.removesuffix("</w>")
        seldom = counts[index] in OCCURRENCES and word.isascii() and word.isalpha()
        if seldom and every.count(word) == 1 and all(_holds(other, word) for other in vocabularies):
            found[word] = counts[index]
    return found
