"""Merge targets: the prompts that constrain a merge or test it, and which text features belong to which concept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import torch

from cdtool.errors import ConceptError
from cdtool.images import photos
from cdtool.models import text
from cdtool.tokens import article, bind

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.tokens import Prompt, Token

BATCH = 64
ALL_PAIRS = 8  # tokens, above which a merge is tried on some of their pairs
SAME = 1e-4  # features that differ by less, relatively, are one target: the encoder's own rounding lies below
_OBJECTS = ("a photo of a {} on the beach", "a painting of a {}")
_STYLES = ("a house in the style of {}", "a dog on the beach in the style of {}", "a picture of a tree, {}")
_PAIRS = ("a {} next to a {} on the beach", "a photo of a {} and a {}")


class Targets(NamedTuple):
    """Text features [s, d] in float64, and the tokens each belongs to: several where their features coincide."""

    features: Tensor
    owners: list[tuple[int, ...]]

    def by_concept(self, concept_of: Sequence[int]) -> Targets:
        """The same features owned by concepts: `concept_of` names the concept of each token."""
        return Targets(self.features, [tuple(dict.fromkeys(concept_of[k] for k in own)) for own in self.owners])


def prompts(tokens: Sequence[Token], styles: Sequence[bool], *, pairs: bool = True) -> list[str]:
    """The prompts that constrain a merge: each token's words, its training caption, and each pair in both orders."""
    taught = [place for place, token in enumerate(tokens) if not token.erased]
    words = [tokens[place].words(place + 1) for place in taught]
    tokens, styles = [tokens[place] for place in taught], [styles[place] for place in taught]
    captions = [photos.template(token, style, own) for token, style, own in zip(tokens, styles, words, strict=True)]
    singles = [prompt for both in zip(words, captions, strict=True) for prompt in both]
    # A plain word has no learned embedding of its own, so it gets one prompt more.
    kinds = zip(tokens, styles, strict=True)
    singles += [f"a {photos.template(token, False)}" for token, style in kinds if not (token.modifier or style)]
    texts = list(singles)
    for one, other in permutations(range(len(tokens) if pairs else 0), 2):
        texts.append(captions[one] + _joint(styles[one], styles[other], words[other]))
        if not (styles[one] or styles[other]):
            texts.append(f"{captions[one]} in front of {article(words[other])}")
    return texts


def fit_in(base: Base, tokens: Sequence[Token], styles: Sequence[bool], whole: Collection[int], most: int) -> bool:
    """Whether the targets of `prompts` with its pairs are `most` at most, counted without encoding or binding any.

    What two prompts have in common at their beginning is one target, so a pair adds the words of its second token.
    """
    taught = [place for place, token in enumerate(tokens) if not token.erased]
    tokenizer = base.tokenizers[0]
    widths = {place: tokens[place].modifier + len(tokenizer(tokens[place].noun, add_special_tokens=False)["input_ids"])
              for place in taught}  # fmt: skip
    count = 0
    for place in taught:
        prompts_of = 2 + (not (tokens[place].modifier or styles[place]))
        count += prompts_of * (widths[place] + (place in whole))
    things = [place for place in taught if not styles[place]]
    every, between = sum(widths.values()), sum(widths[place] for place in things)
    count += (len(taught) - 1) * every + max(len(things) - 1, 0) * between
    return count <= most


def _joint(first: bool, second: bool, words: str) -> str:
    """How a caption goes on to a second token: as another thing, as its style, or as what is painted in the style."""
    if second:
        return f" in the style of {words}" if not first else f" and {words}"
    return f" of {article(words)}" if first else f" and {article(words)}"


def held_out_prompts(tokens: Sequence[Token], styles: Sequence[bool]) -> list[str]:
    """Prompts that are none of `prompts`, to test a merge on."""
    taught = [index for index, token in enumerate(tokens) if not token.erased]
    words = [tokens[index].words(index + 1) for index in taught]
    tokens, styles = [tokens[index] for index in taught], [styles[index] for index in taught]
    texts = [_fill(template, own) for own, style in zip(words, styles, strict=True)
            for template in (_STYLES if style else _OBJECTS)]  # fmt: skip
    for one, other in _some_pairs(len(tokens)):
        if styles[other] and not styles[one]:
            texts.append(_fill("a {} on the beach in the style of {}", words[one], words[other]))
        elif not styles[one]:
            texts += [_fill(template, words[one], words[other]) for template in _PAIRS]
    return texts


def _some_pairs(count: int) -> list[tuple[int, int]]:
    """All ordered pairs of a few tokens; of many, each with its next one and with the one half way round."""
    if count <= ALL_PAIRS:
        return list(permutations(range(count), 2))
    return [(one, (one + step) % count) for one in range(count) for step in (1, count // 2)]


def _fill(template: str, *words: str) -> str:
    for own in words:
        head, _, tail = template.partition("{}")
        template = (head[:-2] + article(own) if f" {head}".endswith(" a ") else head + own) + tail
    return template


def collect(
    base: Base, texts: Sequence[str], tokens: Sequence[Token], embeddings: Sequence[Sequence[Tensor]],
    *, whole: Collection[int] = (),
) -> Targets:  # fmt: skip
    """The text features of `texts` that belong to a token; `embeddings[e][k]` is the row of token k in encoder e.

    Each token's own words, its modifier and noun. A prompt that names one of the `whole` tokens alone is its own to the
    end: from its own first word to the first end-of-text. Padding binds nothing (tests/benchmarks/padding_rules.py).
    """
    features: list[Tensor] = []
    owners: list[tuple[int, ...]] = []
    bound = [bind(prompt, tokens) for prompt in texts]
    for start in range(0, len(bound), BATCH):
        part = bound[start : start + BATCH]
        owned = [text.owners(base, prompt, tokens) for prompt in part]
        for prompt, row, (own, end) in zip(part, _encoded(base, part, tokens, embeddings, owned), owned, strict=True):
            named = [(position, token) for position, token in enumerate(own) if token is not None]
            if len(prompt.named) == 1 and named and named[0][1] in whole:
                named = [(position, named[0][1]) for position in range(named[0][0], end + 1)]
            features += [row[position] for position, _ in named]
            owners += [(token,) for _, token in named]
    return Targets(torch.stack(features), owners)


def _encoded(
    base: Base, prompts: Sequence[Prompt], tokens: Sequence[Token], embeddings: Sequence[Sequence[Tensor]],
    owned: Sequence[tuple[Sequence[int | None], int]],
) -> Tensor:  # fmt: skip
    """Features [b, l, d] of prompts in float64, up to the last one's end."""
    longest = max(end for _, end in owned) + 1
    tokenized = [text.truncate(text.tokenize(base, prompt, tokens), longest) for prompt in prompts]
    with torch.no_grad():
        features = text.encode(base, tokenized, embeddings).features.cpu().double()
    if not features.isfinite().all():
        raise ConceptError(
            "The text features of these concepts are not finite: a learned token embedding is too large.",
            "Train or import that concept again.",
        )
    return features


def excluding(found: Targets, others: Targets) -> Targets:
    """The targets that coincide with none of the others; those of a common beginning of two prompts do."""
    near = torch.cdist(found.features, others.features) <= SAME * found.features.norm(dim=1, keepdim=True)
    kept = (~near.any(dim=1)).nonzero().flatten().tolist()
    return Targets(found.features[kept], [found.owners[at] for at in kept])


def distinct(found: Targets) -> Targets:
    """The same targets with those that coincide as one, which then belongs to all their tokens."""
    near = torch.cdist(found.features, found.features) <= SAME * found.features.norm(dim=1, keepdim=True)
    first = [int(row.nonzero()[0]) for row in near]
    kept = [at for at, leader in enumerate(first) if leader == at]
    merged: dict[int, tuple[int, ...]] = dict.fromkeys(kept, ())
    for at, leader in enumerate(first):
        while leader not in merged:  # close to a row that is itself close to an earlier one
            leader = first[leader]
        merged[leader] = tuple(dict.fromkeys(merged[leader] + found.owners[at]))
    return Targets(found.features[kept], [merged[at] for at in kept])
