"""Merging from names to a saved concept: checked before anything is loaded, then carried out step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from cdtool.errors import GateError, UsageError
from cdtool.models.libraries import quietly
from cdtool.store import registry, subject

if TYPE_CHECKING:
    from cdtool.merging.diagnostics import Report
    from cdtool.store.registry import Concept
    from cdtool.store.subject import Composition


class MergeOptions(TypedDict, total=False):
    """The options of `merge`; what is left out, or None, has its default."""

    name: str | None
    captions: str | Path | None
    base: str | None
    force: bool


@dataclass(frozen=True)
class Plan:
    """What will be merged, and under which name."""

    composition: Composition
    name: str
    captions: Path | None = None
    force: bool = False


class MergeStep(NamedTuple):
    """How far a merge is, in encoded captions; warnings, its diagnostics once they are known, and the saved concept."""

    done: int
    total: int
    report: Report | None = None
    concept: Concept | None = None
    warnings: tuple[str, ...] = ()


def merge(*concepts: str | Path | Concept, **options: Unpack[MergeOptions]) -> Concept:
    """Merge concepts of one base into one, in closed form and without training.

    Args:
        concepts: two or more concepts, their names or files; "dog:0.8" is dog with that weight.
        name: of the merged concept; those of its parents joined by "-".
        captions: a text file of regularization captions, one a line; the base's own, or those that come with cdtool.
        base: another base than the concepts' own, which `force` must allow.
        force: replace a concept of this name; save a merge that lost a concept; let another base of equal shapes pass.

    Returns the saved concept, whose tokens are V1, V2... in the order given; its `manifest.report` has the diagnostics.

    Raises UsageError for fewer than two concepts, NotFoundError, NameTakenError, ConceptError for one that changes
    more than keys and values, BaseError for concepts of different bases, and GateError where the merge lost a concept.
    """
    *_, last = iter_merge(*concepts, **options)
    assert last.concept is not None
    return last.concept


def iter_merge(*concepts: str | Path | Concept, **options: Unpack[MergeOptions]) -> Iterator[MergeStep]:
    """As `merge`, yielding for each encoded caption, then the diagnostics, and last the saved concept."""
    return run(plan(*concepts, **options))


def plan(
    *concepts: str | Path | Concept,
    name: str | None = None,
    captions: str | Path | None = None,
    base: str | None = None,
    force: bool = False,
) -> Plan:
    """Check what can be checked before anything is loaded; see `merge`."""
    joined = "+".join(map(subject.text_of, concepts))
    parts = [part.name for part in subject.parse(joined)] if concepts else []
    if len(parts) < 2:
        raise UsageError("A merge needs two concepts or more.", "Like: cdtool merge dog moongate -o pair")
    _check_named_once(parts)
    found = subject.find(joined, base, force=bool(base) and force)
    _check_named_once([str(entry.path.resolve()) for entry in found.concepts])
    target = name or "-".join(entry.name for entry in found.concepts)
    return Plan(found, target, Path(captions) if captions else None, force)


def _check_named_once(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f'"{Path(twice).stem}" is named twice.', "Name each concept once.")


@quietly(diffusers=False)
def run(plan: Plan) -> Iterator[MergeStep]:
    """Carry out a plan; see `iter_merge` and, for what it raises, `merge`."""
    if not plan.force:
        registry.check_free(plan.name)
    from cdtool.merging import diagnostics, inputs, merge
    from cdtool.models import pipelines
    from cdtool.priors import captions

    base = pipelines.load(plan.composition.base, precision="fp32", device="cpu", parts=("text",))
    parents = inputs.load(base, plan.composition, force=plan.force)
    texts = captions.read(captions.find(plan.captions, base.folder))
    key, total = captions.key_of(base, texts), len(texts)
    cached = captions.stored(key) is not None
    yield MergeStep(total if cached else 0, total, warnings=diagnostics.shared_initializers(plan.composition.concepts))
    if not cached:
        for done, _ in enumerate(captions.encode(base, texts, key), 1):
            yield MergeStep(done, total)
    stats = captions.known(base, texts)
    merged = merge.merge(base, parents, plan.name, stats)
    yield MergeStep(total, total, merged.report)
    if merged.report.lost and not plan.force:
        raise GateError(
            f"The merge lost {' and '.join(merged.report.lost)}, so it is not saved.",
            "Train them together (a folder and a --token each), or save it all the same with --force.",
        )
    concept = registry.save(merged.manifest, merged.tensors, force=plan.force)
    _note_parents(concept, plan.composition)
    yield MergeStep(total, total, merged.report, concept)


def _note_parents(concept: Concept, composition: Composition) -> None:
    """Note what this machine knows of the parents: where the base and the photos of each token lie."""
    notes = [registry.note(parent.name) if parent.name in registry.names() else {} for parent in composition.concepts]
    known: dict[str, Any] = {"base": notes[0]["base"]} if notes[0].get("base") else {}
    photos = [note.get("photos", []) for note in notes]
    tokens = [parent.manifest.tokens if parent.manifest else () for parent in composition.concepts]
    if all(len(folders) == len(own) for folders, own in zip(photos, tokens, strict=True)):
        known["photos"] = [folder for folders in photos for folder in folders]
    if known:
        registry.add_note(concept.name, **known)
