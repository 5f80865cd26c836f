"""Targets left out of a merge against the merges that leave each of them out."""

from __future__ import annotations

import torch

from cdtool.merging import merge, thinning


def test_the_target_left_out_is_the_one_that_a_merge_of_the_others_misses_least():
    generator = torch.Generator().manual_seed(0)
    rows, values = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (12, 5))
    half = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(half @ half.T + torch.eye(12, dtype=torch.float64))
    missed = []
    for place in range(6):
        others = [at for at in range(6) if at != place]
        down, _ = merge.dual_basis(rows[others], factor)
        made = rows[place] @ down.T @ values[others]
        missed.append(float((made - values[place]).norm() / values[place].norm()))
    worst = min(range(6), key=missed.__getitem__)
    assert thinning.kept(rows, factor, values, 5, merge.LEAST) == [at for at in range(6) if at != worst]
    assert thinning.kept(rows, factor, values, 6, merge.LEAST) == list(range(6))


def test_a_target_said_twice_goes_first():
    generator = torch.Generator().manual_seed(1)
    rows, values = (torch.randn(5, width, generator=generator, dtype=torch.float64) for width in (8, 3))
    rows[3], values[3] = 2 * rows[1] + rows[0], 2 * values[1] + values[0]  # implied to the last digit
    left = thinning.kept(rows, torch.eye(8, dtype=torch.float64), values, 4, merge.LEAST)
    assert len({0, 1, 3} - set(left)) == 1
    assert {2, 4} <= set(left)
