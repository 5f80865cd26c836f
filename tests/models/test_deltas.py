"""Changes as products of thin matrices: against numpy's SVD and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdtool.errors import ConceptError
from cdtool.models import deltas
from cdtool.models.deltas import Factors


def some(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_parameters_are_read_off_the_tensor_names():
    names = dict.fromkeys(
        ("down", "unet.a.weight.up", "unet.b.weight", "unet.c.bias", "unet.a.weight.down", "token.1.x")
    )
    assert deltas.changed_parameters(names) == ["unet.a.weight", "unet.b.weight", "unet.c.bias"]


def test_a_change_is_dense_or_factors_or_shares_its_down():
    up, down, shared = some(4, 2), some(2, 3), some(2, 3, seed=1)
    tensors = {"a.up": up, "a.down": down, "b.up": up, "down": shared, "c": some(4, 3), "d.up": some(4, 5)}
    torch.testing.assert_close(deltas.dense(deltas.read(tensors, "a")), up @ down)
    torch.testing.assert_close(deltas.dense(deltas.read(tensors, "b")), up @ shared)
    assert torch.equal(deltas.read(tensors, "c"), tensors["c"])
    with pytest.raises(ConceptError, match="no change for e"):
        deltas.read(tensors, "e")
    with pytest.raises(ConceptError, match="ranks 5 and 2"):
        deltas.read(tensors, "d")


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_factors_are_decomposed_as_their_product_is(rank):
    factors = Factors(some(8, rank), some(rank, 6, seed=1))
    spectrum = deltas.decompose(factors)
    whole = np.linalg.svd((factors.up @ factors.down).double().numpy(), compute_uv=False)
    np.testing.assert_allclose(spectrum.s.numpy(), whole[: len(spectrum.s)], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(spectrum.u * spectrum.s @ spectrum.v, factors.up @ factors.down, rtol=1e-4, atol=1e-4)
    assert len(spectrum.s) == min(rank, 6)


def test_the_cut_is_numpys_and_its_factors_share_the_values():
    matrix = some(7, 5)
    u, s, v = np.linalg.svd(matrix.numpy(), full_matrices=False)
    factors = deltas.truncate(deltas.decompose(matrix), 2)
    np.testing.assert_allclose(deltas.dense(factors).numpy(), u[:, :2] * s[:2] @ v[:2], atol=1e-5)
    torch.testing.assert_close(factors.up.norm(dim=0), factors.down.norm(dim=1))


def test_the_needed_rank_is_that_of_the_matrix():
    for rank in (1, 4):
        product = some(30, rank) @ some(rank, 20, seed=1)
        assert deltas.needed_rank(deltas.decompose(product).s, (30, 20)) == rank
    assert deltas.needed_rank(torch.zeros(5), (5, 5)) == 1


def test_the_rank_for_a_share_by_hand():
    s = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert [deltas.rank_for(s, share) for share in (0.01, 0.4, 0.41, 0.7, 0.9, 1.0)] == [1, 1, 2, 2, 3, 4]
    assert deltas.rank_for(torch.zeros(3), 0.5) == 1


def test_balancing_padding_and_trimming_change_no_digit():
    factors = Factors(1e-4 * some(6, 3), 1e3 * some(3, 5, seed=1))
    product = factors.up @ factors.down
    even = deltas.balanced(factors)
    assert torch.equal(even.up @ even.down, product)
    ratio = even.up.norm(dim=0) / even.down.norm(dim=1)
    assert ((ratio > 0.49) & (ratio < 2.01)).all()
    wide = deltas.padded(even, 7)
    assert (wide.up.shape, wide.down.shape) == ((6, 7), (7, 5))
    narrow = deltas.trimmed(wide)
    assert torch.equal(narrow.up, even.up)
    assert torch.equal(narrow.down, even.down)
    nothing = Factors(torch.zeros(6, 2), some(2, 5))
    assert deltas.trimmed(nothing).rank == 1
    assert torch.equal(deltas.balanced(nothing).up, nothing.up)
