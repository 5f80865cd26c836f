"""What is drawn or measured: a concept, several joined with their weights ("dog:0.8+moongate"), or a bare base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdtool.errors import BaseError, ConceptError, TokenError, UsageError
from cdtool.methods import METHODS, beyond_kv, words_only
from cdtool.paths import is_file, user_path
from cdtool.store import bases, checkpoints, registry

if TYPE_CHECKING:
    from cdtool.store.registry import Concept
    from cdtool.tokens import Token


@dataclass(frozen=True)
class Part:
    """A concept as a subject names it, and how much of its change counts."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Composition:
    """Concepts in the order that numbers their tokens, and the base they act on; none for the base itself."""

    text: str  # as the user wrote it
    base: str
    parts: tuple[Part, ...] = ()
    concepts: tuple[Concept, ...] = ()  # one per part

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens of all parts in order: V1, V2..."""
        return tokens_of(self.concepts)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each part."""
        return tuple(part.weight for part in self.parts)

    @property
    def is_stored(self) -> bool:
        """Whether it is one concept of the registry as it stands there."""
        return self.weights == (1.0,) and self.concepts[0].path.parent == registry.concepts_dir()

    @property
    def label(self) -> str:
        """A short name that can be a folder's anywhere: the parts without where their files lie, like dog-0.8+cat."""
        if not self.parts:
            return Path(self.text).name
        names = zip((entry.name for entry in self.concepts), self.weights, strict=True)
        return "+".join(name if weight == 1 else f"{name}-{weight:g}" for name, weight in names)


def tokens_of(entries: Sequence[Concept]) -> tuple[Token, ...]:
    """The tokens of concepts in order."""
    return tuple(token for entry in entries if entry.manifest for token in entry.manifest.tokens)


def load(concept: str | Path) -> Concept:
    """One concept of this machine by its name, or by its file. Raises NotFoundError with the nearest names."""
    return registry.find(str(concept))


def text_of(subject: str | Path | Concept) -> str:
    """A subject as text: a Concept is called by its name where the registry has it, otherwise by its file."""
    if not isinstance(subject, registry.Concept):
        return str(subject)
    return subject.name if subject.path.parent == registry.concepts_dir() else str(subject.path)


def parse(text: str) -> tuple[Part, ...]:
    """The parts of a subject: "dog:0.8+cat" is dog at weight 0.8 and cat at 1. A file's path is one part.

    Raises UsageError for an empty part and for a weight that is no number from 0 up.
    """
    if text.endswith(registry.SUFFIX) and is_file(user_path(text)):
        return (Part(text),)
    return tuple(_part(part, text) for part in text.split("+"))


def _part(part: str, text: str) -> Part:
    name, _, weight = part.strip().rpartition(":") if ":" in part else (part.strip(), "", "1")
    if not name:
        raise UsageError(f'"{text}" joins something without a name.', "Like dog+moongate, or dog:0.8+moongate.")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f'"{weight}" in "{text}" is not a weight.', "A weight is a number from 0: dog:0.8+moongate.")
    return Part(name, value)


def find(text: str, base: str | None = None, *, force: bool = False) -> Composition:
    """What a subject stands for on this machine; the base's name stands for the base itself.

    Raises UsageError for a subject that cannot be read, NotFoundError with the nearest names for an unknown part,
    BaseError for parts of different bases unless `force`, ConceptError for one that cannot be joined, and TokenError
    where two parts are the same plain word.
    """
    if _is_base(text):
        return Composition(text, text)
    parts = parse(text)
    for part in parts:
        if _is_base(part.name):
            raise UsageError(f'"{part.name}" is a base, which has no weight and joins nothing.', f"Give {part.name}.")
    concepts = tuple(registry.find(part.name) for part in parts)
    for part, entry in zip(parts, concepts, strict=True):
        _check_method(part, entry, joined=len(parts) > 1)
    if not force:
        _check_bases(concepts)
    found = Composition(text, base or registry.base_of(concepts[0]), parts, concepts)
    _check_words(found.tokens)
    return found


def _check_method(part: Part, entry: Concept, *, joined: bool) -> None:
    method = entry.manifest.method if entry.manifest else ""
    if joined and beyond_kv(method):
        raise beyond_words(entry)
    if part.weight != 1 and method in METHODS and words_only(method):
        raise UsageError(f'"{entry.name}" is a word alone ({method}), so it has no weight.', f"Write {part.name}.")


def beyond_words(entry: Concept) -> ConceptError:
    """What is said of a concept that changes more than the keys and values of its own words."""
    method = entry.manifest.method if entry.manifest else ""
    trains = METHODS[method].trains if method in METHODS else "more than keys and values"
    return ConceptError(
        f'"{entry.name}" ({method}) changes {trains}, for the whole picture, so it cannot be joined word by word.',
        "Draw it alone, train both together (a folder and a --token each), or train it with --method kv.",
    )


def _is_base(name: str) -> bool:
    if name.endswith(registry.SUFFIX) and bases.is_local(name):  # a checkpoint, or a concept's own file
        return checkpoints.has_denoiser(user_path(name))
    return (bases.is_name(name) or bases.is_local(name)) and name not in registry.names()


def _check_bases(concepts: Sequence[Concept]) -> None:
    bases = [(entry.name, entry.manifest.base) for entry in concepts if entry.manifest]
    (first, on), *others = bases
    for name, other in others:
        if other.fingerprint != on.fingerprint:
            told = f"{on.name} and {other.name}" if on.name != other.name else f"two different versions of {on.name}"
            raise BaseError(
                f'"{first}" and "{name}" were trained on {told}; they cannot meet in one picture.',
                "Train them on one base, or add --base NAME --force where one base is derived from the other.",
            )


def _check_words(tokens: Sequence[Token]) -> None:
    plain = [token.noun for token in tokens if not token.modifier]
    for noun in plain:
        if plain.count(noun) > 1:
            raise TokenError(
                f'Two of the joined concepts are the plain word "{noun}"; a prompt could not tell them apart.',
                f'Train one of them with a modifier: --token "V* {noun}".',
            )
