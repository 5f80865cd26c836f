"""Changes as products of two thin matrices: the truncated SVD, how many ranks are needed, and ranks made equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from cdtool.errors import ConceptError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT = ".weight"


class Factors(NamedTuple):
    """A change dW = up down: up [o, r], down [r, d]."""

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        """How many products of a column and a row it is the sum of."""
        return int(self.up.shape[1])


class Spectrum(NamedTuple):
    """The thin SVD of a change: dW = u diag(s) v, s falling, all float32."""

    u: Tensor  # [o, r]
    s: Tensor  # [r]
    v: Tensor  # [r, d]


def changed(names: Mapping[str, object]) -> list[str]:
    """The parameters a concept changes, e.g. "unet.mid_block....attn2.to_k.weight", in the order of its tensors."""
    found = [name.removesuffix(".up").removesuffix(".down") for name in names if name.startswith("unet.")]
    return list(dict.fromkeys(found))


def change(tensors: Mapping[str, Tensor], name: str) -> Tensor | Factors:
    """A concept's change of the parameter `name`: dense as stored, or its factors, where `down` may be all layers' own.

    Raises ConceptError where it is not there or its factors do not fit each other.
    """
    if name in tensors:
        return tensors[name]
    up, down = tensors.get(f"{name}.up"), tensors.get(f"{name}.down", tensors.get("down"))
    if up is None or down is None:
        raise ConceptError(f"The concept holds no change for {name}.")
    if up.shape[1] != down.shape[0]:
        raise ConceptError(f"The concept's factors for {name} do not fit: ranks {up.shape[1]} and {down.shape[0]}.")
    return Factors(up, down)


def dense(change: Tensor | Factors) -> Tensor:
    """A change multiplied out, [o, d] in float32."""
    return change.up.float() @ change.down.float() if isinstance(change, Factors) else change.float()


def decompose(change: Tensor | Factors) -> Spectrum:
    """The thin SVD of a change [o, d]; factors are decomposed as they are, by QR of each, never multiplied out."""
    if not isinstance(change, Factors) or change.rank >= min(change.up.shape[0], change.down.shape[1]):
        return Spectrum(*torch.linalg.svd(dense(change), full_matrices=False))
    left, r_left = torch.linalg.qr(change.up.double())
    right, r_right = torch.linalg.qr(change.down.double().T)
    u, s, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    return Spectrum((left @ u).float(), s.float(), (v @ right.T).float())


def needed_rank(s: Tensor, shape: tuple[int, int]) -> int:
    """How many singular values [r] stand above the rounding of a float32 matrix of this shape; at least 1."""
    floor = float(s.max()) * max(shape) * torch.finfo(torch.float32).eps
    return max(1, int((s > floor).sum()))


def rank_for(s: Tensor, share: float) -> int:
    """The fewest leading singular values whose sum is at least `share` (0 to 1) of the sum of all; at least 1."""
    sums = torch.cumsum(s.double(), 0)
    return max(1, min(len(s), 1 + int((sums < share * sums[-1] * (1 - 1e-12)).sum())))


def cut(spectrum: Spectrum, rank: int) -> Factors:
    """The best approximation of a rank; each factor takes the root of the singular values, which is kind to fp16."""
    root = spectrum.s[:rank].sqrt()
    return Factors(spectrum.u[:, :rank] * root, root[:, None] * spectrum.v[:rank])


def balanced(factors: Factors) -> Factors:
    """The same change in float32 with columns of `up` about as long as rows of `down`; powers of two move no digit."""
    up, down = factors.up.float(), factors.down.float()
    half = 0.5 * (down.norm(dim=1).log2() - up.norm(dim=0).log2())
    scale = torch.exp2(torch.where(half.isfinite(), half, 0).round())
    return Factors(up * scale, down / scale[:, None])


def padded(factors: Factors, rank: int) -> Factors:
    """The same change with `rank` ranks, those above its own zero."""
    more = rank - factors.rank
    return Factors(
        torch.nn.functional.pad(factors.up, (0, more)), torch.nn.functional.pad(factors.down, (0, 0, 0, more))
    )


def trimmed(factors: Factors) -> Factors:
    """The same change without the ranks that are zero; at least one is left."""
    used = factors.up.abs().amax(0) * factors.down.abs().amax(1) > 0
    if not bool(used.any()):
        used[:1] = True
    return Factors(factors.up[:, used], factors.down[used])
