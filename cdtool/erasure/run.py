"""Forgetting from phrases to a saved concept: checked before anything is loaded, then carried out step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

from cdtool import files, sources
from cdtool.errors import InputError, UsageError
from cdtool.models.libraries import quietly
from cdtool.store import bases, registry
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token, article

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.store.registry import Concept

METHOD = "forget"


class ForgetOptions(TypedDict, total=False):
    """The options of `forget`; what is left out, or None, has its default."""

    instead: str | None
    keep: str | Path | Sequence[str] | None
    name: str | None
    base: str | None
    force: bool


@dataclass(frozen=True)
class Plan:
    """What a base will be made to forget, and what it draws instead."""

    phrases: tuple[str, ...]
    instead: str  # "" for other things of the base
    keep: tuple[str, ...]  # prompts that must stay, beside the base's nouns and regularization captions
    name: str
    base: str
    force: bool = False


class ForgetStep(NamedTuple):
    """How far it is, in encoded captions; at the last step how far other text moves, and the saved concept."""

    done: int
    total: int
    drift: float = 0.0  # relative to what is forgotten
    concept: Concept | None = None


def forget(*phrases: str, **options: Unpack[ForgetOptions]) -> Concept:
    """Make a concept that erases phrases from its base, in closed form and without training.

    Args:
        phrases: what the base forgets, such as "Van Gogh" or "dog"; several at once disturb each other least.
        instead: what it reads in their place, such as "art"; other things of the base unless given.
        keep: prompts that must stay as they are, or a file of them, beside the base's nouns and captions.
        name: of the concept; "no-" and the phrases unless given.
        base: name, hub id or path; the one in use unless given.
        force: replace a concept of this name.

    Returns the saved concept; joined with others (dog+no-van-gogh) or merged it erases there too.

    Raises UsageError for no phrase, InputError for one that must be kept too, NotFoundError, NameTakenError.
    """
    *_, last = iter_forget(*phrases, **options)
    assert last.concept is not None
    return last.concept


def iter_forget(*phrases: str, **options: Unpack[ForgetOptions]) -> Iterator[ForgetStep]:
    """As `forget`, yielding for each encoded caption, and last the saved concept."""
    return run(plan(*phrases, **options))


def plan(
    *phrases: str,
    instead: str | None = None,
    keep: str | Path | Sequence[str] | None = None,
    name: str | None = None,
    base: str | None = None,
    force: bool = False,
) -> Plan:
    """Check what can be checked before anything is loaded; see `forget`."""
    told = tuple(dict.fromkeys(" ".join(phrase.split()) for phrase in phrases))
    if not told or not all(told):
        raise UsageError("What is to be forgotten?", 'Like: cdtool forget "Van Gogh" --as art')
    if bad := next((phrase for phrase in told if "{" in phrase), None):
        raise UsageError(f'"{bad}" is no phrase of a prompt.', "Give the bare words.")
    kept = files.read_prompts(Path(keep)) if isinstance(keep, str | Path) else list(keep or ())
    for phrase in told:
        if phrase.lower() in [line.strip().lower() for line in kept]:
            raise InputError(f'"{phrase}" is among what is kept.', "Leave it out of one of them.")
    chosen = name or "-".join(["no", *(registry.slug(phrase) for phrase in told)])
    registry.check_name(chosen)
    return Plan(told, " ".join((instead or "").split()), tuple(kept), chosen, base or str(sources.base_name().value),
                force)  # fmt: skip


@quietly(diffusers=False)
def run(plan: Plan) -> Iterator[ForgetStep]:
    """Carry out a plan; see `iter_forget` and, for what it raises, `forget`."""
    if not plan.force:
        registry.check_free(plan.name)
    from cdtool.erasure import erase
    from cdtool.models import pipelines, text
    from cdtool.priors import captions

    bases.locate(plan.base)
    base = pipelines.load(plan.base, precision="fp32", device="cpu", parts=("text",))
    texts = _without(captions.read(captions.find(None, base.folder)), plan.phrases)
    key, total = captions.key_of(base, texts), len(texts)
    if captions.stored(key) is None:
        for done, _ in enumerate(captions.encode(base, texts, key), 1):
            yield ForgetStep(done, total)
    nouns = _without(captions.class_nouns(base.folder), plan.phrases)
    kept = captions.known(base, texts).moment[:-1, :-1]
    kept = kept + erase.moment(base, [*nouns, *(f"photo of {article(noun)}" for noun in nouns), *plan.keep])
    places = erase.contexts(texts, nouns)
    found = [erase.pairs(base, phrase, plan.instead, places) for phrase in plan.phrases]
    change = erase.solve(found, kept, text.empty_directions(base, erase.HELD).double())
    moved = erase.drift(change, kept / 2, found)
    manifest = _manifest(plan, base, {"drift": moved, "rank": change.rank})
    concept = registry.save(manifest, erase.tensors(base, change), force=plan.force)
    registry.add_note(concept.name, base=plan.base if bases.is_name(plan.base) else str(Path(plan.base).resolve()))
    yield ForgetStep(total, total, moved, concept)


def _without(texts: Sequence[str], phrases: Sequence[str]) -> list[str]:
    """The texts that name none of the phrases. Raises InputError where none is left."""
    from cdtool.priors.captions import names

    left = [line for line in texts if not any(names(line, phrase) for phrase in phrases)]
    if not left:
        raise InputError("Nothing is left that the base should keep.", "Forget less at once.")
    return left


def _manifest(plan: Plan, base: Base, report: Mapping[str, object]) -> Manifest:
    return Manifest(
        name=plan.name,
        base=BaseRef(plan.base if bases.is_name(plan.base) else Path(plan.base).resolve().name, base.family.name,
                     base.fingerprint),
        tokens=tuple(Token(phrase, modifier=False, erased=True) for phrase in plan.phrases),
        method=METHOD,
        settings={name: value for name, value in (("as", plan.instead), ("keep", list(plan.keep))) if value},
        report=report,
    )  # fmt: skip
