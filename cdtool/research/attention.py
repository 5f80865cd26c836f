"""What a concept changed in the denoiser, and where its words are looked for: the paper's figures 3 and 19."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn import functional as F

from cdtool.errors import ConceptError
from cdtool.models import adapter, deltas, denoiser, text
from cdtool.sampling import sample
from cdtool.store.subject import tokens_of
from cdtool.tokens import bind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor, nn

    from cdtool.models.pipelines import Base
    from cdtool.settings import SampleSettings
    from cdtool.store.registry import Concept
    from cdtool.tokens import Prompt, Token

CROSS, SELF, REST = "cross-attention", "self-attention", "the rest"
READ = 48  # layers whose weights are read at once


# ---------------------------------------------------------------- figure 3: how much changed, where


@dataclass(frozen=True)
class Layer:
    """A layer of the denoiser: its kind, how many numbers it holds, and |theta' - theta| / |theta| (Frobenius)."""

    name: str
    kind: str
    numbers: int
    change: float


@dataclass(frozen=True)
class Changes:
    """Every layer of a denoiser and what a concept did to it."""

    layers: tuple[Layer, ...]

    def of(self, kind: str) -> list[float]:
        """The relative changes of the layers of a kind, in the order of the denoiser."""
        return [layer.change for layer in self.layers if layer.kind == kind]

    def summary(self) -> dict[str, dict[str, float]]:
        """By kind: mean relative change, layers, layers that changed, and the kind's share of all numbers."""
        total = sum(layer.numbers for layer in self.layers)
        found = {}
        for kind in (CROSS, SELF, REST):
            values = self.of(kind)
            numbers = sum(layer.numbers for layer in self.layers if layer.kind == kind)
            found[kind] = {
                "mean": sum(values) / max(len(values), 1),
                "layers": len(values),
                "changed": sum(value > 0 for value in values),
                "share": numbers / max(total, 1),
            }
        return found


def changes(base: Base, tensors: Mapping[str, Tensor]) -> Changes:
    """The relative change of every layer (a module's weight and bias together) by a concept's tensors.

    The base's weights are read a few layers at a time; its denoiser need not be loaded. Raises ConceptError for
    changes that do not fit the base, BaseError for damaged weights.
    """
    unet = denoiser.empty_unet(base.unet_config)
    layers = {name: [f"{name}.{leaf}" for leaf, _ in module.named_parameters(recurse=False)]
              for name, module in unet.named_modules()}  # fmt: skip
    layers = {name: parameters for name, parameters in layers.items() if parameters}
    changed = adapter.read_deltas(replace(base, unet=unet), tensors)
    crossing, looking = _attention(unet)
    made, names = [], list(layers)
    for start in range(0, len(names), READ):
        part = names[start : start + READ]
        stored = denoiser.read_parameters(base.folder, [parameter for name in part for parameter in layers[name]])
        for name in part:
            parent = name.rpartition(".")[0].removesuffix(".to_out")
            kind = CROSS if parent in crossing else SELF if parent in looking else REST
            made.append(_layer(name, kind, {parameter: stored[parameter] for parameter in layers[name]}, changed))
    return Changes(tuple(layer for layer in made if layer is not None))


def _attention(unet: nn.Module) -> tuple[set[str], set[str]]:
    """The names of the attention modules that read text, and of the others."""
    kinds = {name: bool(cast("Any", module).is_cross_attention) for name, module in unet.named_modules()
             if hasattr(module, "is_cross_attention")}  # fmt: skip
    return {name for name, cross in kinds.items() if cross}, {name for name, cross in kinds.items() if not cross}


def _layer(name: str, kind: str, stored: Mapping[str, Tensor], changed: Mapping[str, deltas.Delta]) -> Layer | None:
    """A layer's relative change; None of one that is zero in the base, where there is no relation."""
    before = sum(float(weight.double().square().sum()) for weight in stored.values())
    after = 0.0
    for parameter, weight in stored.items():
        if parameter in changed:
            after += float(deltas.dense(changed[parameter], weight.shape).double().square().sum())
    numbers = sum(weight.numel() for weight in stored.values())
    return Layer(name, kind, numbers, (after / before) ** 0.5) if before else None


# ---------------------------------------------------------------- figure 19: where words are looked for


@dataclass(frozen=True)
class Word:
    """A word of a prompt, the text positions it takes, and its attention [h, w]: at each latent cell the share of
    attention its positions get, averaged over heads, layers and steps.
    """

    text: str
    positions: tuple[int, ...]
    map: NDArray[np.float32]

    @property
    def share(self) -> float:
        """Its mean share of the attention, in [0, 1]."""
        return float(self.map.mean())


@dataclass(frozen=True)
class Attended:
    """A picture, the attention of each word of its prompt, and what went to the start token and to the end of text."""

    image: Image.Image
    words: tuple[Word, ...]
    start: float
    end: float


@dataclass
class Watch:
    """Attention summed up while it is watched: [l, h, w] over `seen` layers and steps."""

    cells: tuple[int, int]  # h, w of the latents
    total: Tensor | None = None
    seen: int = 0

    def add(self, shares: Tensor) -> None:
        """Take in the shares [heads, cells, l] of one layer at one step, brought to the latents' resolution."""
        height, width = self.cells
        shrink = (height * width / shares.shape[1]) ** 0.5
        grid = shares.mean(dim=0).T.reshape(-1, round(height / shrink), round(width / shrink))
        full = F.interpolate(grid[None], size=self.cells, mode="bilinear", align_corners=False)[0].cpu()
        self.total = full if self.total is None else self.total + full
        self.seen += 1

    def mean(self) -> Tensor:
        """The average [l, h, w]. Raises ConceptError where no attention was seen."""
        if self.total is None:
            raise ConceptError("The denoiser attended to no text.")
        return self.total / self.seen


def shares(attention: Any, hidden: Tensor, context: Tensor) -> Tensor:
    """softmax(Q K' / sqrt(d)) of an attention module: hidden [b, n, d], context [b, l, d] -> [b, heads, n, l]."""
    query, key = attention.to_q(hidden), attention.to_k(context)
    query, key = (side.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for side in (query, key))
    query = query if getattr(attention, "norm_q", None) is None else attention.norm_q(query)
    key = key if getattr(attention, "norm_k", None) is None else attention.norm_k(key)
    return torch.softmax(query.float() @ key.float().transpose(-1, -2) * attention.scale, dim=-1)


@contextlib.contextmanager
def watched(base: Base, cells: tuple[int, int]) -> Iterator[Watch]:
    """While open, the text cross-attention of the last picture of every batch is summed up; the base stays as it is.

    The last one has the prompt: guidance puts the picture without it first. `cells` is (h, w) of the latents.
    """
    watch = Watch(cells)

    def look(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        hidden = args[0] if args else given["hidden_states"]
        context = given["encoder_hidden_states"] if "encoder_hidden_states" in given else args[1]
        with torch.no_grad():
            watch.add(shares(module, hidden, context)[-1])

    unet = cast("nn.Module", base.unet)
    names = dict.fromkeys(name.rpartition(".")[0] for name in base.kv)
    hooks = [unet.get_submodule(name).register_forward_pre_hook(look, with_kwargs=True) for name in names]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def attend(
    base: Base,
    concepts: Sequence[Concept],
    prompt: str,
    settings: SampleSettings,
    *,
    weights: Sequence[float] = (),
    force: bool = False,
) -> Attended:
    """Draw one picture of a prompt and watch where each of its words is looked for.

    Raises what `sampling.generate` raises.
    """
    width, height = sample.image_size(base, settings)
    tokens = tokens_of(concepts)
    drawing = sample.generate(base, concepts, [prompt], replace(settings, count=1), weights=weights, force=force)
    with watched(base, (height // base.latent_factor, width // base.latent_factor)) as watch:
        (drawn,) = islice(drawing, 1)
        drawing.close()  # type: ignore[attr-defined]
    maps = watch.mean().numpy()
    named = [(word, positions, maps[list(positions)].sum(axis=0))
             for word, positions in words(base, bind(prompt, tokens), tokens)]  # fmt: skip
    end = 1 + sum(len(positions) for _, positions, _ in named)
    return Attended(
        drawn.image, tuple(Word(*one) for one in named), float(maps[0].mean()), float(maps[end:].sum(axis=0).mean())
    )


def words(base: Base, prompt: Prompt, tokens: Sequence[Token]) -> list[tuple[str, tuple[int, ...]]]:
    """The words of a prompt in order with the text positions each takes, modifier tokens under their own names."""
    told = text.tokenize(base, prompt, tokens)
    slots = {slot.position: slot.token for slot in told.slots[0]}
    tokenizer = base.tokenizers[0]
    found: list[tuple[str, tuple[int, ...]]] = []
    part = ""
    places: list[int] = []
    for position, number in enumerate(told.ids[0][1:], 1):
        if position in slots:
            sign = "*" if len(tokens) == 1 else str(slots[position] + 1)
            found.append((f"V{sign}", (position,)))
            continue
        if number == tokenizer.eos_token_id:
            break
        piece = str(tokenizer.convert_ids_to_tokens(number))
        part, places = part + piece.removesuffix("</w>"), [*places, position]
        if piece.endswith("</w>"):
            found.append((part, tuple(places)))
            part, places = "", []
    return found
