"""Merge diagnostics: what may go wrong, and what a merge kept of its concepts and of the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.merging.targets import Targets
    from cdtool.store.concept import Manifest
    from cdtool.store.registry import Concept
    from cdtool.tokens import Token

    Change = Callable[[str, Tensor], Tensor]  # what is added to K or V [s, o] of a module for features [s, d]

KNEE = 0.6  # mean fidelity below which joining is recommended instead: of four concepts on mini it is .56
LOST = 0.5  # fidelity below which a concept counts as lost
SHOWN = 8  # warnings of one kind
ALIKE = 0.95  # cosine of two learned rows from which they are nearly one word


@dataclass(frozen=True)
class Report:
    """A merge in figures; errors, drift and fidelity are relative to what the concepts themselves change."""

    rows: int  # s, the constrained rows
    condition: float  # of D C'
    error: float  # of the constraints in float64
    saved_error: float  # of the constraints with the numbers as stored
    drift: float  # on the regularization captions, against the concepts' own mean
    fidelity: dict[str, float]  # per concept, on prompts that are no constraints
    warnings: tuple[str, ...] = ()

    @property
    def lost(self) -> list[str]:
        """The concepts that are not kept."""
        return [name for name, kept in self.fidelity.items() if not kept >= LOST]

    def data(self) -> dict[str, Any]:
        """As the manifest and --json have it."""
        return asdict(self) | {"warnings": list(self.warnings), "lost": self.lost}


def recommended(fidelity: Mapping[str, float]) -> tuple[str, ...]:
    """What is recommended where the mean fidelity of a merge lies below KNEE."""
    mean = sum(fidelity.values()) / len(fidelity)
    if mean >= KNEE:
        return ()
    names = list(fidelity)
    joined = "+".join(names[:3]) + ("+..." if len(names) > 3 else "")
    return (f"{len(names)} concepts in one change of the weights are kept to {max(mean, 0):.0%} on average. Joined as "
            f"you sample ({joined}), each is kept whole, at the same cost for any number.",)  # fmt: skip


@dataclass
class Sums:
    """Squared norms of a concept's own changes and of the merge's distance from them, over all modules."""

    wanted: float = 0.0
    missed: float = 0.0
    missed_saved: float = 0.0
    tried: float = 0.0
    apart: float = 0.0
    regularization: float = 0.0


def clashes(tokens: Sequence[Token], learned: Sequence[Sequence[Tensor]]) -> tuple[str, ...]:
    """Warnings from the tokens alone: two of one class, two learned embeddings that nearly coincide."""
    found = []
    for one, other in combinations(range(len(tokens)), 2):
        both = f"{tokens[one].words(one + 1)} and {tokens[other].words(other + 1)}"
        if tokens[one].noun.lower() == tokens[other].noun.lower():
            found.append(f"{both} are of one class; the base tends to show one of them twice.")
        if all(rows[one].numel() and rows[other].numel() for rows in learned):
            alike = min(float(F.cosine_similarity(rows[one], rows[other], dim=0)) for rows in learned)
            if alike >= ALIKE:
                found.append(f"The learned words of {both} are nearly the same (cosine {alike:.2f}).")
    return tuple(_shortened(found))


def _shortened(warnings: list[str]) -> list[str]:
    """The first few of many warnings, and how many more there are."""
    more = len(warnings) - SHOWN
    return warnings if more <= 0 else [*warnings[:SHOWN], f"And {more} more such pairs."]


def shared_initializers(concepts: Sequence[Concept]) -> tuple[str, ...]:
    """What to do about each two concepts whose modifier tokens began as the same word."""
    tokens = [(concept, token) for concept in concepts if concept.manifest for token in concept.manifest.tokens]
    began = [(number, concept.name, token) for number, (concept, token) in enumerate(tokens, 1)
             if token.initializer and _began_rare(concept.manifest)]  # fmt: skip
    return tuple(
        f'{one.words(number)} of "{name}" and {other.words(last)} of "{second}" both began as the word '
        f'"{one.initializer}", so a merge can hardly tell them apart. Train "{second}" again with --force: '
        "it will begin as another word."
        for (number, name, one), (last, second, other) in combinations(began, 2)
        if one.initializer == other.initializer and name != second
    )


def _began_rare(manifest: Manifest | None) -> bool:
    """Whether a concept's modifier tokens began as the rare words it records; those of an imported one did not."""
    imported = manifest is None or any(parent.get("by") == "import" for parent in manifest.parents)
    return manifest is not None and not imported and manifest.settings.get("token_init", "rare") == "rare"


def measure(
    modules: Sequence[str], concepts: Sequence[Change], exact: Change, saved: Change,
    bound: Targets, held_out: Targets, words: Tensor,
) -> tuple[list[Sums], float]:  # fmt: skip
    """Sums per concept, and the squared norm of the stored merge's change on regularization `words` [n, d].

    `exact` is the merge in float64 and `saved` as stored; `bound` and `held_out` targets are owned by concepts.
    """
    sums = [Sums() for _ in concepts]
    drift = 0.0
    for module in modules:
        merged, stored = exact(module, bound.features), saved(module, bound.features)
        trial = saved(module, held_out.features)
        drift += _squared(saved(module, words))
        for at, (concept, part) in enumerate(zip(concepts, sums, strict=True)):
            mine, trials = _rows_of(bound, at), _rows_of(held_out, at)
            every = torch.cat([bound.features[mine], held_out.features[trials], words])
            own, attempt, regularization = torch.split(concept(module, every), [len(mine), len(trials), len(words)])
            part.wanted += _squared(own)
            part.missed += _squared(merged[mine] - own)
            part.missed_saved += _squared(stored[mine] - own)
            part.tried += _squared(attempt)
            part.apart += _squared(trial[trials] - attempt)
            part.regularization += _squared(regularization)
    return sums, drift


def report(
    measured: tuple[list[Sums], float], names: Sequence[str], rows: int, condition: float, warnings: Sequence[str]
) -> Report:
    """The report of what `measure` found."""
    sums, drift = measured
    wanted = sum(part.wanted for part in sums)
    fidelity = {name: 1 - _ratio(part.apart, part.tried) for name, part in zip(names, sums, strict=True)}
    regularization = sum(part.regularization**0.5 for part in sums) / len(sums)
    return Report(
        rows=rows,
        condition=condition,
        error=_ratio(sum(part.missed for part in sums), wanted),
        saved_error=_ratio(sum(part.missed_saved for part in sums), wanted),
        drift=_ratio(drift, regularization**2),
        fidelity=fidelity,
        warnings=(*warnings, *recommended(fidelity)),
    )


def _rows_of(rows: Targets, concept: int) -> list[int]:
    return [at for at, places in enumerate(rows.owners) if concept in places]


def _squared(values: Tensor) -> float:
    return float(values.square().sum())


def _ratio(part: float, whole: float) -> float:
    """The root of a ratio of squares; 0 of a whole that is nothing, such as what learned rows alone change."""
    return float((part / whole) ** 0.5) if whole else 0.0
