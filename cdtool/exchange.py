"""The files of other tools: a row per format, with what knows, reads and writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cdtool import exchange_lora, exchange_original, exchange_words
from cdtool.foreign import Content, Found, Layout
from cdtool.parcel import Parcel, Written


@dataclass(frozen=True)
class Format:
    """One kind of file; everything that differs between kinds is a column here."""

    label: str  # for people, and in the manifest of what was imported
    knows: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Content, Layout], Found]
    write: Callable[[Parcel, str], Written] | None = None  # (parcel, folder as the usage shall name it)
    whole: bool = False  # it holds W, not dW
    readme: bool = True


FORMATS = {
    "diffusers": Format(
        "diffusers LoRA", exchange_lora.is_peft, exchange_lora.read_peft, exchange_lora.write_diffusers
    ),
    "kohya": Format(
        "kohya LoRA", exchange_lora.is_kohya, exchange_lora.read_kohya, exchange_lora.write_kohya, readme=False
    ),
    "custom-diffusion": Format(
        "Custom Diffusion example",
        exchange_original.is_example,
        exchange_original.read_example,
        exchange_original.write_example,
        whole=True,
    ),
    "delta.bin": Format("Adobe delta.bin", exchange_original.is_delta, exchange_original.read_delta),
    "delta.ckpt": Format("Adobe delta.ckpt", exchange_original.is_checkpoint, exchange_original.read_checkpoint),
    "embedding": Format("embedding", exchange_words.knows, exchange_words.read),
}
WRITTEN = tuple(name for name, row in FORMATS.items() if row.write)  # what --to offers
