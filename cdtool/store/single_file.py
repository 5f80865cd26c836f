"""Single-file checkpoints (.safetensors, .ckpt) of SD 1.x, 2.x and SDXL, rewritten once as a diffusers folder.

Weights are copied byte for byte under other names, so neither torch nor memory for them is needed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cdtool.errors import BaseError
from cdtool.files import workplace
from cdtool.settings import cache_dir
from cdtool.store import checkpoints, ldm
from cdtool.store.checkpoints import END_TOKEN, ITEM_BYTES, UNET, VAE, Layout, Tensor, Tensors, TextEncoder

SUFFIXES = (".safetensors", ".ckpt")
_CHUNK = 1 << 24  # bytes copied at once
_FORMAT = 1  # counts up when the same file would become another folder
_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")  # some files hold a loss and averages too
_START_TOKEN = "<|startoftext|>"


# ---------------------------------------------------------------- finding


def folder(path: Path) -> Path:
    """The diffusers folder of a checkpoint, converted into the cache on first use.

    Raises BaseError for a file that is damaged, incomplete, or not Stable Diffusion 1.x, 2.x or XL.
    """
    target = _target(path)
    if (target / "model_index.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with workplace(target.parent) as work, _as_safetensors(path, work) as source:
        _convert(source, path, work / target.name)
        with contextlib.suppress(OSError):  # another process was faster
            os.replace(work / target.name, target)
    return target


def vae_folder(path: Path, scaling: float) -> Path:
    """The diffusers folder of an autoencoder's single file, converted into the cache on first use.

    `scaling` is what the base multiplies latents by, which such a file does not say. Raises BaseError for a file that
    is damaged or no autoencoder.
    """
    target = _target(path).with_suffix(f".vae-{scaling:g}")
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with workplace(target.parent) as work, _as_safetensors(path, work) as source:
        tensors, _ = checkpoints.read_header(source)
        vae = _below(tensors, VAE) or dict(tensors)
        vae = {name: row for name, row in vae.items() if name.startswith(_VAE_PARTS)}
        if not ldm.vae_levels(_shapes(vae)):
            hint = "Use the folder it came from." if any(".down_blocks." in name for name in vae) else ""
            raise BaseError(f"{path} is no autoencoder as CompVis names it.", hint)
        try:
            components, config = _autoencoder(vae, scaling)
        except KeyError as error:
            raise BaseError(f"{path} is incomplete: it has no {error.args[0]}.", "Copy or download it again.") from None
        (work / target.name).mkdir()
        _write_tensors(source, components, work / target.name / "diffusion_pytorch_model.safetensors")
        _write_json(work / target.name / "config.json", config)
        with contextlib.suppress(OSError):  # another process was faster
            os.replace(work / target.name, target)
    return target


def _autoencoder(tensors: Tensors, scaling: float) -> tuple[Tensors, dict[str, Any]]:
    """An autoencoder's tensors under diffusers' names, and its configuration."""
    levels = ldm.vae_levels(_shapes(tensors))
    renamed = {name: _linear(name, row) for name, row in _renamed(tensors, ldm.vae_name, levels).items()}
    return renamed, ldm.vae_config(_shapes(tensors), scaling=scaling)


def _target(path: Path) -> Path:
    about = path.stat()
    place = f"{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode()
    note = cache_dir() / "bases" / f"{hashlib.sha256(place).hexdigest()[:32]}.sha256"
    try:
        content = note.read_text(encoding="ascii")
    except OSError:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(content, encoding="ascii")
    return note.with_name(f"{content[:24]}-{_FORMAT}")


@contextlib.contextmanager
def _as_safetensors(path: Path, work: Path) -> Iterator[Path]:
    """The file itself, or its tensors as a temporary safetensors file; pickles are read as weights only."""
    if path.suffix != ".ckpt":
        yield path
        return
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseError(f"{path} holds more than weights or is damaged ({reason}).", "Use its .safetensors.") from None
    weights = content.get("state_dict", content)
    made = work / "weights.safetensors"
    save_file({name: value.contiguous().clone() for name, value in weights.items() if torch.is_tensor(value)}, made)
    yield made
    made.unlink()


# ---------------------------------------------------------------- converting


def _convert(source: Path, path: Path, target: Path) -> None:
    """Write the diffusers folder of a checkpoint that the user calls `path`, its model_index.json last."""
    tensors, metadata = checkpoints.read_header(source)
    layout = checkpoints.layout_of(tensors, path)
    prediction = checkpoints.prediction_of(layout, source, tensors, metadata)
    try:
        components, configs = _components(layout, tensors)
    except KeyError as error:
        raise BaseError(f"{path} is incomplete: it has no {error.args[0]}.", "Copy or download it again.") from None
    except BaseError as error:
        raise BaseError(f"{path} cannot be used. {error}", error.hint) from None
    factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    configs["unet"]["sample_size"] = _resolution(layout, metadata, prediction) // factor
    for name, config in configs.items():
        _write_json(target / name / "config.json", config)
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        _write_tensors(source, components[name], target / name / f"{stem}.safetensors")
    for number, encoder in enumerate(layout.encoders, 1):
        _write_tokenizer(target / f"tokenizer{_suffix(number)}", encoder.pad)
    _write_json(target / "scheduler" / "scheduler_config.json", _scheduler(layout, prediction, "ztsnr" in tensors))
    _write_json(target / "model_index.json", _index(layout))


def _components(layout: Layout, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensors], dict[str, dict[str, Any]]]:
    """Tensors under diffusers' names and configuration of each component that has weights."""
    components: dict[str, Tensors] = {}
    configs: dict[str, dict[str, Any]] = {}
    pooled = None
    for number, encoder in enumerate(layout.encoders, 1):
        name = f"text_encoder{_suffix(number)}"
        components[name] = _text(encoder, _below(tensors, encoder.prefix))
        pad = 0 if encoder.pad == "!" else components[name]["text_model.embeddings.token_embedding.weight"].shape[0] - 1
        act = "gelu" if encoder.open_clip else "quick_gelu"
        shapes = _shapes(components[name])
        configs[name] = ldm.text_config(shapes, act=act, projected=encoder.projected, pad=pad)
        pooled = configs[name]["projection_dim"] if encoder.projected else pooled
    unet, vae = _below(tensors, UNET), _below(tensors, VAE)
    vae = {name: row for name, row in vae.items() if name.startswith(_VAE_PARTS)}
    configs["unet"] = ldm.unet_config(_shapes(unet), heads=layout.heads, pooled=pooled)
    components["vae"], configs["vae"] = _autoencoder(vae, layout.scaling)
    layers = configs["unet"]["layers_per_block"]
    components["unet"] = {ldm.unet_name(name, layers): row for name, row in unet.items()}
    return components, configs


def _text(encoder: TextEncoder, tensors: Tensors) -> Tensors:
    if not encoder.open_clip:
        named = {ldm.clip_name(name): row for name, row in tensors.items()}
        return {name: row for name, row in named.items() if not name.endswith("position_ids")}
    made: Tensors = {}
    for name, row in tensors.items():
        called = ldm.open_clip_name(name)
        if "{}" in called:  # q, k and v lie one behind the other
            third = (row.end - row.begin) // 3
            for index, letter in enumerate("qkv"):
                begin = row.begin + index * third
                made[called.format(letter)] = row._replace(
                    shape=(row.shape[0] // 3, *row.shape[1:]), begin=begin, end=begin + third
                )
        elif name == "text_projection":
            made[called] = row._replace(shape=row.shape[::-1], transposed=True)
        elif name != "logit_scale":
            made[called] = row
    if not encoder.projected:
        made.pop("text_projection.weight", None)
    last = sum(name.endswith(".mlp.fc1.weight") for name in made) - encoder.drop
    return {name: row for name, row in made.items() if _layer(name) < last}


def _layer(name: str) -> int:
    return int(name.split(".")[3]) if name.startswith("text_model.encoder.layers.") else -1


def _linear(name: str, row: Tensor) -> Tensor:
    """An attention projection stored as a 1x1 convolution, as the linear layer it is."""
    return row._replace(shape=row.shape[:2]) if ".attentions." in name and len(row.shape) == 4 else row


def _renamed(tensors: Tensors, rename: Callable[[str, int], str], size: int) -> Tensors:
    return {rename(name, size): row for name, row in tensors.items()}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): row for name, row in tensors.items() if name.startswith(prefix)}


def _shapes(tensors: Tensors) -> ldm.Shapes:
    return {name: row.shape for name, row in tensors.items()}


def _suffix(number: int) -> str:
    return "" if number == 1 else f"_{number}"


# ---------------------------------------------------------------- writing


def _resolution(layout: Layout, metadata: Mapping[str, str], prediction: str) -> int:
    said = metadata.get("modelspec.resolution", "").lower().partition("x")[0].strip()
    if said.isdigit() and int(said):
        return int(said)
    return 768 if layout.kind == "SD 2.x" and prediction == "v_prediction" else layout.resolution


def _scheduler(layout: Layout, prediction: str, zero_snr: bool) -> dict[str, Any]:
    config = {
        "_class_name": layout.scheduler, "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
        "prediction_type": prediction, "timestep_spacing": "leading",
    }  # fmt: skip
    # Sampling has to begin where training ended: at the last timestep, which is pure noise here.
    return config | ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if zero_snr else {})


def _index(layout: Layout) -> dict[str, Any]:
    index: dict[str, Any] = {
        "_class_name": layout.pipeline,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", layout.scheduler],
    }
    for number, encoder in enumerate(layout.encoders, 1):
        kind = "CLIPTextModelWithProjection" if encoder.projected else "CLIPTextModel"
        index[f"text_encoder{_suffix(number)}"] = ["transformers", kind]
        index[f"tokenizer{_suffix(number)}"] = ["transformers", "CLIPTokenizer"]
    if len(layout.encoders) == 1:
        return index | {"safety_checker": [None, None], "feature_extractor": [None, None],
                        "requires_safety_checker": False}  # fmt: skip
    return index | {"force_zeros_for_empty_prompt": True}


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_tensors(source: Path, tensors: Tensors, target: Path) -> None:
    """A safetensors file of the tensors, their bytes copied from `source`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, row in tensors.items():
        size = math.prod(row.shape) * ITEM_BYTES[row.dtype]
        header[name] = {"dtype": row.dtype, "shape": row.shape, "data_offsets": (offset, offset + size)}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with source.open("rb") as read, target.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for row in tensors.values():
            read.seek(row.begin)
            if row.transposed:
                out.write(_transposed(read.read(row.end - row.begin), row))
            else:
                for start in range(row.begin, row.end, _CHUNK):
                    out.write(read.read(min(_CHUNK, row.end - start)))


def _transposed(content: bytes, row: Tensor) -> bytes:
    import numpy as np

    kind: Any = {8: np.uint64, 4: np.uint32, 2: np.uint16}[ITEM_BYTES[row.dtype]]
    stored = np.frombuffer(content, kind).reshape(row.shape[::-1])
    return stored.T.tobytes()


def _write_tokenizer(target: Path, pad: str) -> None:
    """CLIP's tokenizer, whose merges ship with cdtool."""
    packed = (Path(__file__).parent.parent / "assets" / "clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()[1:]
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(byte) for byte in kept] + [chr(256 + index) for index in range(256 - len(kept))]
    merged = [line.replace(" ", "") for line in lines]
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *merged, _START_TOKEN, END_TOKEN]
    _write_json(target / "vocab.json", {word: index for index, word in enumerate(words)})
    (target / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    _write_json(target / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": _START_TOKEN, "eos_token": END_TOKEN,
        "unk_token": END_TOKEN, "pad_token": pad,
    })  # fmt: skip
