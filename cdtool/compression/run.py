"""Compressing from a name to a saved concept: checked before anything is loaded, then carried out step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

from cdtool.compression.goals import Goal, goal_of
from cdtool.store import registry, subject

if TYPE_CHECKING:
    from cdtool.compression.truncation import Compressed, CurvePoint
    from cdtool.store.registry import Concept


class CompressOptions(TypedDict, total=False):
    """The options of `compress`; what is left out, or None, has its default."""

    name: str | None
    energy: float | None
    rank: int | None
    max_size: int | str | None
    force: bool


@dataclass(frozen=True)
class Plan:
    """What will be compressed, to which goal and under which name; whether it is saved, and its curve measured."""

    entry: Concept
    name: str
    goal: Goal
    saves: bool = True
    curve: bool = False
    force: bool = False


class CompressStep(NamedTuple):
    """How far a compression is, in decomposed matrices; at the last step its results."""

    done: int
    total: int
    result: Compressed | None = None
    concept: Concept | None = None
    curve: tuple[CurvePoint, ...] = ()


def compress(concept: str | Path | Concept, **options: Unpack[CompressOptions]) -> Concept:
    """Save a concept in a smaller file, each matrix truncated to the singular values that matter.

    Args:
        concept: a concept, its name or file.
        name: of the compressed concept; the concept's own with "-small" behind it.
        energy: the share of the sum of each matrix's singular values that is kept, above 0 and up to 1; 0.6.
        rank: the same rank for every matrix, instead of `energy`.
        max_size: of the file, in bytes or as "2MB"; ranks go where they matter most. Instead of `energy`.
        force: replace a concept of this name.

    Neither the base nor a GPU is needed, and no matrix gets larger than it was.

    Raises NotFoundError, NameTakenError, InputError where there is nothing to compress, UsageError for two goals or
    fewer bytes than one rank of each matrix needs, SettingsError.
    """
    *_, last = run(plan(concept, **options))
    assert last.concept is not None
    return last.concept


def plan(
    concept: str | Path | Concept,
    *,
    name: str | None = None,
    energy: float | None = None,
    rank: int | None = None,
    max_size: int | str | None = None,
    saves: bool = True,
    curve: bool = False,
    force: bool = False,
) -> Plan:
    """Check what can be checked before anything is loaded; see `compress`, and `Plan` for the others."""
    goal = goal_of(energy, rank, max_size)
    entry = registry.find(subject.text_of(concept))
    return Plan(entry, name or f"{entry.name}-small", goal, saves, curve, force)


def run(plan: Plan) -> Iterator[CompressStep]:
    """Carry out a plan, yielding for each decomposed matrix and then the results; see `compress` for what it raises."""
    if plan.saves and not plan.force:
        registry.check_free(plan.name)
    from cdtool.compression import truncation
    from cdtool.models import spectra

    source = truncation.read(plan.entry)
    parts = []
    for part in spectra.decompose(source.tensors):
        parts.append(part)
        yield CompressStep(len(parts), source.matrices)
    points = tuple(truncation.curve(source, parts)) if plan.curve else ()
    result = truncation.truncate(source, parts, plan.goal, plan.name) if plan.saves else None
    concept = truncation.save(source, result, force=plan.force) if result else None
    yield CompressStep(source.matrices, source.matrices, result, concept, points)
