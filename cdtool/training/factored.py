"""AdamW that keeps less of each matrix: its second moment as two vectors, its first in half precision."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cdtool.training.optimizer import BETAS, EPSILON, AdamW


class FactoredMoments(NamedTuple):
    """What is kept of a matrix [o, d]: the number of its steps, and the means of its gradient and of its square."""

    step: Tensor
    exp_avg: Tensor  # [o, d] bf16
    rows: Tensor  # [o]
    columns: Tensor  # [d]


class FactoredAdamW(AdamW):
    """AdamW whose mean square of a matrix's gradient is the product of its row and column means (as Adafactor's).

    It is the same where that mean square is of rank one; vectors are updated as AdamW does. A convolution counts as a
    matrix of its output channels.
    """

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        whole = self.param_groups
        self.param_groups = [group | {"params": [p for p in group["params"] if p.dim() < 2]} for group in whole]
        try:
            super().step()
        finally:
            self.param_groups = whole
        for group in whole:
            for parameter in group["params"]:
                if parameter.dim() > 1 and parameter.grad is not None:
                    self._update(parameter, parameter.grad.flatten(1), group["lr"], group["weight_decay"])

    def _update(self, parameter: nn.Parameter, gradient: Tensor, lr: float, decay: float) -> None:
        kept = self._factors(parameter, gradient)
        kept.step.add_(1)
        for moment, dim in ((kept.rows, 1), (kept.columns, 0)):
            moment.lerp_(gradient.square().mean(dim=dim), 1 - BETAS[1])
        first = kept.exp_avg.float().lerp_(gradient, 1 - BETAS[0])
        kept.exp_avg.copy_(first)
        steps = float(kept.step)
        scale = kept.rows.mean() * (1 - BETAS[1] ** steps)
        spread = torch.outer(kept.rows / scale.clamp(min=torch.finfo(torch.float32).tiny), kept.columns).sqrt_()
        change = first.div_(1 - BETAS[0] ** steps).div_(spread.add_(EPSILON))
        parameter.mul_(1 - lr * decay).sub_(change.view_as(parameter), alpha=lr)

    def _factors(self, parameter: nn.Parameter, gradient: Tensor) -> FactoredMoments:
        state: dict[nn.Parameter, Any] = self.state
        if parameter not in state:
            state[parameter] = FactoredMoments(
                torch.zeros(()), torch.zeros_like(gradient, dtype=torch.bfloat16),
                gradient.new_zeros(len(gradient)), gradient.new_zeros(gradient.shape[1]),
            )  # fmt: skip
        found: FactoredMoments = state[parameter]
        return found

    def load_state_dict(self, saved: Any) -> None:
        """Take moments over from `state_dict`. Raises KeyError for a parameter that is not there."""
        matrices = {place: moments for place, moments in saved["state"].items() if "rows" in moments}
        super().load_state_dict({"state": {p: m for p, m in saved["state"].items() if p not in matrices}})
        parameters = dict(enumerate(self._parameters()))
        self.state |= {parameters[place]: FactoredMoments(**m) for place, m in matrices.items()}  # type: ignore[misc]
