"""The matrices of a concept by their singular values, and factors truncated at any rank."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cdtool.errors import ConceptError
from cdtool.models import deltas
from cdtool.models.deltas import Factors

Ranks = Mapping[str, int]  # of each matrix, by name; 0 is as it was stored


@dataclass(frozen=True)
class DecomposedDelta:
    """One matrix's delta dW = up @ down by its SVD, and how it was stored."""

    name: str
    shape: tuple[int, int]  # (o, d); a convolution [o, i, kh, kw] lies flat, d = i kh kw
    values: Tensor  # [k] singular values, falling, float64
    up: Tensor  # [o, top] fp16; the first r columns and rows are the best approximation of rank r
    down: Tensor  # [top, d] fp16
    stored: Mapping[str, Tensor]  # its own tensors in the file
    shared: bool = False  # stored with a `down` that belongs to all matrices

    @property
    def rank_bytes(self) -> int:
        """Bytes of one rank."""
        return 2 * sum(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes as stored, without a shared `down`."""
        return sum(tensor.nbytes for tensor in self.stored.values())

    @property
    def most(self) -> int:
        """The highest rank at which the factors are smaller than what is stored; 0 where none is."""
        return min(len(self.values), (self.stored_bytes - 1) // self.rank_bytes)

    @functools.cached_property
    def tails(self) -> list[float]:
        """The squared error of each rank, [k + 1] from rank 0."""
        return [*self.values.square().flip(0).cumsum(0).flip(0).tolist(), 0.0]

    def tensors(self, rank: int) -> dict[str, Tensor]:
        """Its tensors at a rank; at 0 as they were."""
        if not rank:
            return dict(self.stored)
        return {f"{self.name}.up": self.up[:, :rank], f"{self.name}.down": self.down[:rank]}


def matrices(tensors: Mapping[str, Tensor]) -> list[str]:
    """The parameters of a concept whose delta is a matrix or a convolution: not biases, norms and token embeddings."""
    found = {name: deltas.read(tensors, name) for name in deltas.changed_parameters(tensors)}
    return [name for name, delta in found.items() if isinstance(delta, Factors) or delta.dim() > 1]


def decompose(tensors: Mapping[str, Tensor]) -> Iterator[DecomposedDelta]:
    """Decompose what `matrices` names, in that order. Raises ConceptError for numbers that are not finite."""
    for name in matrices(tensors):
        yield _decomposed(name, tensors)


def _decomposed(name: str, tensors: Mapping[str, Tensor]) -> DecomposedDelta:
    delta = deltas.read(tensors, name)
    stored = {key: tensors[key] for key in (name, f"{name}.up", f"{name}.down") if key in tensors}
    used = delta if isinstance(delta, Factors) else (delta,)
    if not all(bool(tensor.isfinite().all()) for tensor in used):
        raise ConceptError(f"The change of {name} is not finite.", "Train the concept again.")
    spectrum = deltas.decompose(delta if isinstance(delta, Factors) else delta.flatten(1))
    shape = (len(spectrum.u), spectrum.v.shape[1])
    shared = isinstance(delta, Factors) and f"{name}.down" not in stored
    part = DecomposedDelta(name, shape, spectrum.s.double(), spectrum.u, spectrum.v, stored, shared)
    # Above `most` a matrix stays as it is stored; only where a shared `down` goes with all its users, any rank counts.
    up, down = deltas.truncate(spectrum, len(spectrum.s) if shared else part.most)
    return replace(part, up=up.half(), down=down.half())


def error(parts: Sequence[DecomposedDelta], ranks: Ranks) -> float:
    """‖dW - dW'‖ / ‖dW‖ in the Frobenius norm, over all matrices; rounding to fp16 is not counted."""
    lost = sum(part.tails[ranks[part.name]] for part in parts if ranks[part.name])
    return math.sqrt(lost / (sum(part.tails[0] for part in parts) or 1.0))


def kept(parts: Sequence[DecomposedDelta], ranks: Ranks) -> float:
    """The share of the sum of all singular values, over all matrices, that is left."""
    left = sum(float(part.values[: ranks[part.name] or None].sum()) for part in parts)
    whole = sum(float(part.values.sum()) for part in parts)
    return left / whole if whole else 1.0
