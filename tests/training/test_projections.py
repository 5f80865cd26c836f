"""Stand-ins for K and V, by hand."""

from __future__ import annotations

import torch

from cdtool.training import projections


def test_the_start_tokens_column_moves_no_weight():
    """By hand: with dL/dresult = 1 everywhere, dL/dW is the sum of all features but the first."""
    module = projections.TrainedKV(torch.tensor([[1.0, 2.0]]), None, torch.zeros(2, 0))
    features = torch.tensor([[[10.0, 20.0], [1.0, 0.0], [0.0, 3.0]]], requires_grad=True)
    result = module(features)
    assert result.flatten().tolist() == [50.0, 1.0, 6.0]
    result.sum().backward()
    assert module.weight.grad.tolist() == [[1.0, 3.0]]
    assert features.grad.tolist() == [[[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]]]


def test_a_held_direction_stays_and_passes_no_gradient():
    """By hand: the first feature is held, so the first column is what it was and is never pulled at."""
    module = projections.TrainedKV(torch.tensor([[1.0, 2.0]]), None, torch.tensor([[1.0], [0.0]]))
    module.weight.data += torch.tensor([[4.0, 5.0]])
    assert module.effective().tolist() == [[1.0, 7.0]]
    result = module(torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]))
    assert result.flatten().tolist() == [0.0, 8.0]
    result.sum().backward()
    assert module.weight.grad.tolist() == [[0.0, 1.0]]
