"""Muon: momentum made orthogonal for weight matrices, sized like AdamW's steps so that one rate serves both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

MOMENTUM = 0.95
ROUNDS = 5  # of Newton and Schulz
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1
SIZE = 0.2  # root mean square of an update, in shares of the rate: that of AdamW's


def matrices(weights: Sequence[Tensor]) -> list[bool]:
    """Which weights Muon may move: matrices and convolutions no side of which is short."""
    return [one.ndim >= 2 and min(one.shape[0], one[0].numel()) >= 32 for one in weights]


def orthogonal(stack: Tensor) -> Tensor:
    """Matrices [k, m, n] with their singular values driven to about 1, in bfloat16."""
    a, b, c = COEFFICIENTS
    x = stack.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    made: Tensor = x.mT if tall else x
    return made


class Muon:
    """The momenta of some weights, and their update."""

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        """Start at rest."""
        self.weights, self.decay = list(weights), decay
        self.momenta = [torch.zeros_like(one) for one in self.weights]
        self.shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for at, one in enumerate(self.weights):
            self.shapes[one.shape[0], one[0].numel()].append(at)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Move the weights by their gradients' momentum, ahead by one step as Nesterov does."""
        torch._foreach_lerp_(self.momenta, list(gradients), 1 - MOMENTUM)
        ahead = torch._foreach_lerp(list(gradients), self.momenta, MOMENTUM)
        for (rows, columns), places in self.shapes.items():
            moved = orthogonal(torch.stack([ahead[at].reshape(rows, columns) for at in places])).float()
            size = rate * SIZE * max(rows, columns) ** 0.5
            for at, one in zip(places, moved, strict=True):
                self.weights[at].mul_(1 - rate * self.decay).sub_(one.view_as(self.weights[at]), alpha=size)
