"""The trained part: K/V weights and token rows, put on a base by context managers that take them off again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdtool import text
from cdtool.concept import row_name, weight_name
from cdtool.errors import BaseError, ConceptError

if TYPE_CHECKING:
    from cdtool.base import Base
    from cdtool.text import Conditioning
    from cdtool.tokens import Token


# ---------------------------------------------------------------- training


class Trained(nn.Module):
    """A K/V projection being trained; the start token's column passes no gradient (reference/algorithm.md 1.5)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float().clone())  # [o, d]
        self.bias = bias

    def forward(self, features: Tensor) -> Tensor:
        """[b, l, d] -> [b, l, o]."""
        bias = None if self.bias is None else self.bias.to(features.dtype)
        result = F.linear(features, self.weight.to(features.dtype), bias)
        return torch.cat([result[:, :1].detach(), result[:, 1:]], dim=1)


@dataclass
class Adapter:
    """What is trained: a module per K/V projection, and per text encoder one row [d] per token."""

    weights: dict[str, Trained]
    rows: list[list[nn.Parameter]]
    tokens: tuple[Token, ...]

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW's parameter groups: decay on K/V, none on rows."""
        rows = [row for encoder in self.rows for row, token in zip(encoder, self.tokens, strict=True) if token.modifier]
        decayed = {"params": [module.weight for module in self.weights.values()], "weight_decay": weight_decay}
        return [decayed, {"params": rows, "weight_decay": 0.0}] if rows else [decayed]

    def parameters(self) -> list[nn.Parameter]:
        """Everything trained, in a fixed order."""
        return [parameter for group in self.groups(0.0) for parameter in group["params"]]


@contextlib.contextmanager
def attached(base: Base, tokens: Sequence[Token]) -> Iterator[Adapter]:
    """While open, the base's text-only K/V are trainable float32 copies of its own; the base stays as it was."""
    unet = cast("nn.Module", base.unet)
    weights = {
        name: Trained(weight.to(base.device), _bias(unet.get_submodule(name), torch.float32))
        for name, weight in base.kv.items()
    }
    rows = [[nn.Parameter(row) for row in encoder] for encoder in text.initial_rows(base, tokens)]
    with _swapped(unet, weights):
        yield Adapter(weights, rows, tuple(tokens))


def changes(base: Base, adapter: Adapter) -> dict[str, Tensor]:
    """The concept's tensors: dW = W - W0 [o, d] in fp16, rows [d] in float32."""
    tensors = {}
    for name, module in adapter.weights.items():
        change = module.weight.detach().cpu() - base.kv[name].float()
        tensors[weight_name(name)] = change.to(torch.float16)
    for encoder, rows in zip(base.family.encoders, adapter.rows, strict=True):
        for place, (row, token) in enumerate(zip(rows, adapter.tokens, strict=True)):
            if token.modifier:
                tensors[row_name(place, encoder)] = row.detach().float().cpu().clone()
    return tensors


# ---------------------------------------------------------------- sampling


class Held(nn.Module):
    """A K/V projection whose result is known: the K or V [b, l, o] of the prompts being drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.value: Tensor | None = None
        self.asked = False

    def forward(self, features: Tensor) -> Tensor:
        """The held value; the features only have to be as many."""
        if self.value is None or self.value.shape[:2] != features.shape[:2]:
            raise BaseError("The denoiser asked for keys of other prompts than it was given.")
        self.asked = True
        return self.value


@dataclass(frozen=True)
class Learned:
    """A concept's numbers on the device: changes per module, dense [o, d] or (up [o, r], down [r, d]), and rows."""

    changes: dict[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)
    rows: tuple[tuple[Tensor, ...], ...] = ((), ())  # per encoder, per token; empty where there is no modifier


def learned(base: Base, tokens: Sequence[Token], tensors: Mapping[str, Tensor]) -> Learned:
    """A concept's tensors made ready for a base. Raises ConceptError when they do not fit it."""
    found: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    for module, weight in base.kv.items():
        change = _change(tensors, weight_name(module), base.device)
        if change is None:
            raise ConceptError(f"The concept holds no change for {module}.", "Train it again on this base.")
        shape = change.shape if isinstance(change, Tensor) else (change[0].shape[0], change[1].shape[1])
        if tuple(shape) != tuple(weight.shape):
            raise ConceptError(f"The concept's {module} is {tuple(shape)}, the base's {tuple(weight.shape)}.")
        found[module] = change
    return Learned(found, _rows(base, tokens, tensors))


def _rows(base: Base, tokens: Sequence[Token], tensors: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], ...]:
    found = []
    for name, encoder in zip(base.family.encoders, base.text_encoders, strict=True):
        width = (encoder.config.hidden_size,)
        own = [tensors.get(row_name(place, name)) if token.modifier else None for place, token in enumerate(tokens)]
        for token, row in zip(tokens, own, strict=True):
            if token.modifier and (row is None or tuple(row.shape) != width):
                told = "lacks the learned row" if row is None else f"has a row of {tuple(row.shape)}, not {width},"
                raise ConceptError(f'The concept {told} of "{token.words()}".', "Train it again on this base.")
        found.append(tuple(torch.empty(0) if row is None else row.float().to(base.device) for row in own))
    return tuple(found)


def _change(tensors: Mapping[str, Tensor], name: str, device: torch.device) -> Tensor | tuple[Tensor, Tensor] | None:
    if name in tensors:
        return tensors[name].float().to(device)
    up, down = tensors.get(f"{name}.up"), tensors.get(f"{name}.down", tensors.get("down"))
    if up is None or down is None:
        return None
    if up.shape[1] != down.shape[0]:
        raise ConceptError(f"The concept's factors for {name} do not fit: ranks {up.shape[1]} and {down.shape[0]}.")
    return up.float().to(device), down.float().to(device)


def keys_and_values(base: Base, what: Learned, features: Tensor) -> dict[str, Tensor]:
    """K or V [b, l, o] of every module for text features [b, l, d], in float32: c W0' + c dW'."""
    features = features.float()
    made = {}
    for module, weight in base.kv.items():
        value = F.linear(features, weight.float().to(base.device))
        change = what.changes.get(module)
        if isinstance(change, Tensor):
            value = value + F.linear(features, change)
        elif change is not None:
            value = value + F.linear(F.linear(features, change[1]), change[0])
        made[module] = value
    return made


@contextlib.contextmanager
def held(base: Base) -> Iterator[Callable[[Mapping[str, Tensor]], None]]:
    """While open, the denoiser takes K/V from what the yielded function was last given (see `keys_and_values`).

    Raises BaseError on leaving when the denoiser ran without asking for them: the concept would have had no effect.
    """
    unet = cast("nn.Module", base.unet)
    modules = {name: Held() for name in base.kv}
    biases = {name: _bias(unet.get_submodule(name), torch.float32) for name in base.kv}

    def give(values: Mapping[str, Tensor]) -> None:
        for name, module in modules.items():
            bias = biases[name]
            module.value = (values[name] if bias is None else values[name] + bias).to(base.dtype)

    with _swapped(unet, modules):
        yield give
    given = [name for name, module in modules.items() if module.value is not None and not module.asked]
    if given:
        raise BaseError(f"The denoiser never asked {given[0]} for its keys; the concept had no effect.")


def encode(base: Base, what: Learned, prompts: Sequence[text.Tokenized]) -> Conditioning:
    """Text features of prompts with the concept's rows in place."""
    with torch.no_grad():
        return text.encode(base, prompts, what.rows)


def _bias(module: nn.Module, dtype: torch.dtype) -> Tensor | None:
    bias = cast("nn.Linear", module).bias
    return None if bias is None else bias.detach().to(dtype)


@contextlib.contextmanager
def _swapped(unet: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """While open, the named submodules of `unet` are others."""
    kept = {name: unet.get_submodule(name) for name in modules}

    def place(chosen: Mapping[str, nn.Module]) -> None:
        for name, module in chosen.items():
            parent, _, leaf = name.rpartition(".")
            setattr(unet.get_submodule(parent), leaf, module)

    place(modules)
    try:
        yield
    finally:
        place(kept)
