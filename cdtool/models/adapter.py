"""A concept on a base: its keys, values and other changes, put there by context managers that take them off again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdtool.errors import BaseError, ConceptError
from cdtool.models import pipelines, text
from cdtool.store.concept import parameter_name, row_name

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.models.text import Conditioning
    from cdtool.tokens import Token


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


Change = Tensor | tuple[Tensor, Tensor]  # dense, or (up [o, r], down [r, d])


@dataclass(frozen=True)
class Learned:
    """A concept's numbers on the device: changes per K/V module [o, d], rows, and changes of other parameters."""

    changes: dict[str, Change] = field(default_factory=dict)
    rows: tuple[tuple[Tensor, ...], ...] = ((), ())  # per encoder, per token; empty where there is no modifier
    others: dict[str, Change] = field(default_factory=dict)  # by parameter name; none but for methods beyond K/V


def learned(base: Base, tokens: Sequence[Token], tensors: Mapping[str, Tensor]) -> Learned:
    """A concept's tensors made ready for a base. Raises ConceptError when they do not fit it."""
    others = changes_of(base, tensors)
    found = {module: others.pop(f"{module}.weight") for module in base.kv if f"{module}.weight" in others}
    if found and (missing := [module for module in base.kv if module not in found]):
        raise ConceptError(f"The concept holds no change for {missing[0]}.", "Train it again on this base.")
    return Learned(found, _rows(base, tokens, tensors), others)


def parameter_of(tensor: str) -> str:
    """The denoiser's parameter that a tensor of a concept changes, "" for rows and a shared `down`."""
    head = parameter_name("")
    return tensor.removeprefix(head).removesuffix(".up").removesuffix(".down") if tensor.startswith(head) else ""


def changes_of(base: Base, tensors: Mapping[str, Tensor]) -> dict[str, Change]:
    """Every change of the denoiser in a concept's tensors, by parameter name, in float32 on the device.

    Raises ConceptError for one that does not fit the base, as far as its weights are loaded.
    """
    shapes = {f"{module}.weight": weight.shape for module, weight in base.kv.items()}
    if base.unet is not None:
        shapes |= {name: parameter.shape for name, parameter in base.unet.named_parameters()}
    found = {}
    for name in dict.fromkeys(map(parameter_of, tensors)):
        change = _change(tensors, parameter_name(name), base.device) if name else None
        if change is None and name:
            raise ConceptError(f"The concept holds only one of the two factors for {name}.", "Copy or train it again.")
        if change is None:
            continue
        shape = tuple(change.shape) if isinstance(change, Tensor) else (change[0].shape[0], change[1].shape[1])
        wanted = shapes.get(name) if base.unet is not None else shapes.get(name, torch.Size(shape))
        if wanted is None:
            raise ConceptError(f"The base has no {name} that the concept could change.", "Train it again on this base.")
        fits = shape == tuple(wanted) or (isinstance(change, tuple) and shape == (wanted[0], wanted[1:].numel()))
        if not fits:
            raise ConceptError(f"The concept's {name} is {shape}, the base's {tuple(wanted)}.")
        found[name] = change
    return found


def dense(change: Change, shape: torch.Size) -> Tensor:
    """A change as one tensor; factors of a convolution's change lie flat, [o, r] and [r, i k k]."""
    return change if isinstance(change, Tensor) else (change[0] @ change[1]).reshape(shape)


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


def _change(tensors: Mapping[str, Tensor], name: str, device: torch.device) -> Change | None:
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
        made[module] = value if change is None else value + applied(change, features)
    return made


def applied(change: Change, features: Tensor) -> Tensor:
    """What a change adds to K or V [..., o] for text features [..., d]: c dW'."""
    if isinstance(change, Tensor):
        return F.linear(features, change)
    return F.linear(F.linear(features, change[1]), change[0])


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

    with swapped(unet, modules):
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


def changed(base: Base, what: Learned) -> dict[str, Tensor]:
    """The parameters W0 + dW beyond K/V that a concept changes, in the compute precision, for `placed`.

    W0 is read as it is stored: a small change of a weight that was rounded before would be lost in the rounding.
    """
    stored = pipelines.read_parameters(base.folder, what.others)
    made = {}
    for name, change in what.others.items():
        weight = stored[name].float().to(base.device)
        made[name] = (weight + dense(change, weight.shape)).to(base.dtype)
    return made


@contextlib.contextmanager
def placed(unet: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """While open, the named parameters of `unet` are these tensors."""
    owners = {name: unet.get_submodule(name.rpartition(".")[0])._parameters for name in tensors}
    kept = {name: owner[name.rpartition(".")[2]] for name, owner in owners.items()}

    def place(chosen: Mapping[str, Any]) -> None:
        for name, tensor in chosen.items():
            owners[name][name.rpartition(".")[2]] = tensor

    place(tensors)
    try:
        yield
    finally:
        place(kept)


@contextlib.contextmanager
def swapped(unet: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
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
