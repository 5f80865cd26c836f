"""A base's denoiser: its projections that text alone feeds, and its weights as they are stored."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from cdtool import cache
from cdtool.errors import BaseError
from cdtool.schema import shortened
from cdtool.settings import cache_dir

if TYPE_CHECKING:
    from torch import Tensor, nn


def text_kv(unet: nn.Module) -> list[str]:
    """Names of the K/V projections that are fed by text alone, in module order.

    Told by what feeds them: cross-attention whose context has the text's width. A name says nothing: SD 3.5's
    `attn2` is image self-attention.
    """
    width = cast("Any", unet).config.cross_attention_dim
    names = []
    for name, module in unet.named_modules():
        if getattr(module, "is_cross_attention", False) and cast("Any", module).to_k.in_features == width:
            names += [f"{name}.to_k", f"{name}.to_v"]
    return names


def empty_unet(config: Mapping[str, Any]) -> nn.Module:
    """The denoiser of a config without memory for its weights."""
    from diffusers import UNet2DConditionModel

    with readable(Path("The configuration of its UNet")), torch.device("meta"):
        unet: nn.Module = cast("Any", UNet2DConditionModel).from_config(dict(config))
    return unet


def kv_names(config: Mapping[str, Any]) -> list[str]:
    """`text_kv` of a config's denoiser, kept in the cache: building it for its names alone takes seconds."""
    told = json.dumps([importlib.metadata.version("diffusers"), dict(config)], sort_keys=True).encode()
    kept = cache_dir() / "kv" / hashlib.sha256(told).hexdigest()
    if (content := cache.read(kept)) is not None:
        return [str(name) for name in json.loads(content)]
    names = text_kv(empty_unet(config))
    cache.write(kept, json.dumps(names).encode())
    return names


def read_kv(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """W0 [o, d] of the named projections as stored, reading nothing else of the denoiser.

    Raises BaseError where the weights are missing or cut short.
    """
    names = list(names)
    found = read_parameters(folder, [f"{name}.weight" for name in names])
    return {name: found[f"{name}.weight"] for name in names}


def read_parameters(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """The named parameters of the denoiser as stored, reading nothing else of it.

    Raises BaseError where the weights are missing or cut short.
    """
    from safetensors import SafetensorError, safe_open

    wanted = dict.fromkeys(names)
    found: dict[str, Tensor] = {}
    try:
        for path in weight_files(folder / "unet"):
            with safe_open(path, framework="pt") as file:
                for key in wanted.keys() & set(file.keys()):
                    found[key] = file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise BaseError(f"The weights in {folder / 'unet'} cannot be read: {error}.", "Fetch the base again.") from None
    missing = [name for name in wanted if name not in found]
    if missing:
        raise BaseError(f"{folder / 'unet'} lacks the safetensors weights of {missing[0]}.", "Fetch the base again.")
    return {name: found[name] for name in wanted}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component: the full ones, else those of the fp16 variant."""
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    full = [path for path in files if ".fp16" not in path.name]
    return full or files


def fingerprint(kv: Mapping[str, Tensor]) -> str:
    """A hash of K/V weights under their names, as fp16, so that fp16 and fp32 copies of a base agree."""
    digest = hashlib.sha256()
    for name in sorted(kv):
        digest.update(f"{name} {tuple(kv[name].shape)}\n".encode())
        digest.update(kv[name].to(torch.float16).contiguous().numpy().data)
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Raises BaseError for whatever a library raises about a damaged component; out of memory stays what it is."""
    try:
        yield
    except BaseError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise
        reason = shortened(" ".join(str(error).split()), 160)
        raise BaseError(f"{folder} is damaged: {reason}.", "Fetch or copy the base again.") from None
