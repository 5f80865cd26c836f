"""Files of other tools: read without running what is in them, and what they were found to hold."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import InputError, NotFoundError
from cdtool.interop.key_maps import to_flat

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
        if not path.exists():
            raise NotFoundError(f"There is no {path}.", "Check the path.")
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
    with path.open("rb") as file:
        return b'"cdtool":"{' in file.read(4096)  # safetensors writes the metadata first


def read(path: Path) -> Content:
    """A file's tensors; pickles are read for tensors only, nothing in them is run.

    Raises InputError for a file that is damaged, that is no such file, or that needs more than tensors.
    """
    tensors, metadata = _safetensors(path) if path.suffix == ".safetensors" else (_pickle(path), {})
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise InputError(f"{path.name} holds no named tensors.", "Give the files that the training wrote.")
    for name, tensor in tensors_in(tensors):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{path.name} holds numbers that are not finite ({name}).", "Train or copy it again.")
    return Content(path.name, tensors, metadata)


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path.name} is damaged or no safetensors file ({error}).", "Copy it again.") from None


def _pickle(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols, which the errors below tell better
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise InputError(
                f"{path.name} holds more than tensors, and reading that could run code from it, so it was not read.",
                "Save its tensors as safetensors where you trust it, and import that.",
            ) from None
        raise InputError(f"{path.name} is damaged or no PyTorch file.", "Copy it again.") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError, TypeError):
        raise InputError(f"{path.name} is damaged or no PyTorch file.", "Copy it again.") from None


def tensors_in(content: Any, name: str = "") -> Iterable[tuple[str, Tensor]]:
    """Every tensor of nested mappings and lists, with its name."""
    import torch

    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from tensors_in(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for place, value in enumerate(content):
            yield from tensors_in(value, f"{name}.{place}")


def refuse(file: str, others: Iterable[str], layout: Layout, why: str) -> InputError:
    """The error for a file that holds what a concept on this base cannot, naming the first of it."""
    first, *more = sorted(others)
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
    import torch

    shape = tuple(getattr(tensor, "shape", ()))
    if not isinstance(tensor, torch.Tensor) or len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1):
        many = f"{shape[0]} rows for one word" if len(shape) == 2 else "no row for its word"
        raise InputError(f"{file} holds {many}; a word of cdtool has one row.", "Train the word with one vector.")
    return tensor.detach().reshape(-1).float().clone()


def natural(word: str) -> list[tuple[int, str]]:
    """A key that sorts <new2> before <new10>."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", word)]
