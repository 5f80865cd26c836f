"""Files of other tools: read without running what is in them, and what they were found to hold."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import InputError, NotFoundError, is_out_of_memory
from cdtool.files import open_regular
from cdtool.interop.key_maps import to_flat
from cdtool.schema import printable, shortened
from cdtool.store import headers

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.deltas import Factors

SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")
BUNDLE = "-bundle"  # behind the name of a LoRA file that holds its words too


@dataclass(frozen=True)
class Content:
    """A file as it was read: (nested) names and tensors, and the strings of a safetensors header."""

    file: str  # its name, without folders
    tensors: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.file.rpartition(".")[0] or self.file


@dataclass(frozen=True)
class ParsedCheckpoint:
    """What files hold, in the base's own names: whole parameters W, changes dW, and learned rows by word."""

    full: dict[str, Tensor] = field(default_factory=dict)
    changes: dict[str, Factors] = field(default_factory=dict)
    rows: dict[str, list[Tensor]] = field(default_factory=dict)  # [d] per text encoder, in any order


@dataclass(frozen=True)
class Layout:
    """What a reader must know of a base: its text-only K/V modules and its UNet's layers per block."""

    kv: tuple[str, ...]
    layers: int


def files(paths: Sequence[Path]) -> list[Path]:
    """The files to import: those given, and of folders all that hold tensors, without copies of one another.

    Of NAME.bin beside NAME.safetensors the latter counts, and NAME-bundle.safetensors repeats NAME.safetensors. Raises
    NotFoundError for a path that is not there, InputError for a folder without such files.
    """
    found = []
    for path in paths:
        if not os.path.exists(path):
            raise NotFoundError(f"There is no {shortened(str(path))}.", "Check the path.")
        inside = _inside(path) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path} holds no file that can be imported.", f"Those end in {', '.join(SUFFIXES)}.")
        found += inside
    return list(dict.fromkeys(found))


def _inside(folder: Path) -> list[Path]:
    there = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    safe = {path.stem for path in there if path.suffix == ".safetensors"}
    kept = [path for path in there if path.suffix == ".safetensors" or path.stem not in safe]
    return [path for path in kept
            if not (path.stem.endswith(BUNDLE) and path.stem.removesuffix(BUNDLE) in safe)]  # fmt: skip


def is_concept(path: Path) -> bool:
    """Whether a file is a concept of cdtool's own, whole or cut short."""
    if path.suffix != ".safetensors":
        return False
    try:
        with open_regular(path) as file:
            return b'"cdtool":"{' in file.read(4096)  # safetensors writes the metadata first
    except OSError as error:
        raise _unreadable(path, error) from None


def read(path: Path) -> Content:
    """A file's tensors, all of them plain numbers in memory; nothing in a pickle but tensors is read or run.

    Raises InputError for a file that is damaged, that is no such file, or that needs more than tensors.
    """
    tensors, metadata = _safetensors(path) if path.suffix == ".safetensors" else (_pickle(path), {})
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise InputError(f"{path.name} holds no named tensors.", "Give the files that the training wrote.")
    for name, tensor in tensors_in(tensors):
        if reason := _unusable(tensor):
            told = shortened(printable(name), 80)
            raise InputError(f"{path.name} cannot be used: its {told} {reason}.", "Train or copy it again.")
    return Content(path.name, tensors, metadata)


def _unusable(tensor: Tensor) -> str:
    """Why a tensor cannot be part of a concept, "" where it can."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        return "is sparse, quantized, complex or without numbers"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "claims more numbers than the file holds"
    if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
        return "holds numbers that are not finite, or too large for float32"
    return ""


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        header = headers.read(path)
        return load_file(path), dict(header.metadata)
    except (SafetensorError, headers.HeaderError, ValueError) as error:
        raise InputError(f"{path.name} is damaged or no safetensors file ({error}).", "Copy it again.") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _pickle(path: Path) -> Any:
    import torch

    damaged = InputError(f"{path.name} is damaged or no PyTorch file.", "Copy it again.")
    try:
        open_regular(path).close()
        _check_archive(path)
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols, which the errors below tell better
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise InputError(
                f"{path.name} holds more than tensors, and reading that could run code from it, so it was not read.",
                "Save its tensors as safetensors where you trust it, and import that.",
            ) from None
        raise damaged from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except InputError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise damaged from None  # the reader of pickles raises whatever a damaged one leads it to


def _check_archive(path: Path) -> None:
    """Raises InputError for an archive whose content is larger than its file: PyTorch packs nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > path.stat().st_size:
            raise InputError(f"{path.name} unpacks to more than it is, which no PyTorch file does.", "Copy it again.")


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path.name} cannot be read: {error.strerror or error}.", "Give a file, and check its rights.")


def tensors_in(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested mappings and lists, once each, with its name."""
    import torch

    todo, seen = [("", content)], set()
    while todo:
        name, value = todo.pop()
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:  # one may hold itself
            seen.add(id(value))
            inside = value.items() if isinstance(value, Mapping) else enumerate(value)
            todo += [(f"{name}.{key}" if name else str(key), each) for key, each in inside]


def floats(file: str, name: str, value: Any, *dimensions: int) -> Tensor:
    """A tensor of real numbers with one of these numbers of dimensions and no empty side. Raises InputError."""
    import torch

    known = isinstance(value, torch.Tensor) and value.is_floating_point() and value.element_size() > 1
    if not known or value.ndim not in dimensions or 0 in value.shape:
        told = shortened(printable(name), 80)
        raise InputError(f"{file} holds no usable numbers for {told}.", "Give the files that the training wrote.")
    tensor: Tensor = value
    return tensor if tensor.dtype != torch.float64 else tensor.float()


def refuse(file: str, others: Iterable[str], layout: Layout, why: str) -> InputError:
    """The error for a file that holds what a concept on this base cannot, naming the first of it."""
    first, *more = (shortened(printable(str(name)), 120) for name in sorted(map(str, others)))
    own = {module.rpartition(".")[0] for module in layout.kv}
    own |= {to_flat(attention, spelling) for attention in own for spelling in (None, layout.layers)}
    if "attn2" in first and not any(first.startswith(attention) for attention in own):
        return InputError(
            f"{file} belongs to another base: this one has no {first}.", "Name the one it was trained on: --base NAME"
        )
    return InputError(
        f"{file} changes {first}{f' and {len(more)} more' if more else ''}; {why}.",
        "A concept is K/V of the text cross-attention and its words, nothing else.",
    )


def row(file: str, tensor: Any) -> Tensor:
    """One learned row [d] of a tensor [d] or [1, d], on its own memory. Raises InputError for several or for none."""
    found = floats(file, "its word", tensor, 1, 2)
    if found.ndim == 2 and found.shape[0] != 1:
        raise InputError(
            f"{file} holds {found.shape[0]} rows for one word; a word of cdtool has one row.",
            "Train the word with one vector.",
        )
    return found.detach().reshape(-1).float().clone()


def natural(word: str) -> list[tuple[int, str]]:
    """A key that sorts <new2> before <new10>."""
    parts = re.split(r"([0-9]{1,18})", word)  # words and numbers in turn
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]
