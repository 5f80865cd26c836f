"""Prompts to text features: V-words stand on an initialiser's id, and their learned row replaces its embedding."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from cdtool.errors import TokenError, nearest
from cdtool.tokens import Prompt

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import CLIPTextModel, CLIPTokenizer

    from cdtool.models.pipelines import Base
    from cdtool.tokens import Token

RARE = range(5, 11)  # occurrences in captions of a word that means next to nothing
_SHORTEST_PART = 4  # letters of a word that may stand for a longer one
# Rare in captions, alphabetic, no part of another: those of the paper's code, and more for bases that hold them.
INITIALIZERS = ("ktn", "pll", "ucd", "sks", "zqv", "wjx", "bfk", "gdh", "yrp")


class Slot(NamedTuple):
    """A position of a tokenized prompt where a learned row stands, and whose it is."""

    position: int
    token: int


@dataclass(frozen=True)
class Tokenized:
    """A prompt as ids, one [l] per text encoder, its V places, and the pieces that did not fit."""

    ids: tuple[tuple[int, ...], ...]
    slots: tuple[tuple[Slot, ...], ...]
    dropped: bool  # the prompt was longer than the text positions


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told: features [b, l, d] and, where the family wants it, pooled text [b, p]."""

    features: Tensor
    pooled: Tensor | None = None

    def __getitem__(self, rows: Any) -> Conditioning:
        """Some of the rows."""
        return Conditioning(self.features[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, dtype: torch.dtype) -> Conditioning:
        """The same in another precision."""
        return Conditioning(self.features.to(dtype), None if self.pooled is None else self.pooled.to(dtype))


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """Several conditionings below one another."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(torch.cat([part.features for part in parts]), torch.cat(pooled) if pooled else None)


def initializer_ids(tokenizers: Sequence[CLIPTokenizer], word: str) -> tuple[int, ...]:
    """The id of a vocabulary entry in each tokenizer: as it stands inside a word ("ktn"), else as a whole word.

    Raises TokenError when it is no single entry.
    """
    ids = []
    for tokenizer in tokenizers:
        vocabulary = tokenizer.get_vocab()
        found = vocabulary.get(word, vocabulary.get(f"{word}</w>"))
        if found is None:
            raise TokenError(
                f'"{word}" is not one entry of the base\'s vocabulary.',
                nearest(word, (entry.removesuffix("</w>") for entry in vocabulary)) or "Choose another word.",
            )
        ids.append(int(found))
    return tuple(ids)


def initialised(tokenizers: Sequence[CLIPTokenizer], tokens: Sequence[Token]) -> tuple[Token, ...]:
    """The tokens with an initialiser each: their own where they name one, else a rare word the base holds.

    Which one is settled by the noun, so that concepts trained apart seldom begin alike: rows hardly move, and a merge
    cannot tell two V-words apart that share theirs. Raises TokenError when the base holds too few.
    """
    held = [word for word in INITIALIZERS if all(_holds(tokenizer, word) for tokenizer in tokenizers)]
    taken = {token.initializer for token in tokens}
    made = []
    for token in tokens:
        if not token.modifier:
            made.append(token)
            continue
        free = [word for word in _dealt(token.noun, held) if word not in taken]
        if not token.initializer and not free:
            raise TokenError(f'The base holds too few rare words to start "{token.words()}" from.')
        word = token.initializer or free[0]
        taken.add(word)
        made.append(replace(token, initializer=word, ids=initializer_ids(tokenizers, word)))
    return tuple(made)


def _dealt(noun: str, words: list[str]) -> list[str]:
    """The words in the order in which a noun takes them."""
    first = int(hashlib.sha256(noun.encode()).hexdigest(), 16) % max(1, len(words))
    return words[first:] + words[:first]


def _holds(tokenizer: CLIPTokenizer, word: str) -> bool:
    vocabulary = tokenizer.get_vocab()
    return word in vocabulary or f"{word}</w>" in vocabulary


def tokenize(base: Base, prompt: Prompt, tokens: Sequence[Token]) -> Tokenized:
    """Ids and V places of a prompt in each of the base's tokenizers; too long a prompt is cut as CLIP cuts it."""
    made = [_tokenize(tokenizer, place, prompt, tokens) for place, tokenizer in enumerate(base.tokenizers)]
    return Tokenized(tuple(ids for ids, _, _ in made), tuple(slots for _, slots, _ in made), any(d for _, _, d in made))


def _tokenize(
    tokenizer: CLIPTokenizer, encoder: int, prompt: Prompt, tokens: Sequence[Token]
) -> tuple[tuple[int, ...], tuple[Slot, ...], bool]:
    length = tokenizer.model_max_length
    body: list[int] = []
    slots: list[Slot] = []
    for piece in prompt.pieces:
        if isinstance(piece, int):
            slots.append(Slot(len(body) + 1, piece))
            body.append(tokens[piece].ids[encoder])
        else:
            body += tokenizer(piece, add_special_tokens=False)["input_ids"]
    kept = body[: length - 2]
    ids = [tokenizer.bos_token_id, *kept, tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (length - len(ids))
    return tuple(ids), tuple(slot for slot in slots if slot.position <= len(kept)), len(kept) < len(body)


def shortened(prompt: Tokenized, length: int) -> Tokenized:
    """The first `length` positions of a prompt; the encoder is causal, so their features are those of the whole."""
    slots = tuple(tuple(slot for slot in found if slot.position < length) for found in prompt.slots)
    return replace(prompt, ids=tuple(ids[:length] for ids in prompt.ids), slots=slots)


@contextlib.contextmanager
def rows_in_place(encoder: CLIPTextModel, slots: Sequence[Sequence[Slot]], rows: Sequence[Tensor]) -> Iterator[None]:
    """While open, the embeddings at `slots` (one list per prompt of the batch) are the learned `rows` [d]."""
    places = [(prompt, slot.position, slot.token) for prompt, found in enumerate(slots) for slot in found]

    def replace(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
        if not places:
            return embedded
        at = (torch.tensor([p for p, _, _ in places]), torch.tensor([s for _, s, _ in places]))
        learned = torch.stack([rows[token] for _, _, token in places]).to(embedded)
        return embedded.index_put(tuple(index.to(embedded.device) for index in at), learned)

    handle = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def encode(base: Base, prompts: Sequence[Tokenized], rows: Sequence[Sequence[Tensor]] = ((), ())) -> Conditioning:
    """Text features of prompts; `rows[e][k]` is the learned row [d] of token k in encoder e.

    Differentiable in the rows. SDXL's two encoders are joined along d and the second one's pooled text comes along.
    """
    features, pooled = [], None
    for place, encoder in enumerate(base.text_encoders):
        ids = torch.tensor([prompt.ids[place] for prompt in prompts], device=base.device)
        slots = [prompt.slots[place] for prompt in prompts]
        with rows_in_place(encoder, slots, rows[place]):
            result = cast("Any", encoder(ids, output_hidden_states=base.family.penultimate))
        features.append(result.hidden_states[-2] if base.family.penultimate else result.last_hidden_state)
        pooled = result.text_embeds if hasattr(result, "text_embeds") else None
    return Conditioning(torch.cat(features, dim=-1), pooled if base.family.conditioned else None)


def empty_directions(base: Base, least: float) -> Tensor:
    """An orthonormal basis [d, r] of the empty prompt's features, r as many as reach a share `least` of the largest.

    None at all where `least` is 0, or where the base's guidance leads away from zeros.
    """
    if not least:
        return torch.zeros(sum(int(encoder.config.hidden_size) for encoder in base.text_encoders), 0)
    blank: list[list[Tensor]] = [[] for _ in base.text_encoders]
    with torch.no_grad():
        found = unprompted(base, encode(base, [tokenize(base, Prompt(("",), frozenset()), ())], blank)).features[0]
    _, strength, directions = torch.linalg.svd(found.float(), full_matrices=False)
    kept: Tensor = directions[(strength >= least * strength[0]) & (strength > 0)]
    return kept.T.contiguous().cpu()


def unprompted(base: Base, empty: Conditioning) -> Conditioning:
    """What guidance leads away from without a negative prompt: the empty prompt's text, or zeros, as SDXL learned."""
    if not base.zero_unprompted:
        return empty
    return Conditioning(
        torch.zeros_like(empty.features), None if empty.pooled is None else torch.zeros_like(empty.pooled)
    )


def initial_rows(base: Base, tokens: Sequence[Token], init: str = "rare", seed: int = 0) -> list[list[Tensor]]:
    """The embeddings [d] the tokens' rows begin as, one list per text encoder; `init` as in TrainSettings.token_init.

    Raises TokenError where the word it names is no single entry of the vocabulary.
    """
    made = []
    for encoder, (model, tokenizer) in enumerate(zip(base.text_encoders, base.tokenizers, strict=True)):
        table = cast("nn.Embedding", model.get_input_embeddings()).weight.detach()
        made.append([_initial_row(table, tokenizer, encoder, token, init, (seed, place)) if token.modifier
                     else table.new_zeros(0) for place, token in enumerate(tokens)])  # fmt: skip
    return made


def _initial_row(
    table: Tensor, tokenizer: CLIPTokenizer, encoder: int, token: Token, init: str, seed: tuple[int, int]
) -> Tensor:
    if init == "rare":
        return table[token.ids[encoder]].clone()
    if init == "normal":  # as spread as the table is in each dimension: the paper's table 5
        generator = torch.Generator().manual_seed(1_000_003 * seed[0] + 101 * seed[1] + encoder)
        drawn = torch.randn(table.shape[1], generator=generator).to(table)
        return table.mean(dim=0) + table.std(dim=0) * drawn
    word = class_word(tokenizer, token.noun) if init == "class" else init.removeprefix("word:").strip()
    vocabulary = tokenizer.get_vocab()
    found = vocabulary.get(f"{word.lower()}</w>", vocabulary.get(word.lower()))
    if found is None:
        raise TokenError(
            f'"{word}" is not one entry of the base\'s vocabulary.', "Choose another: --token-init word:WORD"
        )
    return table[found].clone()


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


# ---------------------------------------------------------------- rare words


def rare_words(tokenizers: Sequence[CLIPTokenizer], captions: Sequence[str]) -> dict[str, int]:
    """Words to begin a row as, by the paper's rule, with their occurrences in captions.

    Vocabulary entries met 5 to 10 times, of letters only, and no part of any other entry.
    """
    counts: Counter[int] = Counter()
    for start in range(0, len(captions), 1000):
        for ids in tokenizers[0](list(captions[start : start + 1000]), add_special_tokens=False)["input_ids"]:
            counts.update(ids)
    vocabulary = tokenizers[0].get_vocab()
    words = {entry.removesuffix("</w>") for entry in vocabulary}
    every = "\n".join(sorted(words))
    rare: dict[str, int] = {}
    for entry, place in sorted(vocabulary.items(), key=lambda item: item[1]):
        word = entry.removesuffix("</w>")
        seldom = counts[place] in RARE and word.isascii() and word.isalpha()
        if seldom and every.count(word) == 1 and all(_holds(tokenizer, word) for tokenizer in tokenizers):
            rare[word] = counts[place]
    return rare
