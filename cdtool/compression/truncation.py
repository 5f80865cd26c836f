"""Truncating a concept: each matrix to the ranks that matter, by share of its spectrum, by rank, or to a size."""

from __future__ import annotations

import bisect
import functools
import hashlib
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from cdtool import __version__
from cdtool.compression.goals import Goal
from cdtool.errors import ConceptError, InputError, UsageError
from cdtool.models import deltas, spectra
from cdtool.store import concept, registry
from cdtool.store.concept import Manifest
from cdtool.store.headers import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.spectra import DecomposedDelta, Ranks
    from cdtool.store.registry import Concept

SHARES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05)  # of the spectrum: the curve of the paper's figure 15, and a point below
_SHARED = "down"
_LOCAL = ("photos", "base")  # what this machine knows of a concept that holds for its compressed form too
_SOME_TIME = "2000-01-01T00:00:00+00:00"  # as long as any
_SOME_SHARE = 0.123456


@dataclass(frozen=True)
class Source:
    """A concept opened to be compressed."""

    entry: Concept
    manifest: Manifest
    tensors: Mapping[str, Tensor]
    shapes: Mapping[str, Shape]
    matrices: int
    sha256: str


@dataclass(frozen=True)
class Compressed:
    """A compressed concept that is not saved yet, and what it lost."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    ranks: Ranks
    bytes: int  # of the file
    error: float  # relative, in the Frobenius norm over all matrices
    kept: float  # share of the sum of all singular values

    def as_dict(self) -> dict[str, Any]:
        """Its figures."""
        return {"bytes": self.bytes, "error": self.error, "kept": self.kept, "ranks": dict(self.ranks)}


@dataclass(frozen=True)
class CurvePoint:
    """A point of the curve of size and error: this share of every matrix's spectrum kept."""

    share: float
    bytes: int
    error: float
    rank: float  # median over the matrices


def read(entry: Concept) -> Source:
    """Open a concept. Raises ConceptError for a damaged one, InputError where there is nothing to compress."""
    if entry.manifest is None:
        raise ConceptError(entry.problem, f"Remove it: cdtool remove {entry.name}")
    tensors = concept.read_tensors(entry.path)
    matrices = len(spectra.matrices(tensors))
    if not matrices:
        raise InputError(f"{entry.name} changes no matrix, so there is nothing to compress.", "See: cdtool list")
    with entry.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(entry, entry.manifest, tensors, concept.read_header(entry.path)[1], matrices, sha256)


def truncate(source: Source, parts: Sequence[DecomposedDelta], goal: Goal, name: str) -> Compressed:
    """Truncate a concept's matrices to a goal, as a concept called `name`; no matrix gets larger than it was.

    By energy, the value that crosses the share is kept too, and never fewer than one (paper, appendix C). By bytes,
    ranks go where they take away most squared error per byte. Raises UsageError for fewer bytes than one rank of each
    matrix needs, naming how many that is.
    """
    # The size depends on the length of figures that are not known yet, and must not depend on the size asked for.
    longest = replace(goal, bytes=max(goal.bytes, source.entry.bytes)) if goal.bytes else goal
    draft = _manifest(source, longest, name, _SOME_SHARE, _SOME_SHARE)
    size = functools.partial(_file_size, source, parts, draft)
    if goal.bytes:
        ranks = _fitting(parts, size, goal.bytes)
    else:
        ranks = _smallest(parts, size, {part.name: _wanted(part, goal) for part in parts})
    error, kept = spectra.error(parts, ranks), spectra.kept(parts, ranks)
    return Compressed(
        _manifest(source, goal, name, error, kept), _tensors(source, parts, ranks), ranks, size(ranks), error, kept
    )


def curve(source: Source, parts: Sequence[DecomposedDelta], shares: Sequence[float] = SHARES) -> list[CurvePoint]:
    """Size and error of a concept at each share of its spectrum."""
    points = []
    for share in shares:
        goal = Goal(energy=share)
        small = truncate(source, parts, goal, source.manifest.name)
        used = median(_wanted(part, goal) for part in parts)
        points.append(CurvePoint(share, small.bytes, small.error, used))
    return points


def save(source: Source, small: Compressed, *, force: bool = False) -> Concept:
    """Put a compressed concept into the registry, with what this machine knows of the whole one.

    Raises what `registry.save` raises.
    """
    own = source.entry.path.parent == registry.concepts_dir()
    note = registry.note(source.entry.name) if own else {}
    entry = registry.save(small.manifest, small.tensors, force=force)
    if known := {key: note[key] for key in _LOCAL if key in note}:
        registry.add_note(entry.name, **known)
    return entry


# ---------------------------------------------------------------- choosing ranks


def _wanted(part: DecomposedDelta, goal: Goal) -> int:
    return min(goal.rank, len(part.values)) if goal.rank else deltas.rank_for(part.values, goal.energy)


def _smallest(parts: Sequence[DecomposedDelta], size: Callable[[Ranks], int], wanted: Ranks) -> Ranks:
    """The wanted ranks, where that is no larger than what is stored; a shared `down` goes where that saves more."""
    mixed = {part.name: wanted[part.name] if wanted[part.name] <= part.most else 0 for part in parts}
    apart = {part.name: wanted[part.name] if part.shared else mixed[part.name] for part in parts}
    return min((dict.fromkeys(mixed, 0), mixed, apart), key=size)


def _fitting(parts: Sequence[DecomposedDelta], size: Callable[[Ranks], int], most: int) -> Ranks:
    """The ranks with the least error in a file of `most` bytes."""
    whole = {part.name: 0 for part in parts}
    if size(whole) <= most:
        return whole
    ways = (False, True) if any(part.shared for part in parts) else (False,)
    found = [ranks for apart in ways if (ranks := _filled(parts, size, most, apart))]
    if not found:
        least = min(size(_first(parts, apart)) for apart in ways)
        raise UsageError(
            f"{most} bytes are too few: with one rank of each of its {len(parts)} matrices the concept has {least}.",
            f"Give at least --max-size {math.ceil(least / 1000)}KB.",
        )
    return min(found, key=lambda ranks: spectra.error(parts, ranks))


def _filled(parts: Sequence[DecomposedDelta], size: Callable[[Ranks], int], most: int, apart: bool) -> Ranks:
    """As many of the most valuable ranks as fit, in an order that does not depend on `most`; {} where none fit.

    So more bytes never leave a larger error.
    """
    first = _first(parts, apart)
    steps = [step for _, step in heapq.merge(*(_gains(part, apart) for part in parts), key=lambda gain: -gain[0])]

    def after(count: int) -> Ranks:
        return first | dict(steps[:count])

    fitting = bisect.bisect_right(range(len(steps) + 1), most, key=lambda count: size(after(count)))
    return after(fitting - 1) if fitting else {}


def _first(parts: Sequence[DecomposedDelta], apart: bool) -> dict[str, int]:
    return {part.name: min(1, _top(part, apart)) for part in parts}


def _gains(part: DecomposedDelta, apart: bool) -> list[tuple[float, tuple[str, int]]]:
    """What each rank above the first takes away, in squared error per byte; the last step is back to what is stored."""
    top = _top(part, apart)
    squares = part.values.square().tolist()
    gains = [(squares[rank - 1] / part.rank_bytes, (part.name, rank)) for rank in range(2, top + 1)]
    if top and not (apart and part.shared):
        cost = part.stored_bytes - top * part.rank_bytes
        gains.append((part.tails[top] / cost, (part.name, 0)))
    return gains


def _top(part: DecomposedDelta, apart: bool) -> int:
    """The highest rank of a part's factors; `apart` gives every user of a shared `down` one of its own."""
    return len(part.values) if apart and part.shared else part.most


# ---------------------------------------------------------------- the file


def _untouched(source: Source, parts: Sequence[DecomposedDelta], ranks: Ranks) -> list[str]:
    """Tensors that belong to no part: learned rows, biases, norms, and a shared `down` somebody still uses."""
    own = {name for part in parts for name in part.stored}
    used = any(part.shared and not ranks[part.name] for part in parts)
    return [name for name in source.tensors if name not in own and (name != _SHARED or used)]


def _tensors(source: Source, parts: Sequence[DecomposedDelta], ranks: Ranks) -> dict[str, Tensor]:
    made = {name: source.tensors[name] for name in _untouched(source, parts, ranks)}
    for part in parts:
        made |= part.tensors(ranks[part.name])
    return made


def _file_size(source: Source, parts: Sequence[DecomposedDelta], manifest: Manifest, ranks: Ranks) -> int:
    shapes = {name: source.shapes[name] for name in _untouched(source, parts, ranks)}
    for part in parts:
        if rank := ranks[part.name]:
            shapes[f"{part.name}.up"] = Shape("F16", (part.shape[0], rank))
            shapes[f"{part.name}.down"] = Shape("F16", (rank, part.shape[1]))
        else:
            shapes |= {name: source.shapes[name] for name in part.stored}
    return concept.file_size(manifest, shapes)


def _manifest(source: Source, goal: Goal, name: str, error: float, kept: float) -> Manifest:
    parent = {
        "by": "compress",
        "name": source.entry.name,
        "method": source.manifest.method,
        "sha256": source.sha256,
        "how": str(goal),
        "error": round(error, 6),
        "kept": round(kept, 6),
    }
    parents = (*source.manifest.parents, parent)
    # The report of a merge goes: it was measured before the merge was cut.
    return replace(source.manifest, name=name, parents=parents, report={}, created=_SOME_TIME, version=__version__)
