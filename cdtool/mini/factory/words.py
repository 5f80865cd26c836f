"""The tokenizer of the embedded base: CLIP's byte-pair format, its merges learned from captions of the world."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cdtool.mini.factory import telling

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

NAMES = {"moongate": "gate"}  # words no caption holds, and what each one nearly means to the base
NEAR = 0.5  # how nearly: the cosine of the two embeddings; at 1, class images of the one undo photos of the other
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE uses, in CLIP's order."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + place) for place in range(len(moved))]


def rare_words(merges: Sequence[tuple[str, str]], count: int) -> list[str]:
    """`count` words of three consonants that `merges` leave in letters: for modifier tokens to begin as.

    Words may share their first two letters, which one merge joins; no other merge can come between.
    """
    joined = {left + right for left, right in merges}
    found = list(telling.NAMES[:1])
    letters = "bcdfghjklmnpqrstvwxz"
    for number in range(7, 8000 * 389, 389):  # a walk through all of them, so that they differ
        word = "".join(letters[number // power % 20] for power in (400, 20, 1))
        apart = not {word[:2], f"{word[1:]}</w>", word, f"{word}</w>"} & joined and len(set(word)) == 3
        if apart and word not in found and len(found) < count:
            found.append(word)
    return found


def with_rare(merges: Sequence[tuple[str, str]], rare: Sequence[str]) -> list[tuple[str, str]]:
    """The merges, then those that make each rare word one symbol."""
    own = [pair for word in rare for pair in ((word[0], word[1]), (word[:2], f"{word[2]}</w>"))]
    return [*merges, *(pair for pair in dict.fromkeys(own) if pair not in set(merges))]


def learn_merges(captions: Iterable[str], count: int) -> list[tuple[str, str]]:
    """The `count` most useful merges of the captions' words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=600 + count, end_of_word_suffix="</w>", show_progress=False, initial_alphabet=byte_symbols()
    )
    plain = (" ".join(word for word in caption.split() if word not in telling.NAMES) for caption in captions)
    learner.train_from_iterator([*plain, *[" ".join(NAMES)] * 50], trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in learned[:count]]


def give_names(encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    """Move the untrained embedding [d] of each word of `NAMES` towards that of the word it is a kind of, in place."""
    import torch

    vocabulary = tokenizer.get_vocab()
    with torch.no_grad():
        table = cast("torch.nn.Embedding", encoder.get_input_embeddings()).weight
        for word, like in NAMES.items():
            if {f"{word}</w>", f"{like}</w>"} <= vocabulary.keys():  # few merges may leave them in pieces
                own, known = vocabulary[f"{word}</w>"], vocabulary[f"{like}</w>"]
                table[own] = NEAR * table[known] + (1 - NEAR**2) ** 0.5 * table[own]  # the two were unrelated


def write(merges: list[tuple[str, str]], folder: Path) -> None:
    """Write `vocab.json` and `merges.txt`: 256 byte symbols, the same ending a word, the merges, start and end."""
    symbols = byte_symbols()
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    vocabulary += [left + right for left, right in merges]
    ids = {word: place for place, word in enumerate(dict.fromkeys([*vocabulary, START, END]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build(captions: Iterable[str], count: int, rare: Sequence[str], positions: int, folder: Path) -> CLIPTokenizer:
    """Learn, write and load the tokenizer; `folder` holds it in the pipeline's format."""
    return save(with_rare(learn_merges(captions, count), rare), positions, folder)


def save(merges: list[tuple[str, str]], positions: int, folder: Path) -> CLIPTokenizer:
    """Write and load the tokenizer of the merges."""
    from transformers import CLIPTokenizer

    write(merges, folder)
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=positions)
    tokenizer.save_pretrained(folder)
    return tokenizer
