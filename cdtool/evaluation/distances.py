"""Distances between two sets of pictures by their features: KID with a jackknife, and the Frechet distance.

Both are small numpy here: torchmetrics draws KID's subsets from torch's global generator, gives no interval for the
difference of two sets, and gets its network only together with packages that bring a second torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cdtool.models.encoders import Features

    Numbers = NDArray[np.float64]

FEWEST = 3  # pictures of a set: the jackknife leaves one out, and KID needs two


def kernel(first: Features, second: Features) -> Numbers:
    """The polynomial kernel (x·y / d + 1)³ of rows [n, d] and [m, d]: [n, m]."""
    products = first.astype(np.float64) @ second.astype(np.float64).T
    values: Numbers = (products / first.shape[1] + 1) ** 3
    return values


def kid(drawn: Features, real: Features) -> float:
    """Unbiased squared MMD of drawn [n, d] and real [m, d] pictures; it may fall below 0. All pairs at once: n, m ≥ 2.

    The mean over random subsets, as it is often computed, estimates this same number with more noise.
    """
    within = kernel(drawn, drawn)
    return _mean_of_pairs(within) + _mean_of_pairs(kernel(real, real)) - 2 * float(kernel(drawn, real).mean())


def kid_without_each(drawn: Features, real: Features) -> Numbers:
    """KID [n] of the drawn pictures without the first, without the second... of n ≥ 3, for a jackknife."""
    count, within, across = len(drawn), kernel(drawn, drawn), kernel(drawn, real)
    np.fill_diagonal(within, 0)
    own = (within.sum() - 2 * within.sum(axis=1)) / ((count - 1) * (count - 2))
    mixed = (across.sum() - across.sum(axis=1)) / ((count - 1) * len(real))
    values: Numbers = own + _mean_of_pairs(kernel(real, real)) - 2 * mixed
    return values


def jackknife_error(without_each: Numbers) -> float:
    """Standard error of a statistic from its values [n] with one observation left out each."""
    count = len(without_each)
    return float(np.sqrt((count - 1) / count * ((without_each - without_each.mean()) ** 2).sum()))


def frechet(drawn: Features, real: Features) -> float:
    """Frechet distance of the normal distributions with the means and covariances of two sets [n, d], [m, d]."""
    (mean, spread), (other, wide) = _moments(drawn), _moments(real)
    root = _square_root(spread)
    # The trace of (A B)^(1/2) is that of (A^(1/2) B A^(1/2))^(1/2), which is symmetric.
    values = np.linalg.eigvalsh(root @ wide @ root)
    shared = np.sqrt(np.maximum(values, 0)).sum()
    return float(((mean - other) ** 2).sum() + np.trace(spread) + np.trace(wide) - 2 * shared)


def _mean_of_pairs(values: Numbers) -> float:
    count = len(values)
    return float((values.sum() - np.trace(values)) / (count * (count - 1)))


def _moments(rows: Features) -> tuple[Numbers, Numbers]:
    wide = rows.astype(np.float64)
    return wide.mean(axis=0), np.atleast_2d(np.cov(wide, rowvar=False))


def _square_root(matrix: Numbers) -> Numbers:
    values, vectors = np.linalg.eigh(matrix)
    root: Numbers = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
