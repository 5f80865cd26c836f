"""What a concept is: a manifest and tensors in one safetensors file, readable without torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cdtool import schema
from cdtool.errors import ConceptError
from cdtool.files import flush, write_error
from cdtool.sources import upgraded
from cdtool.store import headers
from cdtool.store.headers import Shape
from cdtool.tokens import Token

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
KEY = "cdtool"  # the header entry that holds the manifest
_DTYPES = ("F16", "BF16", "F32", "F64")
_TENSOR = re.compile(r"down|unet\.[\w.]+?(?P<factor>\.up|\.down)?|token\.(?P<token>[0-9]{1,4})\.text_encoder(_2)?")


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
    report: Mapping[str, Any] = field(default_factory=dict)  # of a merge: what it kept
    created: str = ""  # UTC, ISO 8601
    version: str = ""  # of cdtool
    format: int = FORMAT


Reach = Literal["prompt", "own words", "everywhere"]


def reach(manifest: Manifest) -> Reach:
    """Which text positions a concept changes.

    "prompt": all of a prompt that is its own, as it was trained; where several share one, its own words and a part of
    the end. "own words": never anything else. "everywhere": always all, as what it should not change it does not.
    """
    if all(token.erased for token in manifest.tokens):
        return "everywhere"
    return "own words" if manifest.settings.get("focus") is True else "prompt"


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


def from_json(text: str | bytes) -> Manifest:
    """A manifest from JSON, every value of its type. Raises ConceptError for anything else, or a newer format."""
    try:
        table = schema.loads(text)
        number = schema.build(_Numbered, table).format
        if number > FORMAT:
            raise ConceptError(f"It has format {number}, newer than this cdtool reads.", "Update cdtool.")
        found = schema.build(Manifest, table)
    except schema.SchemaError as error:
        raise ConceptError(f"Its manifest cannot be read ({error}).") from None
    if not found.tokens or not all(token.noun.strip() for token in found.tokens):
        raise ConceptError("Its manifest cannot be read (it names no token).")
    return replace(found, settings=upgraded(found.settings), parents=tuple(map(upgraded, found.parents)))


@dataclass(frozen=True)
class _Numbered:
    format: int


def read_header(path: Path) -> tuple[Manifest, dict[str, Shape]]:
    """A concept file's manifest and tensor shapes, without torch, both checked whole.

    Raises ConceptError for a file that is truncated, not safetensors, or not a concept.
    """
    again = "Copy or train it again."
    try:
        header = headers.read(path)
        if KEY not in header.metadata:
            raise ConceptError(f"{path} is a safetensors file, but not a concept.", "Bring it in with cdtool import.")
        manifest = from_json(header.metadata[KEY])
        check_shapes(manifest, header.shapes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConceptError(f"{path} cannot be read: {error.strerror}.", again) from None
    except headers.HeaderError as error:
        raise ConceptError(f"{path} is not a concept file: {error}.", again) from None
    except ConceptError as error:
        raise ConceptError(f"{path}: {error}" if str(path) not in str(error) else str(error), error.hint) from None
    return manifest, dict(header.shapes)


def check_shapes(manifest: Manifest, shapes: Mapping[str, Shape]) -> None:
    """Raises ConceptError for tensors that are no concept's: by their names, dtypes, dimensions and ranks."""
    for name, entry in shapes.items():
        if not (found := _TENSOR.fullmatch(name)):
            raise ConceptError(f"Its tensor {schema.shortened(schema.printable(name), 80)} is none of a concept's.")
        dimensions = (1,) if found["token"] else (2,) if found["factor"] or name == "down" else (1, 2, 3, 4)
        if entry.dtype not in _DTYPES or len(entry.shape) not in dimensions or 0 in entry.shape:
            raise ConceptError(f"Its tensor {name} is {entry.dtype} {list(entry.shape)}, which no concept has.")
        if found["token"] and not 1 <= int(found["token"]) <= len(manifest.tokens):
            raise ConceptError(f"Its tensor {name} belongs to no token of it.")
    for name, entry in shapes.items():
        if name.endswith(".up"):
            stem = name.removesuffix(".up")
            down = shapes.get(f"{stem}.down", shapes.get("down"))
            if down is None or down.shape[0] != entry.shape[1] or stem in shapes:
                raise ConceptError(f"Its two factors of {stem} do not fit each other.")
        elif name.endswith(".down") and f"{name.removesuffix('.down')}.up" not in shapes:
            raise ConceptError(f"Its tensor {name} is half of a change.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a concept file, all finite. Raises ConceptError for a damaged one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConceptError(f"{path} cannot be read: {error}.", "Copy or train it again.") from None
    if name := not_finite(found):
        raise ConceptError(f"{path} holds numbers that are not finite ({name}).", "Copy or train it again.")
    return found


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of a tensor that holds a NaN or an infinity, "" where none does."""
    return next((name for name, tensor in tensors.items() if not _is_finite(tensor)), "")


def _is_finite(tensor: Tensor) -> bool:
    low, high = tensor.aminmax()  # both are NaN where one number is; quicker than a mask as large as the tensor
    return bool(low.isfinite()) and bool(high.isfinite())


def write(path: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Write a concept file at `path` and flush it to the disk; the caller publishes it.

    Raises ResourceError when the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path.touch()
        rights = path.stat().st_mode  # the user's own; safetensors lets nobody else read its files
        save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={KEY: to_json(manifest)})
        path.chmod(rights)
        flush(path)
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        raise write_error(path, error) from None


def file_size(manifest: Manifest, shapes: Mapping[str, Shape]) -> int:
    """The bytes of a concept file, without writing it: its tensors, and the header as safetensors lays it out."""
    sizes = {name: headers.ITEM_BYTES[entry.dtype] * math.prod(entry.shape) for name, entry in shapes.items()}
    header: dict[str, Any] = {"__metadata__": {KEY: to_json(manifest)}}
    end = 0
    for name in sorted(shapes, key=lambda name: (-headers.ITEM_BYTES[shapes[name].dtype], name)):
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
    return sum(entry.numbers for entry in shapes.values())
