"""What stands in for a base's K and V projections while they are trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Focus:
    """Where the K/V modules of a focused training may change what they were: a mask [b, l] of the prompts at hand."""

    mask: Tensor | None = None

    def choose(self, changed: Tensor, unchanged: Tensor) -> Tensor:
        """Of two outputs [b, l, o] the first inside the mask, the second elsewhere."""
        assert self.mask is not None
        return torch.where(self.mask[..., None], changed, unchanged)


class TrainedKV(nn.Module):
    """A K/V projection being trained; the start token's column passes no gradient (docs/differences.md 1.5).

    Along the orthonormal directions `held` [d, r] it stays what it began as, and outside of a `focus` too.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        held: Tensor,
        *,
        train_bias: bool = False,
        begun: bool = False,
        focus: Focus | None = None,
    ) -> None:
        super().__init__()
        self.begun, self.focus = weight.float() if begun or focus else None, focus  # one more copy, where it is needed
        self.weight = nn.Parameter(weight.float().clone())  # [o, d]
        self.bias = nn.Parameter(bias.clone()) if bias is not None and train_bias else bias
        self.held, self.stays = held, weight.float() @ held

    def effective(self) -> Tensor:
        """The weight [o, d] that acts: W - (W H - W_begun H) H'."""
        if not self.held.shape[1]:
            return self.weight
        return self.weight - (self.weight @ self.held - self.stays) @ self.held.T

    def forward(self, features: Tensor) -> Tensor:
        """[b, l, d] -> [b, l, o]."""
        bias = None if self.bias is None else self.bias.to(features.dtype)
        result = F.linear(features, self.effective().to(features.dtype), bias)
        if self.focus is not None and self.begun is not None:
            result = self.focus.choose(result, F.linear(features, self.begun.to(features.dtype), bias))
        return _start_detached(result)

    def change(self) -> Tensor:
        """What was learned so far, dW [o, d]; of a module that was made to know what it began as."""
        assert self.begun is not None
        return self.effective() - self.begun

    def moved(self) -> Tensor:
        """The same before the directions that are held are taken out."""
        assert self.begun is not None
        return self.weight - self.begun


class LowRankKV(nn.Module):
    """A K/V projection W0 + up @ down of which only the factors are trained; along `held` [d, r] it stays W0."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        held: Tensor,
        rank: int,
        generator: torch.Generator,
        focus: Focus | None = None,
    ) -> None:
        super().__init__()
        self.focus = focus
        rank = min(rank, *weight.shape)
        self.frozen, self.bias, self.held = weight, bias, held
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))  # [o, r]
        down = torch.randn((rank, weight.shape[1]), generator=generator) / weight.shape[1] ** 0.5
        self.down = nn.Parameter(down.to(weight.device))  # [r, d]

    def factors(self) -> dict[str, Tensor]:
        """The factors that act: up, and down - down H H'."""
        return {"up": self.up, "down": self.down - (self.down @ self.held) @ self.held.T}

    def forward(self, features: Tensor) -> Tensor:
        """[b, l, d] -> [b, l, o]."""
        dtype = features.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        low = features
        for factor in reversed(self.factors().values()):
            low = F.linear(low, factor.to(dtype))
        low = low if self.focus is None else self.focus.choose(low, torch.zeros_like(low))
        return _start_detached(F.linear(features, self.frozen.to(dtype), bias) + low)

    def change(self) -> Tensor:
        """What was learned so far, dW [o, d]."""
        factors = self.factors()
        return factors["up"] @ factors["down"]

    def moved(self) -> Tensor:
        """The same before the directions that are held are taken out."""
        return self.up @ self.down


def _start_detached(result: Tensor) -> Tensor:
    return torch.cat([result[:, :1].detach(), result[:, 1:]], dim=1)
