"""The trained part of a base: the parameters of a method, put on it by a context manager that takes them off again."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from cdtool import methods
from cdtool.errors import ConceptError, TrainingError, UsageError
from cdtool.models import adapter, deltas, denoiser, initializers, pipelines, text
from cdtool.settings import TrainSettings
from cdtool.store.concept import parameter_name, row_name, weight_name
from cdtool.training.projections import Focus, LowRankKV, TrainedKV

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.tokens import Token


@dataclass(frozen=True)
class Start:
    """The concept a training goes on from: its tensors, how many tokens it holds, and the hash of its file."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: int = 0
    sha256: str = ""


class TrainedParameter(NamedTuple):
    """A trained parameter, the name of the tensor it is saved as, and a mark of what it was before training."""

    name: str
    parameter: nn.Parameter
    decays: bool
    mark: tuple[float, float] | None  # None where it need not move: a factor whose other one is still zero


@dataclass
class Trainable:
    """What is trained: K/V modules, other parameters of the denoiser, and of each text encoder the rows [d]."""

    base: Base
    tokens: tuple[Token, ...]
    modules: Mapping[str, TrainedKV | LowRankKV]
    weights: Mapping[str, nn.Parameter]  # float32, by parameter name
    rows: Sequence[Sequence[Tensor]]  # per encoder, per token; those that are learned are parameters
    kept: Mapping[str, Tensor]  # tensors of the concept it began as that nothing here trains
    parts: Sequence[TrainedParameter] = ()
    originals: Mapping[str, nn.Module] = field(default_factory=dict)  # what `modules` stand for
    before: Mapping[str, Tensor] = field(default_factory=dict)  # what `weights` stand for
    focus: Focus | None = None

    def groups(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """AdamW's parameter groups: decay on the denoiser's weights; none on rows, whose rate may be another."""
        groups = [
            {"params": [part.parameter for part in self.parts if part.decays], "weight_decay": settings.weight_decay},
            {
                "params": [part.parameter for part in self.parts if not part.decays],
                "weight_decay": 0.0,
                "lr": settings.token_lr or settings.lr,
            },
        ]
        return [group for group in groups if group["params"]]

    def parameters(self) -> list[nn.Parameter]:
        """Everything trained, in a fixed order."""
        return [part.parameter for part in self.parts]

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """While open, for a forward pass and the backward pass of it, the denoiser has the trained weights."""
        cast_ = {name: parameter.to(self.base.dtype) for name, parameter in self.weights.items()}
        with adapter.override_parameters(self.base.unet, cast_):
            yield

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """While open, the denoiser is the base's own, without gradients."""
        weights = adapter.override_parameters(self.base.unet, self.before)
        with torch.no_grad(), weights, adapter.override_modules(self.base.unet, self.originals):
            yield

    def check_moved(self, without_gradient: Collection[str] = ()) -> None:
        """Raises TrainingError where something is as it was, or is named as what weight decay alone can have moved."""
        for part in self.parts:
            if part.mark is not None and (part.name in without_gradient or _mark(part.parameter) == part.mark):
                raise TrainingError(
                    f"Training changed nothing in {_told(part.name)}; nothing was saved.", "Please report it."
                )


def _told(name: str) -> str:
    kind, _, rest = name.partition(".")
    return f"the learned row {rest.partition('.')[0]}" if kind == "token" else rest


@contextlib.contextmanager
def attached(
    base: Base, tokens: Sequence[Token], settings: TrainSettings | None = None, start: Start | None = None
) -> Iterator[Trainable]:
    """While open, what the settings' method trains is a float32 copy of the base's own; the base stays as it was.

    With `start` everything begins as that concept left it, and the rows of its tokens stay. Raises UsageError where a
    method has nothing to train, ConceptError where the concept does not fit the base.
    """
    settings, start = settings or TrainSettings(), start or Start()
    pipelines.need(base, "unet", "text")
    begin = adapter.read_deltas(base, start.tensors)
    named = [name for name, _ in base.unet.named_parameters()]
    chosen = methods.trained(settings.method, named, tuple(base.kv))
    idle = [name for name in begin if name not in chosen]
    focus = Focus() if settings.focus else None
    modules = _modules(base, chosen, settings, begin, focus)
    inside = {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}
    others = _begun(base, [name for name in chosen if name not in inside], begin)
    weights = {name: nn.Parameter(value) for name, value in others.items()}
    kept = {name: tensor for name, tensor in start.tensors.items() if adapter.parameter_of(name) in idle}
    if kept and "down" in start.tensors:
        kept["down"] = start.tensors["down"]
    made = Trainable(base, tuple(tokens), modules, weights, _rows(base, tokens, settings, start), kept)
    made.parts, made.focus = _parts(made), focus
    made.originals = {name: base.unet.get_submodule(name) for name in modules}
    made.before = {name: base.unet.get_parameter(name) for name in weights}
    if not made.parts:
        raise UsageError("There is nothing to learn.", 'Give the thing a word of its own, like --token "V* dog".')
    frozen = {name: value.to(base.dtype) for name, value in _begun(base, idle, begin).items()}
    without = base.sparing and settings.prior != "self"  # which predicts with the base's own K/V too
    if base.sparing:
        pipelines.forget_pages(base)
    if without:
        _empty(made)
    try:
        with adapter.override_parameters(base.unet, frozen), adapter.override_modules(base.unet, modules):
            yield made
    finally:
        if without:
            pipelines.free(base, "unet")


def _empty(made: Trainable) -> None:
    """Free the base's own weights of the K/V that are trained; what stands in for them holds what it needs."""
    for module in made.originals.values():
        linear = cast("nn.Linear", module)
        linear.weight = nn.Parameter(linear.weight.new_empty(0), requires_grad=False)


def changes(made: Trainable) -> dict[str, Tensor]:
    """The concept's tensors: W - W0 in fp16 (or up, down), rows [d] in float32; what `start` held comes along."""
    tensors = dict(made.kept)
    stored = denoiser.read_parameters(made.base.folder, made.weights)
    for name, parameter in made.weights.items():
        tensors[parameter_name(name)] = _change(parameter, stored[name])
    for module, trained in made.modules.items():
        if isinstance(trained, LowRankKV):
            for leaf, factor in trained.factors().items():
                tensors[f"{weight_name(module)}.{leaf}"] = factor.detach().half().cpu()
            continue
        tensors[weight_name(module)] = _change(trained.effective(), made.base.kv[module])
        if isinstance(trained.bias, nn.Parameter):
            before = denoiser.read_parameters(made.base.folder, [f"{module}.bias"])
            tensors[parameter_name(f"{module}.bias")] = _change(trained.bias, before[f"{module}.bias"])
    for encoder, rows in zip(made.base.family.encoders, made.rows, strict=True):
        for place, (row, token) in enumerate(zip(rows, made.tokens, strict=True)):
            if token.modifier:
                tensors[row_name(place, encoder)] = row.detach().float().cpu().clone()
    return tensors


def _change(parameter: Tensor, before: Tensor) -> Tensor:
    return (parameter.detach().cpu() - before.float()).to(torch.float16)


def _modules(
    base: Base,
    chosen: Collection[str],
    settings: TrainSettings,
    begin: Mapping[str, deltas.Delta],
    focus: Focus | None,
) -> dict[str, TrainedKV | LowRankKV]:
    """The K/V modules that are trained, as what they begin as."""
    low_rank = methods.METHODS[settings.method].low_rank
    names = [module for module in base.kv if f"{module}.weight" in chosen]
    if low_rank and begin:
        raise UsageError("Low-rank factors begin at the base, not at a concept.", "Go on with --method kv.")
    generator = torch.Generator().manual_seed(settings.seed)
    held = text.empty_directions(base, settings.preserve_uncond).to(base.device)
    made: dict[str, TrainedKV | LowRankKV] = {}
    for module in names:
        linear = cast("nn.Linear", base.unet.get_submodule(module))
        bias = None if linear.bias is None else linear.bias.detach().float()
        if low_rank:
            made[module] = LowRankKV(linear.weight.detach(), bias, held, settings.rank, generator, focus)
            continue
        trains_bias = bias is not None and f"{module}.bias" in chosen
        leaves = [f"{module}.weight", *([f"{module}.bias"] if trains_bias else [])]
        begun = _begun(base, leaves, begin)
        made[module] = TrainedKV(
            begun[leaves[0]], begun.get(f"{module}.bias", bias), held, train_bias=trains_bias,
            begun=settings.prior == "text" or settings.lock > 0, focus=focus,
        )  # fmt: skip
    return made


def _begun(base: Base, names: Sequence[str], begin: Mapping[str, deltas.Delta]) -> dict[str, Tensor]:
    """W0 + dW of parameters of the denoiser, in float32 on the device."""
    kv = {f"{module}.weight": weight for module, weight in base.kv.items()}
    stored = denoiser.read_parameters(base.folder, [name for name in names if name not in kv])
    made = {}
    for name in names:
        weight = kv.get(name, stored.get(name))
        assert weight is not None
        value = weight.float().to(base.device)
        made[name] = value + deltas.dense(begin[name], value.shape) if name in begin else value.clone()
    return made


def _rows(base: Base, tokens: Sequence[Token], settings: TrainSettings, start: Start) -> list[list[Tensor]]:
    """The rows [d] of each encoder's tokens: those of the concept it goes on from as they are, new ones to learn."""
    made: list[list[Tensor]] = []
    initial = initializers.initial_embeddings(base, tokens, settings.token_init, settings.seed)
    for encoder, rows in zip(base.family.encoders, initial, strict=True):
        own: list[Tensor] = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if place < start.tokens and token.modifier:
                before = start.tensors.get(row_name(place, encoder))
                if before is None or before.shape != row.shape:
                    raise ConceptError(f'The concept has no row of "{token.words()}" that fits {base.name}.')
                own.append(before.float().to(base.device))
            else:
                learned = token.modifier and not settings.freeze_token and place >= start.tokens
                own.append(nn.Parameter(row) if learned else row)
        made.append(own)
    return made


def _parts(made: Trainable) -> list[TrainedParameter]:
    found: list[tuple[str, nn.Parameter, bool]] = []
    for module, trained in made.modules.items():
        if isinstance(trained, LowRankKV):
            found += [(f"{weight_name(module)}.{leaf}", getattr(trained, leaf), True) for leaf in ("up", "down")]
            continue
        found.append((weight_name(module), trained.weight, True))
        if isinstance(trained.bias, nn.Parameter):
            found.append((parameter_name(f"{module}.bias"), trained.bias, True))
    found += [(parameter_name(name), parameter, True) for name, parameter in made.weights.items()]
    for encoder, rows in zip(made.base.family.encoders, made.rows, strict=True):
        found += [(row_name(place, encoder), row, False) for place, row in enumerate(rows)
                  if isinstance(row, nn.Parameter)]  # fmt: skip
    return [TrainedParameter(name, parameter, decays, None if name.endswith(".down") else _mark(parameter))
            for name, parameter, decays in found]  # fmt: skip


def _mark(parameter: Tensor) -> tuple[float, float]:
    """Sum and sum of squares: any training changes them, and no second copy of the weights is needed to tell."""
    value = parameter.detach()
    value = value.cpu() if value.device.type == "mps" else value  # which has no float64
    return float(value.sum(dtype=torch.float64)), float(value.square().sum(dtype=torch.float64))
