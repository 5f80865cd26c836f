"""Erasing in closed form: the map of text features that turns a phrase into what stands in its place, at low rank.

For features c of prompts with the phrase and c* of the same prompts with its replacement, M minimises the mean of
|M c - (c* - c)|^2 over the maps that act along those directions alone in which the c stand out from R, the second
moment of the features that must stay, and that leave the empty prompt's directions as they are. Every layer changes by
dW = W0 M, with one `down` for all. M goes a little further than that (FURTHER).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from cdtool.models import deltas, text
from cdtool.store.concept import weight_name
from cdtool.tokens import Prompt, article

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base

# How many times as strong as in R the phrase's features must be along a direction that changes. Lower forgets more and
# costs the others more (tests/benchmarks/erasure.py).
STANDS_OUT = 4.0
FURTHER = 1.25  # how far beyond the replacement's features a phrase's go: the sum over positions falls short of them
RIDGE = 1e-5  # added to R, relative to the mean of its diagonal
HELD = 0.05  # directions of the empty prompt's features that stay, by their share of the largest
CONTEXTS = 48  # captions in which the phrase takes a noun's place
BATCH = 32
TEMPLATES = ("{}", "a {}", "photo of a {}", "a painting of a {}", "painting in the style of {}")


class Pairs(NamedTuple):
    """Text features [n, d] in float64 of prompts with a phrase, and those wanted in their place."""

    features: Tensor
    wanted: Tensor


class Contexts(NamedTuple):
    """Prompts with "{}" for a phrase, and what stands in its place where nothing else is asked for."""

    templates: list[str]
    nouns: list[str]


def contexts(captions: Sequence[str], nouns: Sequence[str]) -> Contexts:
    """Captions that name one of the nouns, with {} in its place, evenly chosen, behind a few general prompts."""
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, sorted(nouns, key=len, reverse=True)))})(?!\w)")
    found = [(caption, match) for caption in captions if "{" not in caption and (match := pattern.search(caption))]
    chosen = [found[at * len(found) // min(CONTEXTS, len(found))] for at in range(min(CONTEXTS, len(found)))]
    templates = [f"{caption[: match.start()]}{{}}{caption[match.end() :]}" for caption, match in chosen]
    own = [match[1] for _, match in chosen]
    general = [nouns[at * len(nouns) // len(TEMPLATES)] for at in range(len(TEMPLATES))]
    return Contexts([*TEMPLATES, *templates], [*general, *own])


def pairs(base: Base, phrase: str, instead: str, places: Contexts) -> Pairs:
    """Features of every position from the phrase on, padding included, and the wanted ones at the positions they match.

    Args:
        base: with its text encoders.
        phrase: what is to be forgotten.
        instead: what takes its place; "" for the nouns of `places`.
        places: the prompts.
    """
    own, wanted = [], []
    replacements = [instead or noun for noun in places.nouns]
    mine = _encoded(base, [_filled(template, phrase) for template in places.templates])
    theirs = _encoded(base, [_filled(line, other) for line, other in zip(places.templates, replacements, strict=True)])
    for place, (template, other) in enumerate(zip(places.templates, replacements, strict=True)):
        start, old, new = (_length(base, words) for words in (template.partition("{}")[0], phrase, other))
        length = mine.shape[1]
        at = list(range(start + 1, length))
        matched = [start + new if spot <= start + old else min(spot - old + new, length - 1) for spot in at]
        own.append(mine[place, at])
        wanted.append(theirs[place, matched])
    return Pairs(torch.cat(own), torch.cat(wanted))


def _filled(template: str, phrase: str) -> str:
    head, _, tail = template.partition("{}")
    if re.search(r"(?<!\w)an? $", head):
        return head.rpartition("a")[0] + article(phrase) + tail
    return head + phrase + tail


def _length(base: Base, words: str) -> int:
    return len(base.tokenizers[0](words, add_special_tokens=False)["input_ids"])


def _encoded(base: Base, prompts: Sequence[str]) -> Tensor:
    """Features [b, l, d] of whole prompts in float64."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        tokenized = [text.tokenize(base, Prompt((prompt,)), ()) for prompt in prompts[start : start + BATCH]]
        with torch.no_grad():
            parts.append(text.encode(base, tokenized).features.cpu().double())
    return torch.cat(parts)


def moment(base: Base, prompts: Sequence[str]) -> Tensor:
    """The second moment [d, d] of all positions of prompts in float64."""
    features = _encoded(base, prompts).flatten(0, 1)
    return features.T @ features / len(features)


def solve(
    found: Sequence[Pairs], kept: Tensor, held: Tensor, least: float = STANDS_OUT, further: float = FURTHER
) -> deltas.Factors:
    """The map M as up [d, r] and down [r, d]; see the head of this module.

    Args:
        found: what is to be forgotten; each counts alike.
        kept: R [d, d], the second moment of what must stay.
        held: orthonormal directions [d, h] along which nothing changes.
        least: how many times as strong as in R a direction must be in the features to change.
        further: M is that of least squares times this.
    """
    stays = torch.eye(len(kept), dtype=kept.dtype) - held @ held.T
    gram, cross = torch.zeros_like(kept), torch.zeros_like(kept)
    for one in found:
        features = one.features @ stays
        gram += features.T @ features / len(features)
        cross += (one.wanted - one.features).T @ features / len(features)
    root = torch.linalg.cholesky(stays @ kept @ stays + RIDGE * kept.trace() / len(kept) * torch.eye(len(kept)))
    half = torch.linalg.solve_triangular(root, gram, upper=False)
    strength, axes = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.T, upper=False))
    chosen = strength > min(least, 0.5 * float(strength[-1]))  # one direction at least
    basis = torch.linalg.solve_triangular(root.T, axes[:, chosen], upper=True)  # gram-orthogonal, of these strengths
    return deltas.Factors(cross @ basis * (further / strength[chosen]), basis.T @ stays)


def tensors(base: Base, change: deltas.Factors) -> dict[str, Tensor]:
    """The concept's tensors: dW = W0 M as `up` [o, r] in fp16 for each K and V, and one `down` [r, d] in float32."""
    ups = {module: weight.double() @ change.up for module, weight in base.kv.items()}
    largest = torch.stack([up.abs().amax(dim=0) for up in ups.values()]).amax(dim=0)
    scale = torch.exp2(-largest.clamp(min=1e-30).log2().floor())  # columns of `up` below 2, far from fp16's limits
    stored = {"down": (change.down / scale[:, None]).float().contiguous()}
    return stored | {f"{weight_name(module)}.up": (up * scale).half() for module, up in ups.items()}


def drift(change: deltas.Factors, kept: Tensor, found: Sequence[Pairs]) -> float:
    """How far what must stay moves relative to what is forgotten: the root of tr(M R M') / mean |M c|^2.

    `kept` is R [d, d] as a mean over positions.
    """
    moved = (change.up.T @ change.up @ change.down @ kept @ change.down.T).trace().clamp(min=0)
    erased = torch.stack([deltas.apply(change, one.features).square().sum(dim=1).mean() for one in found]).mean()
    return float((moved / erased).sqrt()) if float(erased) else 0.0
