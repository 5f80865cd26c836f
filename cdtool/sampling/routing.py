"""Several concepts in one picture without a file: whose keys and values each text position takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdtool.models import adapter
from cdtool.tokens import own_words

if TYPE_CHECKING:
    from cdtool.models.adapter import Change, Learned
    from cdtool.models.pipelines import Base
    from cdtool.tokens import Prompt, Token


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


def shares(base: Base, prompt: Prompt, tokens: Sequence[Token], concepts: Sequence[int]) -> Tensor:
    """How much of each concept's change every text position takes [l, N]; token k belongs to concept `concepts[k]`.

    A concept's own words take its change whole, all other words and the start token none. From the end of the text on,
    where the whole prompt is summed up, the concepts it names count in equal parts: more of them shows more of the
    things and less of the rest, and so do the words behind them (tests/benchmarks/routing_rules.py).
    """
    own, end = owners(base, prompt, tokens)
    share = torch.zeros(len(own), max(concepts, default=-1) + 1)
    for position, token in enumerate(own):
        if token is not None:
            share[position, concepts[token]] = 1.0
    named = sorted({concepts[token] for token in own if token is not None})
    if named:
        share[end:, named] = 1.0 / len(named)
    return share


def keys_and_values(base: Base, concepts: Sequence[Learned], share: Tensor, features: Tensor) -> dict[str, Tensor]:
    """K or V [b, l, o] of every module for text features [b, l, d]: c W0' + sum_i share_i c dW_i', in float32.

    `share` is [b, l, N]. Only the positions that take a concept's change are multiplied by it.
    """
    features = features.float()
    made = adapter.keys_and_values(base, adapter.Learned(), features)
    for place, concept in enumerate(concepts):
        prompts, positions = share[..., place].nonzero(as_tuple=True)
        at = (prompts.to(features.device), positions.to(features.device))
        part = share[prompts, positions, place].to(features)[:, None]
        for module, change in concept.changes.items():
            made[module].index_put_(at, part * adapter.applied(change, features[at]), accumulate=True)
    return made


def weighted(concept: Learned, weight: float) -> Learned:
    """A concept with its changes of weights times `weight`; the rows of its tokens stay as they were learned."""
    if weight == 1:
        return concept
    scaled = [{name: _scaled(change, weight) for name, change in changes.items()}
              for changes in (concept.changes, concept.others)]  # fmt: skip
    return replace(concept, changes=scaled[0], others=scaled[1])


def _scaled(change: Change, weight: float) -> Change:
    return change * weight if isinstance(change, Tensor) else (change[0] * weight, change[1])


def rows(concepts: Sequence[Learned]) -> tuple[tuple[Tensor, ...], ...]:
    """The rows of several concepts' tokens in order, per text encoder."""
    return tuple(
        tuple(row for part in parts for row in part) for parts in zip(*(c.rows for c in concepts), strict=True)
    )
