"""The change of a parameter, dense or as two factors: the one type for it, its truncated SVD, and its ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cdtool.errors import ConceptError


class Factors(NamedTuple):
    """A delta dW = up down: up [o, r], down [r, d]."""

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        """The rank r of the factors."""
        return int(self.up.shape[1])


Delta = Tensor | Factors  # the change of one parameter: dense, or as factors


class SVD(NamedTuple):
    """The thin SVD of a delta: dW = u diag(s) v, s falling, all float32."""

    u: Tensor  # [o, r]
    s: Tensor  # [r]
    v: Tensor  # [r, d]


def changed_parameters(names: Iterable[str]) -> list[str]:
    """The parameters a concept changes, e.g. "unet.mid_block....attn2.to_k.weight", in the order of its tensors."""
    found = [name.removesuffix(".up").removesuffix(".down") for name in names if name.startswith("unet.")]
    return list(dict.fromkeys(found))


def read(tensors: Mapping[str, Tensor], name: str) -> Delta:
    """A concept's delta of the parameter `name`: dense as stored, or its factors, where `down` may be all layers' own.

    Raises ConceptError where it is missing, in whole or in part, or its factors do not fit each other.
    """
    if name in tensors:
        return tensors[name]
    up, down = tensors.get(f"{name}.up"), tensors.get(f"{name}.down", tensors.get("down"))
    if up is None and f"{name}.down" not in tensors:
        raise ConceptError(f"The concept holds no change for {name}.")
    if up is None or down is None:
        raise ConceptError(f"The concept holds only one of the two factors for {name}.", "Copy or train it again.")
    if up.shape[1] != down.shape[0]:
        raise ConceptError(f"The concept's factors for {name} do not fit: ranks {up.shape[1]} and {down.shape[0]}.")
    return Factors(up, down)


def shape_of(delta: Delta) -> tuple[int, ...]:
    """The shape of a delta, multiplied out: (o, d) of factors."""
    return (delta.up.shape[0], delta.down.shape[1]) if isinstance(delta, Factors) else tuple(delta.shape)


def dense(delta: Delta, shape: torch.Size | None = None) -> Tensor:
    """A delta multiplied out, in float32; `shape` where it is a convolution's, whose factors lie flat [o, i kh kw]."""
    whole = delta.up.float() @ delta.down.float() if isinstance(delta, Factors) else delta.float()
    return whole if shape is None else whole.reshape(shape)


def apply(delta: Delta, features: Tensor) -> Tensor:
    """What a delta adds to K or V [..., o] for text features [..., d]: c dW', in the features' precision."""
    if isinstance(delta, Factors):
        return functional.linear(functional.linear(features, delta.down.to(features)), delta.up.to(features))
    return functional.linear(features, delta.to(features))


def scaled(delta: Delta, weight: float) -> Delta:
    """A delta times a number."""
    if isinstance(delta, Factors):
        return Factors(delta.up.float() * weight, delta.down)
    return delta.float() * weight


def added(one: Delta, other: Delta) -> Delta:
    """The sum of two deltas of one parameter: factors beside each other, or dense in float32."""
    if isinstance(one, Factors) and isinstance(other, Factors):
        up = torch.cat([one.up.float(), other.up.float()], dim=1)
        return Factors(up, torch.cat([one.down.float(), other.down.float()]))
    return dense(one) + dense(other)


def decompose(delta: Delta) -> SVD:
    """The thin SVD of a delta [o, d]; that of factors by QR of each, without multiplying them out."""
    if not isinstance(delta, Factors) or delta.rank >= min(delta.up.shape[0], delta.down.shape[1]):
        return SVD(*torch.linalg.svd(dense(delta), full_matrices=False))
    left, r_left = torch.linalg.qr(delta.up.double())
    right, r_right = torch.linalg.qr(delta.down.double().T)
    u, s, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    return SVD((left @ u).float(), s.float(), (v @ right.T).float())


def needed_rank(s: Tensor, shape: tuple[int, int]) -> int:
    """How many singular values [r] stand above the rounding of a float32 matrix of this shape; at least 1."""
    floor = float(s.max()) * max(shape) * torch.finfo(torch.float32).eps
    return max(1, int((s > floor).sum()))


def rank_for(s: Tensor, share: float) -> int:
    """The fewest leading singular values whose sum is at least `share` (0 to 1) of the sum of all; at least 1."""
    sums = torch.cumsum(s.double(), 0)
    return max(1, min(len(s), 1 + int((sums < share * sums[-1] * (1 - 1e-12)).sum())))


def truncate(spectrum: SVD, rank: int) -> Factors:
    """The best approximation of a rank. Each factor takes the root of the singular values, so that both fit fp16."""
    root = spectrum.s[:rank].sqrt()
    return Factors(spectrum.u[:, :rank] * root, root[:, None] * spectrum.v[:rank])


def balanced(factors: Factors) -> Factors:
    """The same delta in float32 with columns of `up` about as long as rows of `down`; powers of two move no digit."""
    up, down = factors.up.float(), factors.down.float()
    half = 0.5 * (down.norm(dim=1).log2() - up.norm(dim=0).log2())
    scale = torch.exp2(torch.where(half.isfinite(), half, 0).round())
    return Factors(up * scale, down / scale[:, None])


def padded(factors: Factors, rank: int) -> Factors:
    """The same delta with `rank` ranks, those beyond its own zero."""
    more = rank - factors.rank
    return Factors(
        torch.nn.functional.pad(factors.up, (0, more)), torch.nn.functional.pad(factors.down, (0, 0, 0, more))
    )


def trimmed(factors: Factors) -> Factors:
    """The same delta without the ranks that are zero; at least one is left."""
    used = factors.up.abs().amax(0) * factors.down.abs().amax(1) > 0
    if not bool(used.any()):
        used[:1] = True
    return Factors(factors.up[:, used], factors.down[used])
