"""Which targets of a merge can be left out: those that the others imply best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

PAIR_ROWS = 29  # of two tokens: on SD 1.x a file of 1.6 MB


def kept(rows: Tensor, factor: Tensor, values: Tensor, most: int, least: float) -> list[int]:
    """The places of `most` targets; the others are left out one by one, each time the one that is missed least.

    What a merge without target i makes of it differs from what is wanted by (inv(K) T)_i / inv(K)_ii, with
    K = C inv(R) C'. `rows` is C [s, d], `factor` the lower Cholesky factor of R [d, d], `values` the wanted changes
    T [s, o] of all matrices; `least` of its trace is added to K, so that targets may depend on each other.
    """
    whitened = torch.linalg.solve_triangular(factor, rows.T, upper=False).T
    left = list(range(len(rows)))
    while len(left) > most:
        gram = whitened[left] @ whitened[left].T
        inverse = torch.linalg.inv(gram + least * gram.trace() * torch.eye(len(left), dtype=gram.dtype))
        missed = (inverse @ values[left]).norm(dim=1) / inverse.diagonal()
        left.pop(int((missed / values[left].norm(dim=1).clamp(min=1e-30)).argmin()))
    return left
