"""The files of other tools: a row per format, with what knows, reads and writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cdtool.interop import embeddings, lora, original
from cdtool.interop.bundle import ExportBundle, Written
from cdtool.interop.comfyui import writing as comfyui
from cdtool.interop.files import Content, Layout, ParsedCheckpoint


@dataclass(frozen=True)
class Format:
    """One kind of file; everything that differs between kinds is a column here."""

    label: str  # for people, and in the manifest of what was imported
    knows: Callable[[Mapping[str, Any]], bool] | None = None
    read: Callable[[Content, Layout], ParsedCheckpoint] | None = None
    write: Callable[[ExportBundle, str], Written] | None = None  # (bundle, folder as the usage shall name it)
    holds: Literal["factors", "weights", "concept"] = "factors"  # low-rank dW, W, or the concept's own tensors
    readme: bool = True
    mixed_ranks: bool = False  # whether its readers take the strength of each matrix from its own alpha and rank


FORMATS = {
    "diffusers": Format("diffusers LoRA", lora.is_peft, lora.read_peft, lora.write_diffusers),
    "kohya": Format("kohya LoRA", lora.is_kohya, lora.read_kohya, lora.write_kohya, readme=False, mixed_ranks=True),
    "custom-diffusion": Format(
        "Custom Diffusion example",
        original.is_example,
        original.read_example,
        original.write_example,
        holds="weights",
    ),
    "comfyui-node": Format("ComfyUI node", write=comfyui.write, holds="concept", readme=False),
    "delta.bin": Format("Adobe delta.bin", original.is_delta, original.read_delta),
    "delta.ckpt": Format("Adobe delta.ckpt", original.is_checkpoint, original.read_checkpoint),
    "embedding": Format("embedding", embeddings.knows, embeddings.read),
}
WRITTEN = tuple(name for name, row in FORMATS.items() if row.write)  # what --to offers
