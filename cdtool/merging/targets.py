"""Whose row is whose: the prompts that bind a merge, those that try it, and the text features that are a concept's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import torch

from cdtool.images import photos
from cdtool.models import text
from cdtool.sampling.routing import owners
from cdtool.tokens import article, bind

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.tokens import Prompt, Token

BATCH = 64
SAME = 1e-4  # features that differ by less, relatively, are one row: the encoder's own rounding lies below
_OBJECTS = ("a photo of a {} on the beach", "a painting of a {}")
_STYLES = ("a house in the style of {}", "a dog on the beach in the style of {}", "a picture of a tree, {}")
_PAIRS = ("a {} next to a {} on the beach", "a photo of a {} and a {}")


class Rows(NamedTuple):
    """Text features [s, d] in float64, and for each the tokens whose they are: several where features coincide."""

    features: Tensor
    places: list[tuple[int, ...]]

    def of(self, owner: Sequence[int]) -> Rows:
        """The same rows with the owners of their tokens, concepts, in the tokens' place."""
        return Rows(self.features, [tuple(dict.fromkeys(owner[at] for at in places)) for places in self.places])


def prompts(tokens: Sequence[Token], styles: Sequence[bool], *, pairs: bool = True) -> list[str]:
    """The prompts that bind: each token's words, its training caption, and each two tokens, both orders, two ways."""
    words = [token.words(place + 1) for place, token in enumerate(tokens)]
    captions = [photos.template(token, style, own) for token, style, own in zip(tokens, styles, words, strict=True)]
    singles = [prompt for both in zip(words, captions, strict=True) for prompt in both]
    # A plain word has no modifier's row to be held by, so it is bound once more.
    kinds = zip(tokens, styles, strict=True)
    singles += [f"a {photos.template(token, False)}" for token, style in kinds if not (token.modifier or style)]
    made = list(singles)
    for one, other in permutations(range(len(tokens) if pairs else 0), 2):
        made.append(captions[one] + _joint(styles[one], styles[other], words[other]))
        if not (styles[one] or styles[other]):
            made.append(f"{captions[one]} in front of {article(words[other])}")
    return made


def _joint(first: bool, second: bool, words: str) -> str:
    """How a caption goes on to a second token: as another thing, as its style, or as what is painted in the style."""
    if second:
        return f" in the style of {words}" if not first else f" and {words}"
    return f" of {article(words)}" if first else f" and {article(words)}"


def trials(tokens: Sequence[Token], styles: Sequence[bool]) -> list[str]:
    """Prompts that are none of `prompts`, to try a merge on."""
    words = [token.words(place + 1) for place, token in enumerate(tokens)]
    made = [_fill(template, own) for own, style in zip(words, styles, strict=True)
            for template in (_STYLES if style else _OBJECTS)]  # fmt: skip
    for one, other in permutations(range(len(tokens)), 2):
        if styles[other] and not styles[one]:
            made.append(_fill("a {} on the beach in the style of {}", words[one], words[other]))
        elif not styles[one]:
            made += [_fill(template, words[one], words[other]) for template in _PAIRS]
    return made


def _fill(template: str, *words: str) -> str:
    for own in words:
        head, _, tail = template.partition("{}")
        template = (head[:-2] + article(own) if f" {head}".endswith(" a ") else head + own) + tail
    return template


def rows(
    base: Base, texts: Sequence[str], tokens: Sequence[Token], learned: Sequence[Sequence[Tensor]], *, whole: bool
) -> Rows:
    """The text features of `texts` that belong to a token; `learned[e][k]` is the row of token k in encoder e.

    Each token's own words, its modifier and noun. If `whole`, a prompt that names one token is its own to the end:
    from its own first word to the first end-of-text. Padding binds nothing (tests/benchmarks/padding_rules.py).
    """
    features: list[Tensor] = []
    places: list[tuple[int, ...]] = []
    bound = [bind(prompt, tokens) for prompt in texts]
    for start in range(0, len(bound), BATCH):
        part = bound[start : start + BATCH]
        owned = [owners(base, prompt, tokens) for prompt in part]
        for prompt, row, (own, end) in zip(part, _encoded(base, part, tokens, learned, owned), owned, strict=True):
            named = [(at, place) for at, place in enumerate(own) if place is not None]
            if whole and len(prompt.named) == 1:
                named = [(at, named[0][1]) for at in range(named[0][0], end + 1)]
            features += [row[at] for at, _ in named]
            places += [(place,) for _, place in named]
    return Rows(torch.stack(features), places)


def _encoded(
    base: Base, prompts: Sequence[Prompt], tokens: Sequence[Token], learned: Sequence[Sequence[Tensor]],
    owned: Sequence[tuple[Sequence[int | None], int]],
) -> Tensor:  # fmt: skip
    """Features [b, l, d] of prompts in float64, up to the last one's end."""
    longest = max(end for _, end in owned) + 1
    made = [text.shortened(text.tokenize(base, prompt, tokens), longest) for prompt in prompts]
    with torch.no_grad():
        return text.encode(base, made, learned).features.cpu().double()


def others(found: Rows, bound: Rows) -> Rows:
    """The rows that coincide with none of the `bound` ones, as those of a common beginning do."""
    near = torch.cdist(found.features, bound.features) <= SAME * found.features.norm(dim=1, keepdim=True)
    kept = (~near.any(dim=1)).nonzero().flatten().tolist()
    return Rows(found.features[kept], [found.places[at] for at in kept])


def distinct(found: Rows) -> Rows:
    """The same rows with those that coincide as one, which then belongs to all their tokens."""
    near = torch.cdist(found.features, found.features) <= SAME * found.features.norm(dim=1, keepdim=True)
    first = [int(row.nonzero()[0]) for row in near]
    kept = [at for at, leader in enumerate(first) if leader == at]
    merged: dict[int, tuple[int, ...]] = dict.fromkeys(kept, ())
    for at, leader in enumerate(first):
        while leader not in merged:  # close to a row that is itself close to an earlier one
            leader = first[leader]
        merged[leader] = tuple(dict.fromkeys(merged[leader] + found.places[at]))
    return Rows(found.features[kept], [merged[at] for at in kept])
