"""Merging: several concepts of one base into one, by constrained least squares in closed form (Eq. 4-5)."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cdtool.merging import diagnostics, targets, thinning
from cdtool.merging.inputs import Parent, bias, change_of, embeddings, styles
from cdtool.merging.targets import Targets
from cdtool.models import deltas, text
from cdtool.settings import MergeRule
from cdtool.store.concept import BaseRef, Manifest, row_name, weight_name

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.merging.diagnostics import Report
    from cdtool.merging.targets import Targets
    from cdtool.models.pipelines import Base
    from cdtool.priors.captions import RegularizationStats
    from cdtool.tokens import Token

METHOD = "merge"
RIDGE = 1e-5  # added to R, relative to the mean of its diagonal
LEAST = 1e-10  # directions of C inv(R) C' below this, relative to the largest, are dropped
_LARGEST = 2.0**12  # the largest entry of a column of `up`: far from fp16's overflow, and what is 1e-7 of it is kept


class Merged(NamedTuple):
    """A merge that is not saved yet."""

    manifest: Manifest
    tensors: dict[str, Tensor]
    report: Report


def dual_basis(rows: Tensor, factor: Tensor, softness: float = 0.0) -> tuple[Tensor, float]:
    """inv(D C' + mu) D with D = C inv(R): down [s, d] with C down' = 1 where mu is 0, and the condition number of D C'.

    Directions below LEAST are left out: where rows depend on each other, their values are met as nearly as possible.
    Eq. 5, whose equalities mu turns into least squares.

    rows: C [s, d].
    factor: the lower Cholesky factor of R [d, d].
    softness: mu relative to the mean eigenvalue of D C'.
    """
    whitened = torch.linalg.solve_triangular(factor, rows.T, upper=False).T  # its Gram matrix is D C'
    u, s, v = torch.linalg.svd(whitened, full_matrices=False)
    kept = s.square() > LEAST * s[0].square()
    u, s, v = u[:, kept], s[kept], v[kept]
    damped = s + softness * s.square().mean() / s
    return (u / damped) @ torch.linalg.solve_triangular(factor, v, upper=False, left=False), float(
        (s[0] / s[-1]).square()
    )


def cholesky(moment: Tensor) -> Tensor:
    """The lower factor of R [d, d] with its ridge."""
    ridge = RIDGE * moment.trace() / len(moment)
    factor: Tensor = torch.linalg.cholesky(moment + ridge * torch.eye(len(moment), dtype=moment.dtype))
    return factor


def merge(
    base: Base, parents: Sequence[Parent], name: str, stats: RegularizationStats, rule: MergeRule | None = None
) -> Merged:
    """Merge concepts (see `inputs.load`) into one called `name`; their tokens become V1, V2... in order.

    What erases is added to the rest as it is: it changes next to nothing that is not erased. `stats` are those of the
    regularization captions on this base (see `captions.known`).
    """
    tokens = [token for parent in parents for token in parent.manifest.tokens]
    learned = embeddings(base, parents)
    taught = [parent for parent in parents if not parent.erases]
    if len(taught) > 1:
        tensors, report = _solved(base, parents, learned, stats, rule or MergeRule())
    else:
        tensors, report = {}, diagnostics.Report(0, 1.0, 0.0, 0.0, 0.0, {parent.label: 1.0 for parent in taught})
    tensors = _sum(base, [*([tensors] if tensors else taught), *(parent for parent in parents if parent.erases)])
    tensors |= {row_name(index, encoder): row for encoder, rows in zip(base.family.encoders, learned, strict=True)
                for index, row in enumerate(rows) if row.numel()}  # fmt: skip
    return Merged(_manifest(base, name, parents, tokens, stats, report), tensors, report)


def _solved(
    base: Base,
    every: Sequence[Parent],
    embeddings: Sequence[Sequence[Tensor]],
    stats: RegularizationStats,
    rule: MergeRule,
) -> tuple[dict[str, Tensor], Report]:
    """The tensors of the concepts that teach something, by Eq. 5, and how well they are met."""
    tokens = [token for parent in every for token in parent.manifest.tokens]
    styled = [style for parent in every for style in styles(parent.manifest)]
    parents = [parent for parent in every if not parent.erases]
    numbers = itertools.count()
    order = [-1 if parent.erases else next(numbers) for parent in every]
    concept_of = [place for place, parent in zip(order, every, strict=True) for _ in parent.manifest.tokens]
    whole = {index for index, place in enumerate(concept_of) if place >= 0 and not parents[place].is_focused}
    bound = _targets(base, tokens, styled, embeddings, whole, rule.pairs).by_concept(concept_of)
    held_out = targets.collect(base, targets.held_out_prompts(tokens, styled), tokens, embeddings)
    held_out = targets.excluding(held_out.by_concept(concept_of), bound)
    width = stats.width + any(bias(module) in parent.tensors for parent in parents for module in base.kv)
    held = text.empty_directions(base, rule.held).double()
    free = torch.eye(width, dtype=torch.float64)
    free[: stats.width, : stats.width] -= held @ held.T
    factor = cholesky(stats.moment[:width, :width])
    if len(tokens) == 2 and len(bound.features) > thinning.PAIR_ROWS:
        bound = _thinned(base, parents, bound, factor, free)
    softness = rule.softness if len(bound.features) > rule.exact * stats.width else 0.0
    down, condition = dual_basis(_augmented(bound.features, width) @ free, factor, softness)
    down = down @ free
    ups = {module: _target_values(module, weight, parents, bound).T for module, weight in base.kv.items()}
    if len(down) > width:  # more targets than directions: the same change in fewer numbers
        axes, mixed = torch.linalg.qr(down.T)
        ups, down = {module: up @ mixed.T for module, up in ups.items()}, axes.T
    tensors = pack(ups, down, stats.width)
    sums = diagnostics.measure(
        list(base.kv), [parent.change for parent in parents],
        lambda module, features: _augmented(features, width) @ down.T @ ups[module].T,
        lambda module, features: change_of(tensors, module, features), bound, held_out, stats.words,
    )  # fmt: skip
    names = [parent.label for parent in parents]
    warnings = diagnostics.clashes(tokens, embeddings)
    report = diagnostics.report(sums, names, len(bound.features), condition, warnings)
    return tensors, report


def _thinned(base: Base, parents: Sequence[Parent], bound: Targets, factor: Tensor, free: Tensor) -> Targets:
    """The targets of a pair without those that the others imply best, so that its file stays small."""
    values = torch.cat([_target_values(module, weight, parents, bound) for module, weight in base.kv.items()], dim=1)
    left = thinning.kept(_augmented(bound.features, len(factor)) @ free, factor, values, thinning.PAIR_ROWS, LEAST)
    return Targets(bound.features[left], [bound.owners[place] for place in left])


def _targets(
    base: Base, tokens: Sequence[Token], styled: Sequence[bool], embeddings: Sequence[Sequence[Tensor]],
    whole: Collection[int], most: float,
) -> Targets:  # fmt: skip
    """The targets of a merge; prompts that name two tokens only where all are `most` of the text width at most."""
    width = sum(int(encoder.config.hidden_size) for encoder in base.text_encoders)
    pairs = targets.fit_in(base, tokens, styled, whole, round(width * most))
    prompts = targets.prompts(tokens, styled, pairs=pairs)
    return targets.distinct(targets.collect(base, prompts, tokens, embeddings, whole=whole))


def _sum(base: Base, parts: Sequence[Parent | dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sum of changes, a solved merge first where there is one; factors that share their `down` go on to do so."""
    if len(parts) == 1 and isinstance(parts[0], dict):
        return parts[0]
    own = [part if isinstance(part, dict) else part.tensors for part in parts]
    weights = [1.0 if isinstance(part, dict) else part.weight for part in parts]
    stored = {name: tensor for tensors in own for name, tensor in tensors.items() if name.endswith(".bias")}
    shared = all("down" in tensors for tensors in own)
    for module in base.kv:
        name = weight_name(module)
        pairs = [(tensors, weight) for tensors, weight in zip(own, weights, strict=True)
                 if deltas.changed_parameters(tensors)]  # fmt: skip
        scaled = [deltas.scaled(deltas.read(tensors, name), weight) for tensors, weight in pairs]
        total = functools.reduce(deltas.added, scaled)
        if isinstance(total, deltas.Factors):
            stored[f"{name}.up"] = total.up.half()
            stored["down" if shared else f"{name}.down"] = total.down.float() if shared else total.down.half()
        else:
            stored[name] = total.half()
    return stored


def _augmented(features: Tensor, width: int) -> Tensor:
    """Features [s, d] with a constant 1 behind them where `width` is d + 1."""
    more = width - features.shape[1]
    return torch.cat([features, features.new_ones(len(features), more)], dim=1)


def _target_values(module: str, weight: Tensor, parents: Sequence[Parent], bound: Targets) -> Tensor:
    """The change of K or V [s, o] wanted at each target: the mean of those of the concepts it belongs to."""
    values = bound.features.new_zeros(len(bound.features), weight.shape[0])
    for index, parent in enumerate(parents):
        own = [row for row, owners in enumerate(bound.owners) if index in owners]
        values[own] += parent.change(module, bound.features[own])
    return values / torch.tensor([[len(owners)] for owners in bound.owners])


def pack(ups: Mapping[str, Tensor], down: Tensor, width: int) -> dict[str, Tensor]:
    """A solution as it is stored: `up` [o, s] in fp16, one `down` [s, d] in float32, and biases where there are any.

    Each row is scaled by a power of two, so that fp16 keeps as much of it as it can in every layer.
    """
    largest = torch.stack([up.abs().amax(dim=0) for up in ups.values()]).amax(dim=0)
    scale = torch.exp2(torch.where(largest > 0, (_LARGEST / largest).log2().floor(), 0.0))
    rows = (down / scale[:, None]).float()
    stored = {"down": rows[:, :width].contiguous()}
    for module, up in ups.items():
        half = (up * scale).half()
        stored[f"{weight_name(module)}.up"] = half
        if rows.shape[1] > width:
            stored[bias(module)] = (half.double() @ rows[:, -1].double()).float()
    return stored


# ---------------------------------------------------------------- what comes out


def _manifest(
    base: Base,
    name: str,
    parents: Sequence[Parent],
    tokens: Sequence[Token],
    stats: RegularizationStats,
    report: Report,
) -> Manifest:
    styled = [style for parent in parents for style in styles(parent.manifest)]
    settings: dict[str, Any] = {"captions": stats.captions} | ({"style": styled} if any(styled) else {})
    settings |= {"focus": True} if all(parent.is_focused for parent in parents) else {}
    return Manifest(
        name=name,
        base=BaseRef(base.name, base.family.name, base.fingerprint),
        tokens=tuple(tokens),
        method=METHOD,
        settings=settings,
        photos=tuple(dict.fromkeys(photo for parent in parents for photo in parent.manifest.photos)),
        parents=tuple(map(_parent_record, parents)),
        report=report.data(),
    )


def _parent_record(parent: Parent) -> dict[str, Any]:
    """What a merge records of a concept that went into it."""
    manifest = parent.manifest
    return {
        "name": parent.entry.name,
        "method": manifest.method,
        "fingerprint": manifest.base.fingerprint,
        "tokens": [token.words() for token in manifest.tokens],
        "weight": parent.weight,
        "sha256": hashlib.sha256(parent.entry.path.read_bytes()).hexdigest(),
        "settings": dict(manifest.settings),
    }
