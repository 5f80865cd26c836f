"""What a single-file checkpoint holds: the kind of base, its tensors, and what its denoiser predicts."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cdtool.errors import BaseError
from cdtool.schema import loads

UNET, VAE = "model.diffusion_model.", "first_stage_model."
END_TOKEN = "<|endoftext|>"
ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}
_V_FROM = 0.09  # standard deviation of one bias above which an SD 2.x denoiser predicts velocity


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder as a checkpoint holds it; `drop` is the number of last layers left out."""

    prefix: str
    open_clip: bool
    projected: bool = False
    drop: int = 0
    pad: str = END_TOKEN


@dataclass(frozen=True)
class Layout:
    """How the checkpoints of one kind of base are laid out."""

    kind: str
    pipeline: str
    encoders: tuple[TextEncoder, ...]
    heads: int | None  # attention heads; None where a head is 64 wide
    scaling: float  # of the latents
    resolution: int  # px
    scheduler: str


LAYOUTS = (
    Layout("SDXL", "StableDiffusionXLPipeline", (
        TextEncoder("conditioner.embedders.0.transformer.", open_clip=False),
        TextEncoder("conditioner.embedders.1.model.", open_clip=True, projected=True, pad="!"),
    ), None, 0.13025, 1024, "EulerDiscreteScheduler"),
    Layout("SD 2.x", "StableDiffusionPipeline", (
        TextEncoder("cond_stage_model.model.", open_clip=True, drop=1, pad="!"),
    ), None, 0.18215, 512, "DDIMScheduler"),
    Layout("SD 1.x", "StableDiffusionPipeline", (
        TextEncoder("cond_stage_model.transformer.", open_clip=False),
    ), 8, 0.18215, 512, "DDIMScheduler"),
)  # fmt: skip

# Files that hold something else, by the beginning of a name in them.
_OTHERS = {
    "conditioner.embedders.0.model.": "an SDXL refiner",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "lora_": "a LoRA, not a base (to use it: cdtool import)",
    "down_blocks.": "a denoiser alone in diffusers' format",
    "unet.": "a denoiser alone",
    "encoder.down.": "an autoencoder alone (to use it: --vae)",
    "control_model.": "a ControlNet",
}
# Names in a checkpoint that say it was trained with another parameterisation than ours.
_FOREIGN = {
    "edm_mean": "EDM preconditioning",
    "edm_std": "EDM preconditioning",
    "edm_vpred.sigma_max": "EDM preconditioning",
}


class Tensor(NamedTuple):
    """A tensor in a file: its data type, its shape, and where its bytes begin and end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    transposed: bool = False


Tensors = dict[str, Tensor]


def read_header(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises BaseError for a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # checks the header against the file
            pass
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            table = loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise BaseError(f"{path} is damaged: {error}.", "Copy or download it again.") from None
    metadata = table.pop("__metadata__", {})
    start = 8 + length
    return {
        name: Tensor(row["dtype"], tuple(row["shape"]), *(start + offset for offset in row["data_offsets"]))
        for name, row in table.items()
    }, metadata


def has_denoiser(path: Path) -> bool:
    """Whether a safetensors file holds the denoiser of a CompVis checkpoint."""
    try:
        return any(name.startswith(UNET) for name in read_header(path)[0])
    except BaseError:
        return False


def layout_of(tensors: Mapping[str, Tensor], path: Path) -> Layout:
    """Which kind of checkpoint it is. Raises BaseError, saying what else it is."""
    for layout in LAYOUTS:
        needed = [UNET, *(encoder.prefix for encoder in layout.encoders)]
        if all(any(name.startswith(prefix) for name in tensors) for prefix in needed):
            return _checked(layout, tensors, path)
    other = next((what for start, what in _OTHERS.items() if any(name.startswith(start) for name in tensors)), "")
    if any(name.startswith(UNET) for name in tensors) and not other:
        other = "a denoiser without text encoders"
    raise BaseError(
        f"{path} is {other or 'no checkpoint that cdtool knows'}.",
        "Use a whole checkpoint of SD 1.x, 2.x or SDXL, or a diffusers folder.",
    )


def _checked(layout: Layout, tensors: Mapping[str, Tensor], path: Path) -> Layout:
    if foreign := next((what for name, what in _FOREIGN.items() if name in tensors), ""):
        raise BaseError(f"{path} was trained with {foreign}, which has another loss than ours.",
                        "Use an epsilon or v-prediction checkpoint.")  # fmt: skip
    if not any(name.startswith(VAE) for name in tensors):
        raise BaseError(f"{path} has no autoencoder (VAE).", "Use a checkpoint with its VAE baked in.")
    if odd := {row.dtype for row in tensors.values()} - ITEM_BYTES.keys():
        raise BaseError(f"{path} holds {', '.join(sorted(odd))} weights, which cdtool does not read.",
                        "Use the fp16 or fp32 checkpoint.")  # fmt: skip
    return layout


def prediction_of(layout: Layout, source: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """What the denoiser predicts, by the file's marks, its metadata and, for SD 2.x, one tensor. Raises BaseError."""
    said = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key") or ""
    if "flow" in said:
        raise BaseError(f"{source} is a flow-matching model, which has another loss than ours.")
    if "v_pred" in tensors or said in ("v", "v_prediction", "v-prediction"):
        return "v_prediction"
    if said.startswith("eps") or layout.kind != "SD 2.x":
        return "epsilon"
    told = tensors.get(f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias")
    inpainting = tensors[f"{UNET}input_blocks.0.0.weight"].shape[1] == 9
    return "v_prediction" if told and not inpainting and _deviation(source, told) > _V_FROM else "epsilon"


def _deviation(source: Path, tensor: Tensor) -> float:
    import numpy as np

    with source.open("rb") as file:
        file.seek(tensor.begin)
        stored = file.read(tensor.end - tensor.begin)
    if tensor.dtype == "BF16":  # the upper half of a float32
        return float((np.frombuffer(stored, np.uint16).astype(np.uint32) << 16).view(np.float32).std())
    kind: Any = {"F16": np.float16, "F64": np.float64}.get(tensor.dtype, np.float32)
    return float(np.frombuffer(stored, kind).astype(np.float32).std())
