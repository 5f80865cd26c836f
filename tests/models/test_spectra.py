"""Matrices taken apart, against numpy's singular values and hand-made ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdtool.errors import ConceptError
from cdtool.models import spectra

NAME = "unet.mid.attn2.to_k.weight"


def orthogonal(rows, columns, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((rows, columns)))[0]


def matrix(values, shape=(12, 9)):
    """A matrix [o, d] with these singular values."""
    made = orthogonal(shape[0], len(values)) * values @ orthogonal(shape[1], len(values), seed=1).T
    return torch.tensor(made, dtype=torch.float32)


def truncated(dense, rank):
    u, s, v = np.linalg.svd(dense.double().numpy())
    return torch.tensor(u[:, :rank] * s[:rank] @ v[:rank])


def part(tensors):
    (found,) = spectra.decompose(tensors)
    return found


@pytest.mark.parametrize("shape", [(12, 9), (9, 12)])
def test_every_rank_is_numpys_truncation(shape):
    dense = matrix([5.0, 3.0, 2.0, 1.0, 0.5], shape)
    found = part({NAME: dense})
    assert found.values[:5].tolist() == pytest.approx([5.0, 3.0, 2.0, 1.0, 0.5], rel=1e-5)
    for rank in range(1, found.most + 1):
        made = found.tensors(rank)
        product = made[f"{NAME}.up"].double() @ made[f"{NAME}.down"].double()
        assert made[f"{NAME}.up"].dtype == torch.float16
        torch.testing.assert_close(product, truncated(dense, rank), atol=4e-3, rtol=0)


def test_the_error_of_a_rank_is_what_is_cut_off():
    dense = matrix([4.0, 2.0, 1.0])
    found = part({NAME: dense})
    for rank in range(4):
        lost = torch.linalg.norm(dense.double() - truncated(dense, rank)).item() ** 2
        assert found.tails[rank] == pytest.approx(lost, abs=1e-5)
    assert spectra.error([found], {NAME: 1}) == pytest.approx((5 / 21) ** 0.5)
    assert spectra.kept([found], {NAME: 2}) == pytest.approx(6 / 7)
    assert spectra.error([found], {NAME: 0}) == 0
    assert spectra.kept([found], {NAME: 0}) == 1


def test_factors_are_taken_apart_as_their_product_would_be():
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn((12, 4), generator=generator), torch.randn((4, 9), generator=generator)
    whole = part({NAME: up @ down})
    alone = part({f"{NAME}.up": up, f"{NAME}.down": down})
    shared = part({f"{NAME}.up": up, "down": down})
    for found in (alone, shared):
        assert found.values.tolist() == pytest.approx(whole.values[:4].tolist(), rel=1e-4)
        product = found.up[:, :2].float() @ found.down[:2].float()
        torch.testing.assert_close(product, truncated(up @ down, 2).float(), atol=1e-2, rtol=0)
    assert (alone.shared, shared.shared) == (False, True)
    assert shared.up.shape[1] == 4  # any rank may be needed once the shared factor goes


def test_most_is_the_last_rank_that_saves_something():
    found = part({NAME: matrix([1.0, 0.5]).half()})
    assert (found.stored_bytes, found.rank_bytes) == (2 * 12 * 9, 2 * (12 + 9))
    assert found.most == 5  # 5 * 42 = 210 < 216 bytes
    assert part({NAME: torch.ones(2, 2).half()}).most == 0
    assert part({NAME: torch.ones(40, 30)}).most == 30  # float32: 4 * 1200 bytes, a rank 140


def test_convolutions_lie_flat_and_vectors_stay():
    generator = torch.Generator().manual_seed(5)
    kernel = torch.randn((8, 6, 3, 3), generator=generator)
    tensors = {
        "unet.conv.weight": kernel,
        "unet.conv.bias": torch.ones(8),
        "unet.norm.weight": torch.ones(8),
        "token.1.text_encoder": torch.ones(9),
    }
    assert spectra.matrices(tensors) == ["unet.conv.weight"]
    found = part(tensors)
    assert found.shape == (8, 54)
    made = found.tensors(3)
    product = made["unet.conv.weight.up"].double() @ made["unet.conv.weight.down"].double()
    torch.testing.assert_close(product, truncated(kernel.flatten(1), 3), atol=1e-2, rtol=0)


def test_small_changes_survive_fp16():
    dense = matrix([2e-4, 1e-4, 5e-5], (320, 256))
    made = part({NAME: dense}).tensors(2)
    product = made[f"{NAME}.up"].double() @ made[f"{NAME}.down"].double()
    error = torch.linalg.norm(product - truncated(dense, 2)) / torch.linalg.norm(dense)
    assert error < 1e-3


def test_a_change_of_nothing():
    found = part({NAME: torch.zeros(6, 8)})
    assert found.tails == [0.0] * 7
    assert spectra.error([found], {NAME: 1}) == 0
    assert spectra.kept([found], {NAME: 1}) == 1
    assert not found.tensors(1)[f"{NAME}.up"].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none(bad):
    dense = torch.ones(6, 8)
    dense[2, 3] = bad
    with pytest.raises(ConceptError, match="not finite"):
        part({NAME: dense})
    with pytest.raises(ConceptError, match="not finite"):
        part({f"{NAME}.up": dense, "down": torch.ones(8, 5)})


@pytest.mark.parametrize(
    "tensors", [{f"{NAME}.up": torch.ones(6, 2)}, {f"{NAME}.up": torch.ones(6, 2), "down": torch.ones(3, 5)}]
)
def test_half_a_change(tensors):
    with pytest.raises(ConceptError):
        part(tensors)
