"""How other programs spell the denoiser's parameters: CompVis blocks, kohya's flat names, attention processors."""

from __future__ import annotations

import re
from collections.abc import Iterable

LDM = "model.diffusion_model."  # before every name of a CompVis denoiser

_DOWN = re.compile(r"down_blocks\.(\d+)\.attentions\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.attentions\.0\.(.+)")
_UP = re.compile(r"up_blocks\.(\d+)\.attentions\.(\d+)\.(.+)")
_LDM = re.compile(r"(?:(input|output)_blocks\.(\d+)|middle_block)\.1\.(.+)")
_PROCESSOR = re.compile(r"(.+)\.processor\.(to_[a-z]+)_custom_diffusion((?:\.\d+)?\.(?:weight|bias))")


def to_ldm(name: str, layers: int) -> str | None:
    """A module or parameter of an attention block as CompVis spells it; None where it is in no such block.

    `layers` is the UNet's layers per block: a block of the way down has that many and a downsampler, one of the way
    up one more, and CompVis counts them through.
    """
    if found := _DOWN.fullmatch(name):
        return f"input_blocks.{1 + int(found[1]) * (layers + 1) + int(found[2])}.1.{found[3]}"
    if found := _MIDDLE.fullmatch(name):
        return f"middle_block.1.{found[1]}"
    if found := _UP.fullmatch(name):
        return f"output_blocks.{int(found[1]) * (layers + 1) + int(found[2])}.1.{found[3]}"
    return None


def from_ldm(name: str, layers: int) -> str:
    """A CompVis parameter as diffusers spells it; what is in no attention block stays as it is."""
    found = _LDM.fullmatch(name.removeprefix(LDM))
    if found is None:
        return name
    rest = found[3]
    if found[1] is None:
        return f"mid_block.attentions.0.{rest}"
    number = int(found[2])
    if found[1] == "input":
        return f"down_blocks.{(number - 1) // (layers + 1)}.attentions.{(number - 1) % (layers + 1)}.{rest}"
    return f"up_blocks.{number // (layers + 1)}.attentions.{number % (layers + 1)}.{rest}"


def to_flat(module: str, layers: int | None = None) -> str:
    """A module as kohya spells it, e.g. lora_unet_mid_block_..._to_k; with `layers`, its CompVis name flattened."""
    name = (layers and to_ldm(module, layers)) or module
    return f"lora_unet_{name.replace('.', '_')}"


def flat_names(modules: Iterable[str], layers: int) -> dict[str, str]:
    """Modules by their flat name, in both key_maps."""
    return {to_flat(module, spelling): module for module in modules for spelling in (None, layers)}


def to_processor(parameter: str) -> str | None:
    """A parameter of an attention as the public Custom Diffusion example names it, in its attention processor.

    None for one the example does not train.
    """
    attention, dot, leaf = parameter.rpartition(".to_")
    if not dot or leaf not in _LEAVES:
        return None
    name, _, rest = f"to_{leaf}".partition(".")
    return f"{attention}.processor.{name}_custom_diffusion.{rest}"


_LEAVES = {"k.weight", "v.weight", "q.weight", "out.0.weight", "out.0.bias"}


def from_processor(name: str) -> str | None:
    """The parameter that a name of the public example's attention processors stands for; None for any other name."""
    found = _PROCESSOR.fullmatch(name)
    return f"{found[1]}.{found[2]}{found[3]}" if found else None
