"""The factory's training loop: bfloat16 weights at work, float32 masters in the optimizer, resumed where it stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from cdtool.mini.factory import muon

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pace:
    """How a training goes: its length in pictures, its batch, rate, decay, and the share of it that cools down."""

    pictures: int
    batch: int
    rate: float
    weight_decay: float = 1e-2
    warm: int = 200  # updates
    cooling: float = 0.2
    clip: float = 1.0
    average: float = 0.9995  # of the moving average; 0 keeps none
    keep_every: float = 180.0  # seconds
    precision: torch.dtype = torch.bfloat16
    muon: bool = False  # matrices by Muon, all else by AdamW


class Report(NamedTuple):
    """Pictures seen, mean loss since the last report, pictures per second."""

    name: str
    pictures: int
    loss: float
    speed: float


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sized(pace: Pace) -> Pace:
    """The pace for this machine: a GPU takes eight times the batch, at a rate that suits it."""
    return replace(pace, batch=8 * pace.batch, rate=1.5 * pace.rate) if torch.cuda.is_available() else pace


def write(state: object, path: Path) -> None:
    """`torch.save` that never leaves half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


class Masters:
    """The float32 weights behind the working copies of a model, their optimizer and their moving average."""

    def __init__(self, model: nn.Module, pace: Pace) -> None:
        """Take the model's weights as the masters, and turn the model itself to the working precision."""
        self.pace = pace
        self.names = [name for name, weights in model.named_parameters() if weights.requires_grad]
        learned = dict(model.named_parameters())
        self.weights = [learned[name].detach().float().clone().requires_grad_(True) for name in self.names]
        self.average = [one.detach().clone() for one in self.weights] if pace.average else []
        model.to(pace.precision)
        self.working: list[Tensor] = [dict(model.named_parameters())[name] for name in self.names]
        big = muon.matrices(self.weights) if pace.muon else [False] * len(self.weights)
        big = [one and "embedding" not in name for one, name in zip(big, self.names, strict=True)]
        self.big = [at for at, one in enumerate(big) if one]
        self.muon = muon.Muon([self.weights[at] for at in self.big], pace.weight_decay)
        rest = [weights for weights, one in zip(self.weights, big, strict=True) if not one]
        self.optimizer = torch.optim.AdamW(
            rest, lr=pace.rate, weight_decay=pace.weight_decay, betas=(0.9, 0.99), fused=True
        )
        self.update = self.pictures = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update from the working copies' gradients, which are then dropped."""
        gradients = [torch.zeros_like(master) if copy.grad is None else copy.grad.float()
                     for master, copy in zip(self.weights, self.working, strict=True)]  # fmt: skip
        length = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (self.pace.clip / (length + 1e-6)).clamp(max=1.0))
        for master, copy, gradient in zip(self.weights, self.working, gradients, strict=True):
            copy.grad, master.grad = None, gradient
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.big:
            self.muon.step([gradients[at] for at in self.big], rate)
        self.update += 1
        self.pictures += self.pace.batch
        torch._foreach_copy_(self.working, self.weights)
        if self.average:
            decay = min(self.pace.average, (self.update + 1) / (self.update + 20))
            torch._foreach_lerp_(self.average, [one.detach() for one in self.weights], 1 - decay)

    def state(self) -> dict[str, object]:
        """Everything to go on from."""
        state = {
            "model": self._named(self.weights),
            "optimizer": self.optimizer.state_dict(),
            "update": self.update,
            "pictures": self.pictures,
        }
        state["momenta"] = self.muon.momenta
        return state | ({"average": self._named(self.average)} if self.average else {})

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a state; from weights alone, with a fresh optimizer, where it holds no more."""
        self._load(self.weights, state["model"])
        self._load(self.average, state.get("average", state["model"]))
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        if len(stored := state.get("momenta", [])) == len(self.big):  # type: ignore[arg-type]
            self.muon.momenta = list(stored)  # type: ignore[call-overload]
        self.update = int(state["update"])  # type: ignore[call-overload]
        self.pictures = int(state.get("pictures", self.update * self.pace.batch))  # type: ignore[call-overload]
        with torch.no_grad():
            torch._foreach_copy_(self.working, self.weights)

    def _named(self, weights: list[Tensor]) -> dict[str, Tensor]:
        return {name: one.detach() for name, one in zip(self.names, weights, strict=True)}

    def _load(self, weights: list[Tensor], stored: object) -> None:
        assert isinstance(stored, dict)
        with torch.no_grad():
            for name, one in zip(self.names, weights, strict=bool(weights)):
                if name in stored:  # parts that joined later begin untrained
                    one.copy_(stored[name])


def fit(
    name: str, model: nn.Module, loss: Callable[[int], Tensor], folder: Path, pace: Pace,
    minutes: float = float("inf"), beside: Callable[[int], None] | None = None,
) -> Iterator[Report]:  # fmt: skip
    """Train `model` on `loss(update)` into `folder/name.pt`, from there on if it exists; reports about once in 10 s.

    The rate warms up, and falls over the last share of the pictures or of `minutes`, whichever ends first; a later
    sitting goes on at the full rate. `beside` is called after each time the state was kept.
    """
    masters, path = Masters(model, pace), folder / f"{name}.pt"
    if path.exists():
        masters.restore(torch.load(path, map_location=device(), weights_only=True))
    begun = saved = told = time.monotonic()
    first, total, count = masters.update, torch.zeros(()), 0
    while masters.pictures < pace.pictures and time.monotonic() - begun < minutes * 60:
        left = 1 - max(masters.pictures / pace.pictures, (time.monotonic() - begun) / (minutes * 60))
        value = loss(masters.update)
        value.backward()  # type: ignore[no-untyped-call]
        masters.step(pace.rate * min(1.0, (masters.update - first + 1) / pace.warm,
                                     max(0.02, left / max(pace.cooling, 1e-9))))  # fmt: skip
        total, count = total + value.detach().float().cpu(), count + 1
        if (now := time.monotonic()) - told > 10:
            yield Report(name, masters.pictures, float(total) / count, count * pace.batch / (now - told))
            told, total, count = now, torch.zeros(()), 0
        if now - saved > pace.keep_every:
            write(masters.state(), path)
            saved = now
            if beside:
                beside(masters.pictures)
    write(masters.state(), path)
    yield Report(name, masters.pictures, float(total) / max(count, 1), 0.0)
