"""LoRA files of other tools as they act on a base: on any layer of its denoiser and its text encoders."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cdtool import schema
from cdtool.errors import BaseError, InputError
from cdtool.schema import printable, shortened
from cdtool.store import ldm

if TYPE_CHECKING:
    from collections.abc import Iterator

# lora_unet_FLAT.lora_down.weight, lora_te_FLAT..., lora_te1_..., lora_te2_...; FLAT has "_" for every "."
_KOHYA = re.compile(r"lora_(?P<part>unet|te[12]?)_(?P<module>\w+)\.(?P<leaf>lora_down\.weight|lora_up\.weight|alpha)")
# unet.MODULE.lora_A.weight; unet.MODULE.lora.down.weight; unet.ATTENTION.processor.to_q_lora.up.weight; MODULE.alpha
_PEFT = re.compile(
    r"(?P<part>unet|text_encoder|text_encoder_2)\.(?P<module>.+?)"
    r"(?:\.lora_(?P<ab>[AB])\.weight|[._]lora\.(?P<way>down|up)\.weight|\.(?P<alpha>alpha))"
)
_LDM = re.compile(r"(input|output)_blocks_(\d+)_(\d)_(.+)|(middle_block)_(\d)_(.+)")
_RESNET = {name.replace(".", "_"): name for name in ldm.RESNET}
_OUTER = {old.replace(".", "_"): new.replace(".", "_") for old, new in ldm.UNET.items()}
_UNSUPPORTED = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "lora_mid": "LoCon in Tucker's form",
    "oft_": "OFT",
}


@dataclass(frozen=True)
class LoraChange:
    """A layer's change: scale up [o, r, ...] down [r, i, ...], a convolution's kernel in one of the two."""

    up: Tensor
    down: Tensor
    scale: float

    def of(self, weight: Tensor) -> Tensor:
        """dW [o, i, ...] in float32, of the shape of `weight`. Raises BaseError where it has another."""
        made = self.up.flatten(1).float() @ self.down.flatten(1).float()
        if made.numel() != weight.numel() or len(made) != len(weight):
            raise BaseError(
                f"A LoRA changes {len(made)} x {made.shape[1]} numbers where this base has {tuple(weight.shape)}.",
                "It was made for another kind of base; see: cdtool base show",
            )
        return self.scale * made.reshape(weight.shape)


Changes = dict[str, dict[str, list[LoraChange]]]  # part -> module -> changes


def read(path: Path, weight: float, modules: Mapping[str, list[str]], layers: int) -> Changes:
    """The changes in a file, by part of the pipeline.

    modules  the layers of each part: "unet" and the folders of the text encoders, in their order
    layers   of a block of the denoiser, by which CompVis counts

    Raises InputError for a damaged file, and for anything that is not two factors of a known layer.
    """
    tensors, metadata = _tensors(path)
    encoders = [part for part in modules if part != "unet"]
    flat = {part: {name.replace(".", "_"): name for name in names} for part, names in modules.items()}
    scalings = {part: scaling(path.name, metadata, part) for part in modules}
    pairs: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, module, leaf = _parse_key(name, encoders, flat, layers)
        if module not in modules.get(part, ()):
            raise _refused(path, name)
        pairs.setdefault((part, module), {})[leaf] = tensor
    found: Changes = {}
    for (part, module), pair in pairs.items():
        made = _change(path, module, pair, weight, scalings[part])
        found.setdefault(part, {}).setdefault(module, []).append(made)
    return found


def _parse_key(
    name: str, encoders: list[str], flat: Mapping[str, Mapping[str, str]], layers: int
) -> tuple[str, str, str]:
    """The part, the module and "up", "down" or "alpha" of a tensor's name; an unknown module is ""."""
    if found := _KOHYA.fullmatch(name):
        number = int(found["part"][2:] or 1) - 1 if found["part"] != "unet" else 0
        part = "unet" if found["part"] == "unet" else encoders[number] if number < len(encoders) else ""
        told = found["module"] if part == "unet" else found["module"].removeprefix("text_model_")
        known = flat.get(part, {})
        module = known.get(told) or known.get(_from_compvis(told, layers), "")
        return part, module, found["leaf"].removeprefix("lora_").removesuffix(".weight")
    if found := _PEFT.fullmatch(name):
        module = found["module"].replace(".processor.", ".").removeprefix("text_model.")
        leaf = "alpha" if found["alpha"] else "down" if found["ab"] == "A" or found["way"] == "down" else "up"
        known = flat.get(found["part"], {})
        return found["part"], known.get(module.replace(".", "_"), known.get(_with_output_index(module), "")), leaf
    return "", "", ""


def _with_output_index(module: str) -> str:
    """The oldest attention processors write to_out for to_out.0."""
    return f"{module}.0".replace(".", "_")


def _from_compvis(flat: str, layers: int) -> str:
    """The flat name of a layer that is told by its CompVis name, e.g. input_blocks_4_1_proj_in."""
    found = _LDM.fullmatch(flat)
    if found is None or flat in _OUTER:
        return _OUTER.get(flat, "")
    way, number, member, rest = found.groups()[:4] if found[1] else (None, None, found[6], found[7])
    block = f"{way}_blocks.{number}" if way else "middle_block"
    name = ldm.unet_name(f"{block}.{member}.{_RESNET.get(rest, rest)}.weight", layers)
    return name.removesuffix(".weight").replace(".", "_")


def _change(path: Path, module: str, pair: Mapping[str, Tensor], weight: float, told: Scaling) -> LoraChange:
    up, down = pair.get("up"), pair.get("down")
    if up is None or down is None or up.ndim < 2 or down.ndim < 2 or up.shape[1] != len(down):
        raise InputError(f"The two factors of {module} in {path.name} do not fit each other.", "Copy it again.")
    scale = told.of(module, len(down)) if "alpha" not in pair else float(pair["alpha"].float().mean()) / len(down)
    usable = all(part.is_floating_point() and bool(part.float().isfinite().all()) for part in (up, down))
    if not usable or not math.isfinite(scale):
        raise InputError(f"{module} in {path.name} holds no usable numbers.", "Copy it again.")
    return LoraChange(up, down, weight * scale)


def _refused(path: Path, name: str) -> InputError:
    kind = next((kind for sign, kind in _UNSUPPORTED.items() if sign in name), "")
    if kind:
        return InputError(f"{path.name} is a {kind}, which is no plain LoRA.", "Extract a LoRA from it first.")
    told = shortened(printable(name), 80)
    return InputError(f"{path.name} changes {told}, which this base does not have.", "Is it for another kind of base?")


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path.name} cannot be read ({error}).", "Copy or download it again.") from None


@dataclass(frozen=True)
class Scaling:
    """PEFT's own metadata, as far as it says how a change is scaled."""

    lora_alpha: float | None = None
    alpha_pattern: Mapping[str, float] | None = None
    use_rslora: bool | None = None

    def of(self, module: str, rank: int) -> float:
        """alpha / r of a module; 1 where the file does not say, as diffusers takes it."""
        if self.lora_alpha is None:
            return 1.0
        alpha = (self.alpha_pattern or {}).get(module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def scaling(file: str, metadata: Mapping[str, str], part: str = "unet") -> Scaling:
    """What PEFT's metadata says of a part. Raises InputError for what cannot be read."""
    try:
        table = schema.loads(metadata.get("lora_adapter_metadata", "{}"))
        if isinstance(table, dict):
            table = {name.removeprefix(f"{part}."): value for name, value in table.items()}
        found = schema.build(Scaling, table, "lora_adapter_metadata")
    except schema.SchemaError as error:
        raise InputError(f"The metadata of {file} cannot be read ({error}).", "Copy it again.") from None
    pattern = {name.removeprefix(f"{part}."): alpha for name, alpha in (found.alpha_pattern or {}).items()}
    return Scaling(found.lora_alpha, pattern, found.use_rslora)


# ---------------------------------------------------------------- acting


def layers_of(model: nn.Module) -> list[str]:
    """The layers that a LoRA can change."""
    return [name for name, one in model.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)]


@torch.no_grad()
def add(model: Any, changes: Mapping[str, list[LoraChange]]) -> None:
    """Add changes to the weights of a model that is ours alone. Raises BaseError where shapes differ."""
    for module, weight in _weights(model, changes):
        for change in changes[module]:
            weight.copy_(weight.float() + change.of(weight).to(weight.device))


def _weights(model: Any, changes: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for module in changes:
        yield module, model.get_submodule(module).weight


def added(weights: Mapping[str, Tensor], changes: Mapping[str, list[LoraChange]]) -> dict[str, Tensor]:
    """Weights by module with their changes, in float32 where there are any."""
    made = dict(weights)
    for module in changes.keys() & weights.keys():
        made[module] = weights[module].float() + sum(change.of(weights[module]) for change in changes[module])
    return made
