"""Several concepts in one image without merging them: whose keys and values each text position takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdtool.models import adapter, deltas, text

if TYPE_CHECKING:
    from cdtool.models.adapter import ConceptWeights
    from cdtool.models.pipelines import Base
    from cdtool.store.concept import Reach
    from cdtool.tokens import Prompt, Token


def shares(
    base: Base, prompt: Prompt, tokens: Sequence[Token], concepts: Sequence[int], reach: Sequence[Reach]
) -> Tensor:
    """How much of each concept's change every text position takes [l, N].

    Token k belongs to concept `concepts[k]`, which acts as `reach[concepts[k]]` says. The words of a concept take all
    of its change; other words and the start token take none. The end of the text and the padding, whose features
    summarise the prompt, take the mean of the changes of all concepts of reach "prompt" that it names. A larger share
    there, or one for the words that follow, makes the concepts more visible and the rest of the prompt less
    (tests/benchmarks/routing_rules.py).
    """
    own, end = text.owners(base, prompt, tokens)
    share = torch.zeros(len(own), len(reach))
    for position, token in enumerate(own):
        if token is not None:
            share[position, concepts[token]] = 1.0
    named = sorted({concepts[token] for token in own if token is not None})
    whole = [concept for concept in named if reach[concept] == "prompt"]
    if whole:
        share[end:, whole] = 1.0 / len(whole)
    share[:, [concept for concept, own_reach in enumerate(reach) if own_reach == "everywhere"]] = 1.0
    return share


def keys_and_values(
    base: Base, concepts: Sequence[ConceptWeights], share: Tensor, features: Tensor
) -> dict[str, Tensor]:
    """K or V [b, l, o] of every module for text features [b, l, d]: c W0' + sum_i share_i c dW_i', in float32.

    `share` is [b, l, N]. Only the positions that take a concept's change are multiplied by it.
    """
    features = features.float()
    result = adapter.keys_and_values(base, adapter.ConceptWeights(), features)
    for index, concept in enumerate(concepts):
        prompts, positions = share[..., index].nonzero(as_tuple=True)
        if not len(prompts):  # of any number of concepts, those that no prompt names cost nothing
            continue
        at = (prompts.to(features.device), positions.to(features.device))
        part = share[prompts, positions, index].to(features)[:, None]
        for module, delta in concept.kv.items():
            result[module].index_put_(at, part * deltas.apply(delta, features[at]), accumulate=True)
    return result


def weighted(concept: ConceptWeights, weight: float) -> ConceptWeights:
    """A concept with its changes of weights times `weight`; its token embeddings stay as they were learned."""
    if weight == 1:
        return concept
    kv, others = ({name: deltas.scaled(delta, weight) for name, delta in part.items()}
                  for part in (concept.kv, concept.others))  # fmt: skip
    return replace(concept, kv=kv, others=others)


def embeddings(concepts: Sequence[ConceptWeights]) -> tuple[tuple[Tensor, ...], ...]:
    """The embeddings of several concepts' tokens in order, per text encoder."""
    return tuple(
        tuple(row for part in parts for row in part) for parts in zip(*(c.embeddings for c in concepts), strict=True)
    )
