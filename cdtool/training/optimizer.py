"""AdamW by PyTorch's fused kernel: torch.optim's own class imports the compiler, a second of every short training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Moments(NamedTuple):
    """What AdamW keeps of a parameter: the number of its steps, and the means of its gradient and of its square."""

    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class AdamW:
    """As torch.optim.AdamW(groups, lr=lr, fused=True), to the bit, and its state as that one saves it.

    A parameter without a gradient keeps its value and its moments.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], *, lr: float) -> None:
        self.param_groups = [
            {"lr": lr} | dict(group) for group in groups
        ]  # the name under which a gradient scaler looks for them
        self.state: dict[nn.Parameter, Moments] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moving:
                continue
            steps, first, second = zip(*[self._moments(parameter) for parameter in moving], strict=True)
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                moving, [parameter.grad for parameter in moving], first, second, [], steps,
                lr=group["lr"], beta1=BETAS[0], beta2=BETAS[1], weight_decay=group["weight_decay"], eps=EPSILON,
                amsgrad=False, maximize=False,
            )  # fmt: skip

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The moments by the parameter's place."""
        kept = {place: self.state.get(parameter) for place, parameter in enumerate(self._parameters())}
        return {"state": {place: moments._asdict() for place, moments in kept.items() if moments}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take moments over from `state_dict`. Raises KeyError for a parameter that is not there."""
        parameters = dict(enumerate(self._parameters()))
        self.state = {parameters[place]: Moments(**moments) for place, moments in saved["state"].items()}

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _moments(self, parameter: nn.Parameter) -> Moments:
        if parameter not in self.state:
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            self.state[parameter] = Moments(step, *(torch.zeros_like(parameter) for _ in BETAS))
        return self.state[parameter]
