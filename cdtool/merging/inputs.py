"""The concepts that go into a merge: loaded, checked against their base, and what each adds to K and V."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cdtool.errors import ConceptError
from cdtool.models import deltas
from cdtool.models.pipelines import check_base
from cdtool.store import concept
from cdtool.store.concept import Manifest, parameter_name, row_name, weight_name

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.store.registry import Concept
    from cdtool.store.subject import Composition


@dataclass(frozen=True)
class Parent:
    """A concept that goes into a merge, with its numbers in memory."""

    entry: Concept
    manifest: Manifest
    tensors: Mapping[str, Tensor]
    weight: float
    label: str  # its name; of two files of one name the path

    @property
    def is_focused(self) -> bool:
        """Whether it changes nothing but its own words."""
        return concept.reach(self.manifest) == "own words"

    @property
    def erases(self) -> bool:
        """Whether it teaches nothing, but makes the base forget."""
        return all(token.erased for token in self.manifest.tokens)

    def change(self, module: str, features: Tensor) -> Tensor:
        """What it adds to K or V [s, o] of a module for text features [s, d], in float64."""
        return self.weight * change_of(self.tensors, module, features)


def load(base: Base, chosen: Composition, *, force: bool = False) -> list[Parent]:
    """Load the concepts of a composition to be merged.

    Raises BaseError for a concept of another base unless `force`, ConceptError for one that changes more than K/V or
    does not fit the base.
    """
    names = [entry.name for entry in chosen.concepts]
    parents = []
    for part, entry in zip(chosen.parts, chosen.concepts, strict=True):
        check_base(entry, base, force=force)
        assert entry.manifest is not None
        tensors = concept.read_tensors(entry.path)
        _check(base, entry.name, entry.manifest, tensors)
        label = part.name if names.count(entry.name) > 1 else entry.name
        parents.append(Parent(entry, entry.manifest, tensors, part.weight, label))
    return parents


def _check(base: Base, name: str, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Raises ConceptError for a concept that changes more than K/V, or whose shapes are not the base's."""
    if any(token.erased for token in manifest.tokens) and not all(token.erased for token in manifest.tokens):
        raise ConceptError(f'"{name}" both teaches and erases.', "Merge what it was merged from in one go.")
    own = {weight_name(module): weight for module, weight in base.kv.items()}
    for changed in deltas.changed_parameters(tensors):
        if changed not in own and changed not in map(bias, base.kv):
            raise ConceptError(
                f'"{name}" ({manifest.method}) changes more than keys and values, so it cannot be merged.',
                "Train both together (a folder and a --token each), or train it with --method kv.",
            )
    for changed in own if deltas.changed_parameters(tensors) else ():
        shape = deltas.shape_of(deltas.read(tensors, changed))
        if shape != tuple(own[changed].shape):
            raise ConceptError(f'"{name}" has {changed} as {shape}, the base as {tuple(own[changed].shape)}.')


def embeddings(base: Base, parents: Sequence[Parent]) -> list[list[Tensor]]:
    """The learned embeddings per encoder and token, empty for a token without a modifier. Raises ConceptError."""
    every = []
    for name, encoder in zip(base.family.encoders, base.text_encoders, strict=True):
        rows = []
        for parent in parents:
            for index, token in enumerate(parent.manifest.tokens):
                row = parent.tensors.get(row_name(index, name)) if token.modifier else torch.empty(0)
                if row is None or (token.modifier and tuple(row.shape) != (encoder.config.hidden_size,)):
                    raise ConceptError(f'"{parent.entry.name}" has no embedding of {token.words()} that fits the base.')
                rows.append(row.float())
        every.append(rows)
    return every


def styles(manifest: Manifest) -> list[bool]:
    """Whether each token is a style: one answer for all of a training, one for each of a merge."""
    style = manifest.settings.get("style", False)
    return [bool(one) for one in style] if isinstance(style, Sequence) else [bool(style)] * len(manifest.tokens)


def change_of(tensors: Mapping[str, Tensor], module: str, features: Tensor) -> Tensor:
    """What a concept's tensors add to K or V [s, o] of a module for text features [s, d], in float64: c dW' + db."""
    if not deltas.changed_parameters(tensors):  # learned embeddings alone
        return features.new_zeros(len(features), 1)
    delta = deltas.read(tensors, weight_name(module))
    value = deltas.apply(deltas.Factors(*(part.double() for part in delta))
                         if isinstance(delta, deltas.Factors) else delta.double(), features)  # fmt: skip
    added = tensors.get(bias(module))
    return value if added is None else value + added.double()


def bias(module: str) -> str:
    """The name in a concept's tensors of what it adds to K or V whatever the text."""
    return parameter_name(f"{module}.bias")
