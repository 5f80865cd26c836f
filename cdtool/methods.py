"""The methods a concept can be trained by, a row each: which weights move, and the paper's settings for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

Scope = Callable[[str, Collection[str]], bool]


@dataclass(frozen=True)
class Method:
    """One way to learn a concept; everything that tells it from another is a column here."""

    trains: str  # for people
    scope: Scope  # whether it trains a parameter of the denoiser, by its name and the names of the text-only K/V
    low_rank: bool = False  # the K/V changes are up @ down from the start
    # Of TrainSettings, where they differ from its own: the paper's (appendix E), rates as they take effect.
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _kv(name: str, kv: Collection[str]) -> bool:
    return name.removesuffix(".weight") in kv


def _cross_attention(name: str, kv: Collection[str]) -> bool:
    return any(name.startswith(f"{module.rpartition('.')[0]}.") for module in kv)


def _everything(_: str, __: Collection[str]) -> bool:
    return True


def _nothing(_: str, __: Collection[str]) -> bool:
    return False


METHODS = {
    "kv": Method("keys and values of the text cross-attention", _kv),
    "crossattn": Method("all of the text cross-attention", _cross_attention),
    "full": Method("all of the denoiser", _everything, defaults={"steps": 500, "lr": 8e-6}),
    # Ruiz et al., in the implementation the paper compares with: the rare word stays as it is.
    "dreambooth": Method(
        "all of the denoiser, the rare word as it is",
        _everything,
        defaults={"steps": 1000, "lr": 1e-6, "prior": "generated", "augment": False, "freeze_token": True},
    ),
    "textual-inversion": Method(
        "the word alone",
        _nothing,
        defaults={"steps": 5000, "lr": 4e-2, "prior": "none", "augment": False, "token_init": "class"},
    ),
    # Named in the paper without figures. Its two factors need a higher rate than a whole matrix to move as far.
    "lora": Method("low-rank keys and values of the text cross-attention", _kv, low_rank=True, defaults={"lr": 1e-3}),
}


def beyond_kv(method: str) -> bool:
    """Whether concepts of a method change more of the denoiser than its text-only K/V."""
    return method in METHODS and METHODS[method].scope in (_cross_attention, _everything)


def keys_and_values_only(method: str) -> bool:
    """Whether a method trains text-only K/V, beside words, and nothing else."""
    return METHODS[method].scope is _kv


def words_only(method: str) -> bool:
    """Whether a method leaves the denoiser alone."""
    return METHODS[method].scope is _nothing


def trained(method: str, parameters: Collection[str], kv: Collection[str]) -> list[str]:
    """The denoiser's parameters that a method trains, in the given order; `kv` are its text-only K/V modules."""
    scope = METHODS[method].scope
    return [name for name in parameters if scope(name, kv)]
