"""A concept on a base: its keys and values and its other changes, put in place by context managers that undo it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdtool.errors import BaseError, ConceptError
from cdtool.models import deltas, pipelines, text
from cdtool.models.deltas import Delta
from cdtool.store.concept import parameter_name, row_name

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.models.text import Conditioning
    from cdtool.store.concept import Reach
    from cdtool.tokens import Token


class PrecomputedKV(nn.Module):
    """Stands in for a K or V projection whose output [b, l, o] for the current prompts is known."""

    def __init__(self) -> None:
        super().__init__()
        self.value: Tensor | None = None
        self.was_used = False

    def forward(self, features: Tensor) -> Tensor:
        """The known output; `features` [b, l, d] only have to match it in number and length.

        Raises BaseError where they do not.
        """
        if self.value is None or self.value.shape[:2] != features.shape[:2]:
            raise BaseError("The denoiser was run on other prompts than its keys and values were computed for.")
        self.was_used = True
        return self.value


@dataclass(frozen=True)
class ConceptWeights:
    """A concept's tensors: changes as stored, embeddings in float32 on the device."""

    kv: dict[str, Delta] = field(default_factory=dict)  # dW [o, d] per K/V module; all of them or none
    embeddings: tuple[tuple[Tensor, ...], ...] = ((), ())  # per encoder and token [d]; empty without a modifier
    others: dict[str, Delta] = field(default_factory=dict)  # by parameter name; only of methods beyond K/V
    reach: Reach = "prompt"  # which text positions the K/V changes act at (sampling/routing.py)


def load_weights(base: Base, tokens: Sequence[Token], tensors: Mapping[str, Tensor]) -> ConceptWeights:
    """A concept's tensors prepared for a base. Raises ConceptError when they do not fit it."""
    others = read_deltas(base, tensors)
    kv = {module: others.pop(f"{module}.weight") for module in base.kv if f"{module}.weight" in others}
    if kv and (missing := [module for module in base.kv if module not in kv]):
        raise ConceptError(f"The concept holds no change for {missing[0]}.", "Train it again on this base.")
    return ConceptWeights(kv, _embeddings(base, tokens, tensors), others)


def parameter_of(tensor: str) -> str:
    """The denoiser's parameter that a tensor of a concept changes, "" for token embeddings and a shared `down`."""
    head = parameter_name("")
    return tensor.removeprefix(head).removesuffix(".up").removesuffix(".down") if tensor.startswith(head) else ""


def read_deltas(base: Base, tensors: Mapping[str, Tensor]) -> dict[str, Delta]:
    """Every change of the denoiser in a concept's tensors, by parameter name, as stored.

    Raises ConceptError for one that does not fit the base, as far as its weights are loaded.
    """
    shapes = {f"{module}.weight": weight.shape for module, weight in base.kv.items()}
    if base.unet is not None:
        shapes |= {name: parameter.shape for name, parameter in base.unet.named_parameters()}
    found = {}
    for name in filter(None, dict.fromkeys(map(parameter_of, tensors))):
        delta = deltas.read(tensors, parameter_name(name))
        _check_shape(name, delta, shapes, complete=base.unet is not None)
        found[name] = delta
    return found


def _check_shape(name: str, delta: Delta, shapes: Mapping[str, torch.Size], *, complete: bool) -> None:
    """Raises ConceptError where a base with parameters of these `shapes` has no place for a delta."""
    shape = deltas.shape_of(delta)
    expected = shapes.get(name) if complete else shapes.get(name, torch.Size(shape))
    if expected is None:
        raise ConceptError(f"The base has no {name} that the concept could change.", "Train it again on this base.")
    flat = isinstance(delta, deltas.Factors) and shape == (expected[0], expected[1:].numel())
    if shape != tuple(expected) and not flat:
        raise ConceptError(f"The concept's {name} is {shape}, the base's {tuple(expected)}.")


def _embeddings(base: Base, tokens: Sequence[Token], tensors: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], ...]:
    pipelines.need(base, "text")
    found = []
    for name, encoder in zip(base.family.encoders, base.text_encoders, strict=True):
        width = (encoder.config.hidden_size,)
        own = [tensors.get(row_name(index, name)) if token.modifier else None for index, token in enumerate(tokens)]
        for token, row in zip(tokens, own, strict=True):
            if token.modifier and (row is None or tuple(row.shape) != width):
                wrong = (
                    "lacks the embedding" if row is None else f"has an embedding of {tuple(row.shape)}, not {width},"
                )
                raise ConceptError(f'The concept {wrong} of "{token.words()}".', "Train it again on this base.")
        found.append(tuple(torch.empty(0) if row is None else row.float().to(base.device) for row in own))
    return tuple(found)


def encode(base: Base, weights: ConceptWeights, prompts: Sequence[text.Tokenized]) -> Conditioning:
    """Text features of prompts with the concept's token embeddings in place."""
    with torch.no_grad():
        return text.encode(base, prompts, weights.embeddings)


def keys_and_values(base: Base, weights: ConceptWeights, features: Tensor) -> dict[str, Tensor]:
    """K or V [b, l, o] of every module for text features [b, l, d], in float32: c W0' + c dW'."""
    features = features.float()
    result = {}
    for module, weight in base.kv.items():
        value = F.linear(features, weight.float().to(base.device))
        delta = weights.kv.get(module)
        result[module] = value if delta is None else value + deltas.apply(delta, features)
    return result


@contextlib.contextmanager
def precomputed_kv(base: Base) -> Iterator[Callable[[Mapping[str, Tensor]], None]]:
    """While open, the denoiser takes K/V from what was last passed to the yielded function (see `keys_and_values`).

    Raises BaseError on leaving when the denoiser ran without using them: the concept would have had no effect.
    """
    pipelines.need(base, "unet")
    unet = cast("nn.Module", base.unet)
    modules = {name: PrecomputedKV() for name in base.kv}
    biases = {name: _bias(unet.get_submodule(name), torch.float32) for name in base.kv}

    def set_values(values: Mapping[str, Tensor]) -> None:
        for name, module in modules.items():
            bias = biases[name]
            module.value = (values[name] if bias is None else values[name] + bias).to(base.dtype)

    with override_modules(unet, modules):
        yield set_values
    unused = [name for name, module in modules.items() if module.value is not None and not module.was_used]
    if unused:
        raise BaseError(f"The denoiser never used the keys and values of {unused[0]}; the concept had no effect.")


def _bias(module: nn.Module, dtype: torch.dtype) -> Tensor | None:
    bias = cast("nn.Linear", module).bias
    return None if bias is None else bias.detach().to(dtype)


def changed_parameters(base: Base, weights: ConceptWeights) -> dict[str, Tensor]:
    """The parameters W0 + dW beyond K/V that a concept changes, in the compute precision (see `override_parameters`).

    W0 is read as it is stored: a small change of a weight that was rounded before would be lost in the rounding.
    """
    stored = pipelines.parameters(base, weights.others)
    changed = {}
    for name, delta in weights.others.items():
        weight = stored[name].float().to(base.device)
        changed[name] = (weight + deltas.dense(delta, weight.shape).to(base.device)).to(base.dtype)
    return changed


@contextlib.contextmanager
def override_parameters(unet: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """While open, the named parameters of `unet` are these tensors."""
    owners = {name: unet.get_submodule(name.rpartition(".")[0])._parameters for name in tensors}
    originals = {name: owner[name.rpartition(".")[2]] for name, owner in owners.items()}

    def put(chosen: Mapping[str, Any]) -> None:
        for name, tensor in chosen.items():
            owners[name][name.rpartition(".")[2]] = tensor

    put(tensors)
    try:
        yield
    finally:
        put(originals)


@contextlib.contextmanager
def override_modules(unet: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """While open, the named submodules of `unet` are these modules."""
    originals = {name: unet.get_submodule(name) for name in modules}

    def put(chosen: Mapping[str, nn.Module]) -> None:
        for name, module in chosen.items():
            parent, _, leaf = name.rpartition(".")
            setattr(unet.get_submodule(parent), leaf, module)

    put(modules)
    try:
        yield
    finally:
        put(originals)
