"""`torch.compile` that may be trusted with the gradients of diffusers' models in bfloat16 on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def twice(x: Tensor, scale_factor: float = 2.0, mode: str = "nearest", **_: Any) -> Tensor:
    """Each pixel of [b, c, h, w] four times: what `interpolate` does, in operations whose compiled gradient is right.

    Compiled for a CPU, the gradient of bfloat16 `interpolate(..., mode="nearest")` is zero (torch 2.13): all that lies
    before an upsampling would stay untrained.
    """
    assert scale_factor == 2.0
    assert mode == "nearest"
    b, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w)


class _Functional:
    """torch.nn.functional with `twice` in place of `interpolate`, for one module of diffusers."""

    interpolate = staticmethod(twice)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.nn.functional, name)


def compiled(function: Function) -> Function:
    """The function compiled; diffusers' upsampling stays patched in this process."""
    import warnings

    from diffusers.models import upsampling

    upsampling.F = _Functional()
    warnings.filterwarnings("ignore", message=".*lru_cache.*")
    return cast("Function", torch.compile(function))
