"""Custom Diffusion's own files: the public example's, and Adobe's delta.ckpt and delta.bin, dense and compressed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cdtool.errors import InputError
from cdtool.interop import embeddings as words
from cdtool.interop import key_maps
from cdtool.interop.bundle import ExportBundle, File, Written
from cdtool.interop.files import Content, Layout, ParsedCheckpoint, floats, refuse, row
from cdtool.models.deltas import Factors

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLE_FILE = "pytorch_custom_diffusion_weights.safetensors"
# The documented call, load_attn_procs, has had no effect on these files since diffusers 0.29.
_LOAD = """from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from safetensors.torch import load_file
found = pipe.unet._process_custom_diffusion(load_file("{path}"))
plain = CustomDiffusionAttnProcessor2_0(train_kv=False, train_q_out=False)
pipe.unet.set_attn_processor({{name: found.get(name, plain) for name in pipe.unet.attn_processors}})"""
_ATTENTION = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
_WHY = "that is more than the text cross-attention"


# ---------------------------------------------------------------- the public example


def write_example(bundle: ExportBundle, folder: str) -> Written:
    """The example's files: whole parameters, and a file per word. Raises InputError for what they cannot hold."""
    files, load = {}, []
    if bundle.full:
        files[EXAMPLE_FILE] = File(to_example(bundle.full))
        load.append(_LOAD.format(path=f"{folder}/{EXAMPLE_FILE}"))
    word_files, load_words = words.write(bundle, folder, lambda place: (f"<new{place + 1}>",) * 2)
    prompt = bundle.prompt(lambda place: f"<new{place + 1}>")
    return Written(files | word_files, bundle.example([*load, *load_words], prompt))


def to_example(full: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters W by name as the example's attention processors hold them. Raises InputError for one they do not."""
    names = {name: key_maps.to_processor(name) for name in full}
    if others := [name for name, theirs in names.items() if theirs is None]:
        raise InputError(
            f"The concept changes {others[0]}, which the files of the public example cannot hold.",
            "They hold the text cross-attention and the words.",
        )
    return {str(names[name]): tensor for name, tensor in full.items()}


def is_example(tensors: Mapping[str, Any]) -> bool:
    """Whether a file is the public example's."""
    return any("_custom_diffusion" in name for name in tensors)


def read_example(content: Content, layout: Layout) -> ParsedCheckpoint:
    """The example's parameters W; its pickles have an empty entry for every self-attention. Raises InputError."""
    named = {name: value for name, value in content.tensors.items() if not (isinstance(value, Mapping) and not value)}
    found = {name: key_maps.from_processor(name) for name in named}
    if unknown := [name for name, parameter in found.items() if parameter is None]:
        raise refuse(content.file, unknown, layout, _WHY)
    return _sorted(content, {str(found[name]): value for name, value in named.items()}, layout)


# ---------------------------------------------------------------- Adobe's


def is_delta(tensors: Mapping[str, Any]) -> bool:
    """Whether a file is the delta.bin of Adobe's diffusers scripts."""
    return isinstance(tensors.get("unet"), Mapping)


def read_delta(content: Content, layout: Layout) -> ParsedCheckpoint:
    """The parameters W or changes u v of a delta.bin, and its words; SDXL has two rows a word. Raises InputError."""
    tensors = content.tensors
    if encoders := [name for name in ("text_encoder", "text_encoder_2") if _holds(tensors.get(name))]:
        raise refuse(content.file, encoders, layout, "a concept leaves the text encoder as it is")
    found = _sorted(content, tensors["unet"], layout)
    words = tensors.get("modifier_token")
    words = {} if words is None else words
    if not isinstance(words, Mapping):
        raise InputError(f"{content.file} holds no words under modifier_token.", "Copy it again.")
    for word, value in words.items():
        found.rows[str(word)] = [
            row(content.file, each) for each in (value if isinstance(value, list | tuple) else [value])
        ]
    return found


def _holds(value: Any) -> bool:
    return bool(value) if isinstance(value, Mapping | list | tuple) else value is not None


def is_checkpoint(tensors: Mapping[str, Any]) -> bool:
    """Whether a file is the delta.ckpt of the CompVis code."""
    state = tensors.get("state_dict")
    return isinstance(state, Mapping) and any(str(name).startswith(key_maps.LDM) for name in state)


def read_checkpoint(content: Content, layout: Layout) -> ParsedCheckpoint:
    """The parameters W or changes u v of a delta.ckpt, and row i of `embed` as <newi>. Raises InputError."""
    state = {str(name): value for name, value in content.tensors["state_dict"].items()}
    rows = state.pop("embed", content.tensors.get("embed"))
    found = _sorted(content, {key_maps.from_ldm(name, layout.layers): value for name, value in state.items()}, layout)
    for index, each in enumerate(() if rows is None else floats(content.file, "embed", rows, 2), 1):
        found.rows[f"<new{index}>"] = [row(content.file, each)]
    return found


def _sorted(content: Content, named: Mapping[str, Any], layout: Layout) -> ParsedCheckpoint:
    """Parameters of the text cross-attention, whole or as u v. Raises InputError for any other."""
    attentions = {module.rpartition(".")[0] for module in layout.kv}
    allowed = {f"{attention}.{leaf}" for attention in attentions for leaf in _ATTENTION}
    if others := set(named) - allowed:
        raise refuse(content.file, others, layout, _WHY)
    found = ParsedCheckpoint()
    for name, value in named.items():
        if isinstance(value, Mapping) and {"u", "v"} <= set(value):
            u, v = (floats(content.file, f"{name}.{part}", value[part], 2) for part in "uv")
            if u.shape[1] != v.shape[0]:
                raise InputError(f"The two factors of {name} in {content.file} do not fit.", "Copy it again.")
            found.changes[name] = Factors(u, v)
        else:
            found.full[name] = floats(content.file, name, value, 1, 2)
    return found
