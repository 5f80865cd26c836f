"""Prompts to text features: a modifier token takes its initializer's id, and its learned embedding that one's place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cdtool.models import pipelines
from cdtool.tokens import Prompt, own_words

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import CLIPTokenizer

    from cdtool.models.clip import TextEncoder
    from cdtool.models.pipelines import Base
    from cdtool.tokens import Token

COMMA = 20  # how many tokens before its end a part of a long prompt may end at a comma


class Slot(NamedTuple):
    """A position of a tokenized prompt that takes a learned embedding, and the index of the token it belongs to."""

    position: int
    token: int


@dataclass(frozen=True)
class Tokenized:
    """A prompt as ids, one [l] per text encoder, with the positions of its modifier tokens."""

    ids: tuple[tuple[int, ...], ...]
    slots: tuple[tuple[Slot, ...], ...]
    truncated: bool  # the prompt was longer than the text positions


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is conditioned on: features [b, l, d] and, where the family wants it, pooled text [b, p]."""

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


def tokenize(base: Base, prompt: Prompt, tokens: Sequence[Token]) -> Tokenized:
    """Ids of a prompt in each of the base's tokenizers; a prompt that is too long is truncated as CLIP does it."""
    parts = [_tokenize(tokenizer, encoder, prompt, tokens) for encoder, tokenizer in enumerate(base.tokenizers)]
    ids, slots, truncated = zip(*parts, strict=True)
    return Tokenized(ids, slots, any(truncated))


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


def split(base: Base, prompt: Prompt, tokens: Sequence[Token]) -> list[Prompt]:
    """A prompt in parts of as many tokens as the encoders read at once (75): a short one is its only part.

    A part ends behind a comma among its last COMMA tokens, else between two words, and never between a modifier and
    the word behind it. The web interfaces split long prompts likewise.
    """
    tokenizer = base.tokenizers[0]
    units = list(_units(prompt))
    widths = [sum(1 if isinstance(piece, int) else len(tokenizer(piece, add_special_tokens=False)["input_ids"])
                  for piece, _ in unit) for unit in units]  # fmt: skip
    size, start = int(tokenizer.model_max_length) - 2, 0
    parts: list[Prompt] = []
    while start < len(units) or not parts:
        end, width = start, 0
        while end < len(units) and (width + widths[end] <= size or end == start):
            width += widths[end]
            end += 1
        commas = [at for at in range(start + 1, end + 1) if str(units[at - 1][-1][0]).endswith(",")]
        if end < len(units) and commas and sum(widths[commas[-1] : end]) <= COMMA:
            end = commas[-1]
        parts.append(_joined(prompt, [piece for unit in units[start:end] for piece in unit]))
        start = end
    return parts if len(parts) > 1 else [prompt]


def _units(prompt: Prompt) -> Iterator[list[tuple[str | int, float]]]:
    """What may not be split: a word, and a modifier with the word behind it; each piece with its weight."""
    unit: list[tuple[str | int, float]] = []
    for piece, weight in zip(prompt.pieces, prompt.weights or [1.0] * len(prompt.pieces), strict=True):
        for word in [piece] if isinstance(piece, int) else re.findall(r"\s*\S+", piece):
            unit.append((word, weight))
            if isinstance(word, str):
                yield unit
                unit = []
    if unit:
        yield unit


def _joined(prompt: Prompt, pieces: Sequence[tuple[str | int, float]]) -> Prompt:
    """A prompt of pieces, neighbouring texts of one weight joined."""
    joined: list[tuple[str | int, float]] = []
    for piece, weight in pieces:
        if joined and isinstance(piece, str) and isinstance(joined[-1][0], str) and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + piece, weight)
        else:
            joined.append((piece, weight))
    weights = tuple(weight for _, weight in joined) if prompt.weights else ()
    return Prompt(tuple(piece for piece, _ in joined), prompt.named, weights=weights)


def emphasised(base: Base, condition: Conditioning, prompts: Sequence[Prompt]) -> Conditioning:
    """Text features [b, l, d] with each position multiplied by the weight of its words.

    Each encoder's features of a prompt keep their mean, as in the web interface that introduced "(word:1.2)".
    """
    if not any(prompt.weights for prompt in prompts):
        return condition
    pipelines.need(base, "text")
    widths = [int(encoder.config.hidden_size) for encoder in base.text_encoders]
    weights = torch.tensor([_position_weights(base, prompt) for prompt in prompts])[..., None].to(condition.features)
    parts = []
    for part in torch.split(condition.features, widths, dim=-1):
        weighted = part * weights
        mean = weighted.mean(dim=(1, 2), keepdim=True)
        parts.append(weighted * torch.where(mean == 0, 1.0, part.mean(dim=(1, 2), keepdim=True) / mean))
    return replace(condition, features=torch.cat(parts, dim=-1))


def _position_weights(base: Base, prompt: Prompt) -> list[float]:
    """The weight of each text position [l]; 1 at the start token, the end of the text and the padding."""
    tokenizer = base.tokenizers[0]
    body: list[float] = []
    for piece, weight in zip(prompt.pieces, prompt.weights, strict=False):
        width = 1 if isinstance(piece, int) else len(tokenizer(piece, add_special_tokens=False)["input_ids"])
        body += [weight] * width
    length = tokenizer.model_max_length
    return [1.0, *body[: length - 2], *[1.0] * (length - 1 - len(body[: length - 2]))]


def owners(base: Base, prompt: Prompt, tokens: Sequence[Token]) -> tuple[list[int | None], int]:
    """The token whose own words stand at each text position [l], None at the others, and the end-of-text's position.

    A family's tokenizers split words alike, so the first one's positions are those of every encoder.
    """
    tokenizer = base.tokenizers[0]
    length = tokenizer.model_max_length
    body: list[int | None] = []
    for piece, owner in own_words(prompt, tokens):
        width = 1 if isinstance(piece, int) else len(tokenizer(piece, add_special_tokens=False)["input_ids"])
        body += [owner] * width
    kept = body[: length - 2]
    return [None, *kept, *[None] * (length - 1 - len(kept))], len(kept) + 1


def truncate(prompt: Tokenized, length: int) -> Tokenized:
    """The first `length` positions of a prompt; the encoder is causal, so their features are those of the whole."""
    slots = tuple(tuple(slot for slot in slots if slot.position < length) for slots in prompt.slots)
    return replace(prompt, ids=tuple(ids[:length] for ids in prompt.ids), slots=slots)


@contextlib.contextmanager
def override_embeddings(
    encoder: TextEncoder, slots: Sequence[Sequence[Slot]], embeddings: Sequence[Tensor]
) -> Iterator[None]:
    """While open, `encoder` takes the learned `embeddings` [d] at `slots`, one list per prompt of the batch."""
    targets = [(prompt, slot.position, slot.token) for prompt, own in enumerate(slots) for slot in own]

    def replace(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
        if not targets:
            return embedded
        at = (torch.tensor([p for p, _, _ in targets]), torch.tensor([s for _, s, _ in targets]))
        learned = torch.stack([embeddings[token] for _, _, token in targets]).to(embedded)
        return embedded.index_put(tuple(index.to(embedded.device) for index in at), learned)

    handle = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def encode(base: Base, prompts: Sequence[Tokenized], embeddings: Sequence[Sequence[Tensor]] = ((), ())) -> Conditioning:
    """Text features of prompts; `embeddings[e][k]` is the learned embedding [d] of token k in encoder e.

    Differentiable in the embeddings. SDXL's two encoders are joined along d, with the second one's pooled text.
    """
    pipelines.need(base, "text")
    features, pooled = [], None
    for index, encoder in enumerate(base.text_encoders):
        ids = torch.tensor([prompt.ids[index] for prompt in prompts], device=base.device)
        slots = [prompt.slots[index] for prompt in prompts]
        with override_embeddings(encoder, slots, embeddings[index]):
            result = encoder(ids, penultimate=base.family.penultimate)
        features.append(result.penultimate if base.family.penultimate else result.last_hidden_state)
        pooled = result.text_embeds
    return Conditioning(torch.cat(features, dim=-1), pooled if base.family.conditioned else None)


@contextlib.contextmanager
def in_compute_precision(base: Base) -> Iterator[None]:
    """While open, the text encoders' matrices are in the compute precision, as which autocast computes them anyway.

    Without it every pass casts them again, and keeps the copies until its backward pass. Features are equal to the
    bit under autocast. Afterwards the encoders are freed, to be loaded in float32 where they are needed.
    """
    if base.dtype == torch.float32:
        yield
        return
    pipelines.need(base, "text")
    for encoder in base.text_encoders:
        for module in encoder.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(base.dtype)
    pipelines.release_memory(base.device)
    try:
        yield
    finally:
        pipelines.free(base, "text")


def empty_directions(base: Base, least: float) -> Tensor:
    """An orthonormal basis [d, r] of the empty prompt's features, r as many as reach a share `least` of the largest.

    No direction where `least` is 0, or where the base's unconditional text is zeros.
    """
    pipelines.need(base, "text")
    if not least:
        return torch.zeros(sum(int(encoder.config.hidden_size) for encoder in base.text_encoders), 0)
    blank: list[list[Tensor]] = [[] for _ in base.text_encoders]
    with torch.no_grad():
        empty = encode(base, [tokenize(base, Prompt(("",), frozenset()), ())], blank)
        features = unconditional(base, empty).features[0]
    _, strength, directions = torch.linalg.svd(features.float(), full_matrices=False)
    kept: Tensor = directions[(strength >= least * strength[0]) & (strength > 0)]
    return kept.T.contiguous().cpu()


def unconditional(base: Base, empty: Conditioning) -> Conditioning:
    """The unconditional text of guidance without a negative prompt: the empty prompt's, or zeros, as SDXL learned."""
    if not base.zero_unprompted:
        return empty
    return Conditioning(
        torch.zeros_like(empty.features), None if empty.pooled is None else torch.zeros_like(empty.pooled)
    )
