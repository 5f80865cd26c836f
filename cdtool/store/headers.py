"""The header of a safetensors file: what its tensors are called and how they are shaped, without torch."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdtool import schema
from cdtool.files import open_regular

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_LONGEST = 25_000_000  # bytes of a header; the largest public checkpoint has a tenth of it


class HeaderError(ValueError):
    """A file is no whole safetensors file; the message says why."""


@dataclass(frozen=True)
class Shape:
    """A tensor as the header describes it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    metadata: Mapping[str, str]
    shapes: Mapping[str, Shape]


def read(path: Path) -> Header:
    """The header of a safetensors file whose tensors are all there, one behind the other.

    Raises HeaderError for a file that is damaged or of another kind, OSError for one that cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > _LONGEST or (length > size - 8 and size < 8):
            raise HeaderError("it is no safetensors file")
        if length > size - 8:
            raise HeaderError("it is cut short")
        text = file.read(length)
    try:
        table = schema.loads(text)
    except schema.SchemaError:
        raise HeaderError("it is no safetensors file") from None
    if not isinstance(table, dict):
        raise HeaderError("it is no safetensors file")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError("its metadata is not text")
    return Header(metadata, _shapes(table, size - 8 - length))


def _shapes(table: Mapping[str, Any], size: int) -> dict[str, Shape]:
    found, spans = {}, []
    for name, entry in table.items():
        try:
            shape = Shape(entry["dtype"], tuple(entry["shape"]))
            begin, end = entry["data_offsets"]
            sides_fit = all(type(side) is int and 0 <= side < 2**40 for side in (*shape.shape, begin, end))
            fits = sides_fit and end - begin == shape.numbers * ITEM_BYTES[shape.dtype]
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise HeaderError(f"its tensor {schema.shortened(name, 80)} is not described as safetensors does")
        found[name] = shape
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise HeaderError("its tensors overlap or leave gaps")
        at = end
    if at != size:
        raise HeaderError("it is cut short" if at > size else "it is cut short or has something behind it")
    return found
