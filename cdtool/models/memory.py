"""What a base takes of a device's memory, told before anything is loaded, and what the device has."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from cdtool import cache
from cdtool.errors import SettingsError
from cdtool.models import denoiser, pipelines
from cdtool.settings import cache_dir
from cdtool.store import bases, families

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.store.headers import Shape

LIBRARY = 700_000_000  # bytes that PyTorch and the model libraries take
USABLE = 0.95  # of what a device has free; the rest is lost between blocks
# Times the counted activations: what kernels work with besides; measured (tests/benchmarks/bench_memory.py). The
# autoencoder's attention is over all pairs of cells at once where no fused kernel takes its one wide head, as on CPUs.
AT_HAND = {"denoising": 1.25, "coding": 2.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([MG])B?", re.IGNORECASE)


def limit(memory: str, device: torch.device) -> int:
    """Bytes that may be used: what "8GB" says, or with "auto" what the device has free.

    Raises SettingsError for what is no size.
    """
    if memory == "auto":
        return int(_free(device) * USABLE)
    found = _SIZE.fullmatch(memory.strip())
    if found is None or not float(found[1]):
        raise SettingsError(f'memory is auto or a size, not "{memory[:40]}".', "Write it like --memory 8GB.")
    return int(float(found[1]) * {"m": 1e6, "g": 1e9}[found[2].lower()])


def _free(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return math.inf


def plenty(folder: Path, most: float) -> bool:
    """Whether a base is so small beside `most` bytes that nothing needs to be counted."""
    return 10 * sum(path.stat().st_size for path in folder.glob("*/*.safetensors")) + LIBRARY < most


# ---------------------------------------------------------------- weights


def unet(folder: Path, dtype: torch.dtype) -> int:
    """Bytes of a base's denoiser in the compute precision."""
    return _numbers(bases.weight_shapes(folder / "unet")) * dtype.itemsize


def autoencoder(folder: Path, dtype: torch.dtype) -> int:
    """Bytes of an autoencoder, which overflows in fp16 and computes in float32 there."""
    return _numbers(bases.weight_shapes(folder)) * pipelines.vae_dtype(folder, dtype).itemsize


def text_encoders(folder: Path, dtype: torch.dtype) -> int:
    """Bytes of a base's text encoders, their matrices in `dtype` and the rest in float32."""
    total = 0
    for part in families.read(folder).family.encoders:
        for name, shape in bases.weight_shapes(folder / part).items():
            matrix = len(shape.shape) == 2 and "embedding" not in name
            total += shape.numbers * (dtype.itemsize if matrix else 4)
    return total


def _numbers(shapes: Mapping[str, Shape]) -> int:
    return sum(shape.numbers for shape in shapes.values())


# ---------------------------------------------------------------- activations


def denoising(config: Mapping[str, Any], height: int, width: int, count: int, dtype: torch.dtype) -> int:
    """Bytes of activations while `count` latents of height x width cells are denoised, at their peak."""

    def work() -> object:
        text, noisy, added = denoiser_inputs(config, height, width, count)
        t = torch.empty(count, device="meta")
        return denoiser.empty_unet(config)(noisy, t, encoder_hidden_states=text, added_cond_kwargs=added)

    return _numbers_at_once("denoising", work, dict(config), height, width, count) * dtype.itemsize


def denoiser_inputs(
    config: Mapping[str, Any], height: int, width: int, count: int
) -> tuple[Tensor, Tensor, dict[str, Tensor] | None]:
    """Text features, noisy latents and SDXL's further conditions as a denoiser takes them, without numbers."""
    with torch.device("meta"):
        text = torch.empty(count, 77, int(config["cross_attention_dim"]))
        noisy = torch.empty(count, int(config["in_channels"]), height, width)
        if config.get("addition_embed_type") != "text_time":
            return text, noisy, None
        times = 6 * int(config["addition_time_embed_dim"])
        pooled = int(config["projection_class_embeddings_input_dim"]) - times
        return text, noisy, {"text_embeds": torch.empty(count, pooled), "time_ids": torch.empty(count, 6)}


def coding(folder: Path, height: int, width: int, count: int, dtype: torch.dtype, *, decode: bool) -> int:
    """Bytes of activations while an autoencoder encodes or decodes `count` images of a size in px, at their peak."""
    config = families.read_json(folder / "config.json")

    def work() -> object:
        from diffusers import AutoencoderKL

        with torch.device("meta"):
            vae: Any = AutoencoderKL.from_config(config)
            factor = 2 ** (len(config["block_out_channels"]) - 1)
            if decode:
                cells = (height // factor, width // factor)
                return vae.decode(torch.empty(count, int(config.get("latent_channels", 4)), *cells))
            return vae.encode(torch.empty(count, 3, height, width))

    found = _numbers_at_once("coding", work, config, height, width, count, decode)
    return found * pipelines.vae_dtype(folder, dtype).itemsize


def _numbers_at_once(kind: str, work: Callable[[], object], *about: object) -> int:
    """The most numbers at hand at one time during `work` in float32, kept in the cache: counting takes seconds."""
    told = json.dumps(
        [AT_HAND[kind], torch.__version__, importlib.metadata.version("diffusers"), kind, *about], sort_keys=True
    )
    path = cache_dir() / "work" / hashlib.sha256(told.encode()).hexdigest()
    if (content := cache.read(path)) is not None:
        return int(content)
    found = int(peak(work) * AT_HAND[kind]) // 4
    cache.write(path, str(found).encode())
    return found


def peak(work: Callable[[], object]) -> int:
    """The most bytes that the tensors made by `work` take at one time; weights it makes by `torch.empty` count not."""
    with torch.no_grad(), _Live() as live, _FusedAttention():
        work()
    return int(live.most)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, follows the bytes of the tensors that operations made and that are still there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.users: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` as it is."""
        made = func(*args, **(kwargs or {}))
        if not args or func.__name__.startswith("empty"):
            return made
        given = {id(value) for value in tree_flatten(args)[0]}
        for tensor in tree_flatten(made)[0]:
            if isinstance(tensor, torch.Tensor) and id(tensor) not in given:
                self._follow(tensor)
        return made

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self.users[key]:
            self.now += size
            self.most = max(self.most, self.now)
        self.users[key] += 1
        weakref.finalize(tensor, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.users[key] -= 1
        if not self.users[key]:
            self.now -= size


class _FusedAttention(TorchFunctionMode):
    """While open, attention makes its result and nothing of the size of all pairs of cells."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` as it is, attention as what it makes."""
        if func is F.scaled_dot_product_attention:
            return args[0] * 1.0
        return func(*args, **(kwargs or {}))
