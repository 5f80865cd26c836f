"""The factored optimizer against AdamW where both are the same, and its state."""

from __future__ import annotations

import torch
from torch import nn

from cdtool.training.factored import FactoredAdamW
from cdtool.training.optimizer import AdamW


def pair(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    begun = torch.randn(shape, generator=generator)
    return [nn.Parameter(begun.clone()) for _ in range(2)]


def groups(parameter):
    return [{"params": [parameter], "weight_decay": 0.1}]


def trained(optimizers, parameters, gradients):
    for gradient in gradients:
        for optimizer, parameter in zip(optimizers, parameters, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
            optimizer.zero_grad()
    return parameters


def test_gradients_whose_squares_are_of_rank_one_are_followed_as_adamw_does():
    rows, columns = torch.rand(6, 1) + 0.1, torch.rand(1, 5) + 0.1
    gradients = [sign * rows * columns for sign in (1.0, -0.5, 0.7, 0.2, -0.1, 1.0, 2.0)]
    parameters = pair((6, 5))
    begun = parameters[0].detach().clone()
    plain, factored = trained(
        [AdamW(groups(parameters[0]), lr=0.01), FactoredAdamW(groups(parameters[1]), lr=0.01)], parameters, gradients
    )
    change, other = plain.detach() - begun, factored.detach() - begun
    assert (other - change).norm() < 0.01 * change.norm()  # the first moment is in bf16


def test_a_vector_is_updated_as_adamw_does():
    gradients = [torch.randn(7) for _ in range(4)]
    parameters = pair((7,))
    plain, factored = trained(
        [AdamW(groups(parameters[0]), lr=0.01), FactoredAdamW(groups(parameters[1]), lr=0.01)], parameters, gradients
    )
    assert torch.equal(plain, factored)


def test_a_convolution_learns_and_a_parameter_without_gradient_stays():
    moving, still = nn.Parameter(torch.zeros(4, 3, 2, 2)), nn.Parameter(torch.zeros(4, 3))
    optimizer = FactoredAdamW([{"params": [moving, still], "weight_decay": 0.0}], lr=0.01)
    moving.grad = torch.ones_like(moving)
    optimizer.step()
    assert torch.allclose(moving, torch.full_like(moving, -0.01), rtol=0.01)
    assert not still.any()


def test_the_state_is_small_and_can_be_taken_over():
    gradients = [torch.randn(64, 32) for _ in range(6)]
    first, second = pair((64, 32))
    one = FactoredAdamW(groups(first), lr=0.01)
    trained([one], [first], gradients[:3])
    state = one.state_dict()
    held = sum(tensor.nbytes for tensor in state["state"][0].values())
    assert held < 0.3 * 2 * first.nbytes
    other = FactoredAdamW(groups(second), lr=0.01)
    other.load_state_dict({"state": {place: {name: tensor.clone() for name, tensor in kept.items()}
                                     for place, kept in state["state"].items()}})  # fmt: skip
    with torch.no_grad():
        second.copy_(first)
    trained([one, other], [first, second], gradients[3:])
    assert torch.equal(first, second)
