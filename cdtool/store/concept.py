"""What a concept is: a manifest and tensors in one safetensors file, readable without torch."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import ConceptError, ResourceError
from cdtool.tokens import Token

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
_KEY = "cdtool"  # the header entry that holds the manifest
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
_ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class BaseRef:
    """The base a concept belongs to: what the user called it, its family, and the hash of its K/V weights."""

    name: str
    family: str
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a concept but its numbers."""

    name: str
    base: BaseRef
    tokens: tuple[Token, ...]
    method: str = "kv"
    settings: Mapping[str, Any] = field(default_factory=dict)
    photos: tuple[str, ...] = ()  # sha256 of each photo used
    parents: tuple[Mapping[str, Any], ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)  # of a merge: what it kept (cdtool/fidelity.py)
    created: str = ""  # UTC, ISO 8601
    version: str = ""  # of cdtool
    format: int = FORMAT


@dataclass(frozen=True)
class Shape:
    """A tensor as the header tells it."""

    dtype: str
    shape: tuple[int, ...]


def weight_name(module: str) -> str:
    """The tensor name of the change of a K/V module, e.g. unet.mid_block....attn2.to_k.weight: dW [o, d], fp16.

    Low-rank changes replace it by `<name>.up` [o, r] and `<name>.down` [r, d]; a `down` all layers share is `down`.
    """
    return parameter_name(f"{module}.weight")


def parameter_name(parameter: str) -> str:
    """The tensor name of the change of any parameter of the denoiser, in its own shape, fp16."""
    return f"unet.{parameter}"


def row_name(place: int, encoder: str) -> str:
    """The tensor name of a learned row [d], float32: token `place` (from 0) for "text_encoder" or "text_encoder_2"."""
    return f"token.{place + 1}.{encoder}"


def to_json(manifest: Manifest) -> str:
    """A manifest as JSON."""
    return json.dumps(asdict(manifest), ensure_ascii=False, sort_keys=True)


def from_json(text: str) -> Manifest:
    """A manifest from JSON. Raises ConceptError for what is not one, or is of a newer format."""
    try:
        table = json.loads(text)
        number = int(table["format"])
        if number > FORMAT:
            raise ConceptError(f"It has format {number}, newer than this cdtool reads.", "Update cdtool.")
        known = {entry.name for entry in fields(Manifest)}
        table = {name: value for name, value in table.items() if name in known}
        table["base"] = BaseRef(**table["base"])
        table["tokens"] = tuple(Token(**(token | {"ids": tuple(token["ids"])})) for token in table["tokens"])
        table["photos"], table["parents"] = tuple(table["photos"]), tuple(table["parents"])
        return Manifest(**table)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConceptError(f"Its manifest cannot be read ({error}).") from None


def read_header(path: Path) -> tuple[Manifest, dict[str, Shape]]:
    """A concept file's manifest and tensor shapes, without torch.

    Raises ConceptError for a file that is truncated, not safetensors, or not a concept.
    """
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            size = os.fstat(file.fileno()).st_size
            if length > _LONGEST_HEADER:
                raise ValueError("no safetensors header")
            if length > size - 8:
                raise ConceptError(f"{path} is cut short.", "Copy or train it again.")
            header = json.loads(file.read(length))
        meta = header.pop("__metadata__", {})
        if not isinstance(meta, dict) or _KEY not in meta:
            raise ConceptError(f"{path} is a safetensors file, but not a concept.", "Bring it in with cdtool import.")
        if max((entry["data_offsets"][1] for entry in header.values()), default=0) != size - 8 - length:
            raise ConceptError(f"{path} is cut short.", "Copy or train it again.")
        shapes = {name: Shape(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ConceptError(f"{path} is not a concept file.", "Copy or train it again.") from None
    try:
        return from_json(meta[_KEY]), shapes
    except ConceptError as error:
        raise ConceptError(f"{path}: {error}", error.hint) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a concept file. Raises ConceptError for a damaged one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConceptError(f"{path} cannot be read: {error}.", "Copy or train it again.") from None


def write(path: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Write a concept file at `path` and flush it to the disk; the caller publishes it.

    Raises ResourceError when the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={_KEY: to_json(manifest)})
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        raise ResourceError(f"The concept could not be written to {path.parent}: {error}.", "Free some disk.") from None


def file_size(manifest: Manifest, shapes: Mapping[str, Shape]) -> int:
    """The bytes of a concept file, without writing it: its tensors, and the header as safetensors lays it out."""
    sizes = {name: _ITEM_BYTES[entry.dtype] * math.prod(entry.shape) for name, entry in shapes.items()}
    header: dict[str, Any] = {"__metadata__": {_KEY: to_json(manifest)}}
    end = 0
    for name in sorted(shapes, key=lambda name: (-_ITEM_BYTES[shapes[name].dtype], name)):
        begin, end = end, end + sizes[name]
        entry = shapes[name]
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [begin, end]}
    length = len(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode())
    return 8 + math.ceil(length / 8) * 8 + end


def is_low_rank(shapes: Mapping[str, Shape]) -> bool:
    """Whether the K/V changes are stored as factors, read off the tensor names."""
    return any(name.endswith(".up") for name in shapes)


def numbers(shapes: Mapping[str, Shape]) -> int:
    """How many numbers a concept holds."""
    total = 0
    for entry in shapes.values():
        count = 1
        for side in entry.shape:
            count *= side
        total += count
    return total
