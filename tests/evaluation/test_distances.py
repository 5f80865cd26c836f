"""KID and the Frechet distance against plain loops, torchmetrics and scipy."""

from __future__ import annotations

import numpy as np
import pytest

from cdtool.evaluation import distances


def rows(count, seed, shift=0.0, width=12):
    return (np.random.default_rng(seed).normal(size=(count, width)) + shift).astype(np.float32)


def slow_kid(drawn, real):
    def k(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def apart(points):
        pairs = [k(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]
        return sum(pairs) / len(pairs)

    across = [k(x, y) for x in drawn for y in real]
    return apart(drawn) + apart(real) - 2 * sum(across) / len(across)


def test_kid_equals_a_double_loop():
    drawn, real = rows(7, 0, 0.3), rows(9, 1)
    assert distances.kid(drawn, real) == pytest.approx(slow_kid(drawn.tolist(), real.tolist()), abs=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`:UserWarning")
def test_kid_equals_torchmetrics_within_the_noise_of_its_subsets():
    torch = pytest.importorskip("torch")
    kid = pytest.importorskip("torchmetrics.image.kid")

    drawn, real = rows(60, 2, 0.4), rows(80, 3)

    class Known(torch.nn.Module):
        """Pictures are numbers of rows."""

        num_features = 12

        def forward(self, images):
            return torch.from_numpy(np.concatenate([drawn, real]))[images.flatten()]

    theirs = kid.KernelInceptionDistance(Known(), subsets=60, subset_size=30)
    theirs.update(torch.arange(60).reshape(-1, 1, 1, 1), real=False)
    theirs.update(torch.arange(60, 140).reshape(-1, 1, 1, 1), real=True)
    torch.manual_seed(0)
    mean, spread = (float(value) for value in theirs.compute())
    assert distances.kid(drawn, real) == pytest.approx(mean, abs=4 * spread / 60**0.5)
    assert spread > 0


def test_leaving_one_out_equals_leaving_it_out():
    drawn, real = rows(6, 4), rows(8, 5)
    found = distances.kid_without_each(drawn, real)
    assert found == pytest.approx([distances.kid(np.delete(drawn, i, axis=0), real) for i in range(6)], abs=1e-9)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(6).normal(size=11)
    without = np.array([np.delete(values, i).mean() for i in range(11)])
    assert distances.jackknife_error(without) == pytest.approx(values.std(ddof=1) / 11**0.5)


def test_sets_of_one_kind_are_near_and_others_far():
    near, far = distances.kid(rows(200, 7), rows(200, 8)), distances.kid(rows(200, 7, 1.0), rows(200, 8))
    assert abs(near) < 0.1 < far
    assert distances.frechet(rows(200, 7), rows(200, 7)) == pytest.approx(0, abs=1e-8)


def test_frechet_equals_scipys_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    drawn, real = rows(40, 9, 0.5) * 2, rows(50, 10)
    one, other = (np.cov(found.astype(np.float64), rowvar=False) for found in (drawn, real))
    means = ((drawn.astype(np.float64).mean(0) - real.astype(np.float64).mean(0)) ** 2).sum()
    expected = means + np.trace(one + other - 2 * linalg.sqrtm(one @ other).real)
    assert distances.frechet(drawn, real) == pytest.approx(expected, rel=1e-6)


def test_frechet_bears_fewer_pictures_than_numbers():
    assert np.isfinite(distances.frechet(rows(5, 11), rows(6, 12)))
