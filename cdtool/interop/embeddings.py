"""Learned words as other tools keep them: embedding files of one row per text encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cdtool.interop.bundle import ExportBundle, File
from cdtool.interop.files import Content, Layout, ParsedCheckpoint, row

if TYPE_CHECKING:
    from torch import Tensor

_UNNAMED = ("emb_params", "*")  # keys that say nothing about the word; it is then the file's name
# SDXL's encoders take the highest id of a prompt for its end, and a word that was added has a higher one.
_END = "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id"
_SDXL = ("clip_l", "clip_g")  # the two encoders of SDXL in kohya's, A1111's and ComfyUI's files


def knows(tensors: Mapping[str, Any]) -> bool:
    """Whether a file holds one learned word and nothing else."""
    return "string_to_param" in tensors or set(tensors) == set(_SDXL) or _is_one_row(tensors)


def _is_one_row(tensors: Mapping[str, Any]) -> bool:
    return len(tensors) == 1 and getattr(next(iter(tensors.values())), "ndim", 0) in (1, 2)


def read(content: Content, _: Layout) -> ParsedCheckpoint:
    """The word of an embedding file and its rows. Raises InputError for several rows a word."""
    tensors = content.tensors
    if "string_to_param" in tensors:
        held = tensors["string_to_param"]
        only = next(iter(held.values()), None) if isinstance(held, Mapping) else None
        name = tensors.get("name")
        word = name if isinstance(name, str) and name else content.stem
        return ParsedCheckpoint(rows={word: [row(content.file, only)]})
    if set(tensors) == set(_SDXL):
        return ParsedCheckpoint(rows={content.stem: [row(content.file, tensors[key]) for key in _SDXL]})
    ((key, tensor),) = tensors.items()
    return ParsedCheckpoint(rows={content.stem if key in _UNNAMED else key: [row(content.file, tensor)]})


def write(
    bundle: ExportBundle, folder: str, name: Callable[[int], tuple[str, str]]
) -> tuple[dict[str, File], list[str]]:
    """A file per word and text encoder for diffusers, and the Python that loads them from `folder`.

    `name` gives the file's stem and the word of the token at a place. A file holds one key, the word: [1, d] float32.
    """
    files = {}
    load = [_END] if any(len(rows) > 1 for rows in bundle.rows.values()) else []
    for place, rows in bundle.rows.items():
        stem, word = name(place)
        for encoder, tensor in rows.items():
            file = f"{stem}.{encoder}.safetensors" if len(rows) > 1 else f"{stem}.safetensors"
            part = f", text_encoder=pipe.{encoder}, tokenizer=pipe.{encoder.replace('text_encoder', 'tokenizer')}"
            files[file] = File({word: tensor[None]})
            load.append(f'pipe.load_textual_inversion("{folder}/{file}"{part if len(rows) > 1 else ""})')
    return files, load


def kohya(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For kohya, A1111 and ComfyUI: one nameless key, or SDXL's two, [1, d] float32; the word is the file's name."""
    keys = _UNNAMED[:1] if len(rows) == 1 else _SDXL
    return {key: tensor[None] for key, tensor in zip(keys, rows.values(), strict=True)}
