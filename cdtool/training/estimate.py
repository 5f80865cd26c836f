"""What a training will cost, told before it begins: counted on shapes, timed by a short probe of the device."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cdtool import cache, methods
from cdtool.models import denoiser, memory, pipelines
from cdtool.models.adapter import parameter_of
from cdtool.models.diffusion import latent_batch
from cdtool.settings import cache_dir, guided
from cdtool.store import bases, families
from cdtool.training.batches import resolution

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from cdtool.priors.sets import Generation
    from cdtool.settings import TrainSettings
    from cdtool.store.headers import Shape

# Measured on a CPU (tests/benchmarks/bench_memory.py): the bytes at hand for each that autograd keeps, and the share of
# them that recomputing leaves on SD 1.5 (512 px) and on SDXL (1024 px), most of which is inside transformer blocks.
AT_HAND = 1.25
RECOMPUTED, RECOMPUTED_SDXL = 0.5, 0.1
# Convolutions and norms reach this share of a plain matrix product's speed, by our own measurements.
EFFICIENCY = 0.45
CALL_SECONDS = 2e-5  # of one operation however small, measured on mini's steps of 2 to 32 pictures on a CPU


@dataclass(frozen=True)
class Cost:
    """Numbers trained, bytes of the concept, and estimates of seconds and bytes for a run."""

    matrices: int
    numbers: int
    embeddings: int
    concept_bytes: int
    crops: int
    cache_bytes: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Work:
    """Of one picture: floating-point operations forward and backward, bytes kept in between, calls of operations."""

    forward: int
    backward: int
    kept: int
    calls: int


def cost(
    folder: Path, settings: TrainSettings, *, photos: int, priors: int, modifiers: int, device: torch.device,
    dtype: torch.dtype, world: int, earlier: int = 0, start: Mapping[str, Shape] | None = None,
) -> Cost:  # fmt: skip
    """Estimate a run on a base folder without loading its weights.

    `modifiers` counts the new tokens with a row, `earlier` those of the concept it goes on from, whose tensors are
    `start`. Raises BaseError for a folder we cannot use.
    """
    family, config, schedule = families.read(folder)
    shell = pipelines.Base(str(folder), folder, family, device, dtype, schedule, config)
    unet = denoiser.empty_unet(config)
    kv = denoiser.text_kv(unet)
    names = methods.trained(settings.method, [name for name, _ in unet.named_parameters()], kv)
    numbers = sum(_numbers(tuple(unet.get_parameter(name).shape), settings) for name in names)
    idle = [shape.shape for name, shape in (start or {}).items() if parameter_of(name) not in ("", *names)]
    side = resolution(shell, settings) // shell.latent_factor
    crops = min(settings.crops * photos, settings.steps * settings.batch) + 2 * priors
    batch = settings.batch // 2 if settings.prior == "text" else settings.batch
    rows = 0 if settings.freeze_token else modifiers * len(family.encoders)
    work = _work(unet, config, side, dtype, names, features=rows > 0)
    flops = work.forward * (2 if settings.checkpointing else 1) + work.backward
    extra = batch // 2 if settings.prior == "self" else 0  # pictures that the base by itself predicts too
    computing = (flops * batch + work.forward * extra) / world / (speed(device, dtype) * EFFICIENCY)
    taken = footprint(folder, settings, device=device, dtype=dtype, rows=rows)
    return Cost(
        matrices=len(names),
        numbers=numbers,
        embeddings=rows,
        concept_bytes=(numbers + sum(map(math.prod, idle))) * 2
        + (modifiers + earlier) * int(config["cross_attention_dim"]) * 4,
        crops=crops,
        cache_bytes=crops * 2 * int(config["in_channels"]) * side * side * 4,
        seconds=settings.steps * (computing + settings.accumulate * work.calls * CALL_SECONDS),
        memory=taken.peak(settings, world),
    )


@dataclass(frozen=True)
class Footprint:
    """Bytes that a training takes: what settings leave as it is, and what they change."""

    throughout: int  # libraries, denoiser, text encoders
    loading: int  # what is there besides until the text encoders' matrices are in the compute precision
    numbers: int  # that are trained
    vectors: int  # those of them that are in no matrix
    casts: int  # copies of trained weights in the compute precision, for each pass
    kept: int  # activations of one image
    recomputed: float  # the share of them that recomputing leaves
    encoding: int  # the autoencoder, and what it makes of the images it takes at once

    def peak(self, settings: TrainSettings, world: int = 1) -> int:
        """The most bytes that a process takes at one time, one of `world`."""
        batch = settings.batch // 2 if settings.prior == "text" else settings.batch
        together = -(-batch // (settings.accumulate * world))
        kept = self.kept * together * AT_HAND * (self.recomputed if settings.checkpointing else 1.0)
        state = self.numbers * 16  # float32 weight, gradient and two moments
        if settings.optimizer == "factored":
            state = (self.numbers - self.vectors) * 10 + self.vectors * 16
        weights = 4 * self.numbers
        saving = state + 2 * 2 * self.numbers  # W0 and dW in half precision
        stages = (weights + self.loading, weights + self.encoding, state + self.casts + kept, saving)
        return int(self.throughout + max(stages))


def footprint(
    folder: Path, settings: TrainSettings, *, device: torch.device, dtype: torch.dtype, rows: int
) -> Footprint:
    """What a training on a base folder takes, counted on shapes; `rows` are learned. Raises BaseError."""
    family, config, schedule = families.read(folder)
    shell = pipelines.Base(str(folder), folder, family, device, dtype, schedule, config)
    shell.own_vae = bases.locate_vae(settings.vae, folder) if settings.vae else None
    unet = denoiser.empty_unet(config)
    kv = denoiser.text_kv(unet)
    names = methods.trained(settings.method, [name for name, _ in unet.named_parameters()], kv)
    shapes = {name: tuple(unet.get_parameter(name).shape) for name in names}
    size = resolution(shell, settings)
    work = _work(unet, config, size // shell.latent_factor, dtype, names, features=rows > 0)
    # What is no K/V is cast for each pass, beside its float32 copy.
    casts = sum(math.prod(shapes[name]) for name in names if name.rpartition(".")[0] not in kv)
    text = memory.text_encoders(folder, dtype)
    replaced = sum(
        math.prod(shapes[name]) for name in names if name.rpartition(".")[0] in kv and len(shapes[name]) == 2
    )
    stays = settings.prior == "self" or methods.METHODS[settings.method].low_rank
    frozen = memory.unet(folder, dtype)
    if not stays:  # the base's own K/V are freed, once what is trained in their place is made
        frozen -= replaced * dtype.itemsize
    coding = memory.coding(shell.vae_folder, size, size, latent_batch(size, size), dtype, decode=False)
    return Footprint(
        throughout=memory.LIBRARY + frozen + text,
        loading=(0 if stays else replaced * dtype.itemsize) + memory.text_encoders(folder, torch.float32) - text,
        numbers=sum(_numbers(shape, settings) for shape in shapes.values()),
        vectors=sum(math.prod(shape) for shape in shapes.values() if len(shape) < 2),
        casts=casts * dtype.itemsize if dtype != torch.float32 else 0,
        kept=work.kept,
        recomputed=RECOMPUTED_SDXL if family.conditioned else RECOMPUTED,
        encoding=memory.autoencoder(shell.vae_folder, dtype) + coding,
    )


def generation_seconds(folder: Path, how: Generation, device: torch.device, dtype: torch.dtype) -> float:
    """How long drawing pictures with a base takes, about; its weights are not loaded. Raises BaseError."""
    config = families.read(folder).unet
    forward = _work(denoiser.empty_unet(config), config, int(config["sample_size"]), dtype, (), features=True).forward
    passes = how.count * how.steps * (2 if guided(how.guidance) else 1)
    return forward * passes / (speed(device, dtype) * EFFICIENCY)


def _numbers(shape: tuple[int, ...], settings: TrainSettings) -> int:
    """How many numbers are trained of a parameter."""
    if not methods.METHODS[settings.method].low_rank:
        return math.prod(shape)
    return min(settings.rank, *shape) * sum(shape)


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, counts operations."""

    count = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` as it is."""
        self.count += 1
        return func(*args, **(kwargs or {}))


class _Fused(TorchFunctionMode):
    """While open, `keep` is told what fused attention keeps: nothing of the size of all pairs of cells."""

    def __init__(self, keep: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.keep = keep

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` as it is, attention with another hook."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, torch.Tensor)]
        most = max(tensor.numel() for tensor in given)

        def keep_small(tensor: Tensor) -> Tensor:
            return self.keep(tensor) if tensor.numel() <= most else tensor

        with torch.autograd.graph.saved_tensors_hooks(keep_small, lambda tensor: tensor):
            return func(*args, **(kwargs or {}))


def _work(
    unet: nn.Module, config: dict[str, Any], side: int, dtype: torch.dtype, trained: Collection[str], *, features: bool
) -> Work:  # fmt: skip
    """`_measure`, kept in the cache: it takes longer than all else of a plan."""
    told = json.dumps([torch.__version__, importlib.metadata.version("diffusers"), config, side, str(dtype),
                       sorted(trained), features], sort_keys=True)  # fmt: skip
    path = cache_dir() / "work" / hashlib.sha256(told.encode()).hexdigest()
    if (content := cache.read(path)) is not None:
        return Work(*json.loads(content))
    work = _measure(unet, config, side, dtype, trained, features=features)
    cache.write(path, json.dumps(astuple(work)).encode())
    return work


def _measure(
    unet: nn.Module, config: dict[str, Any], side: int, dtype: torch.dtype, trained: Collection[str], *, features: bool
) -> Work:
    """The work of one picture, on shapes alone, when the named parameters (and the text features) are learned."""
    from torch.utils.flop_counter import FlopCounterMode

    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes() // tensor.itemsize * dtype.itemsize
        return tensor

    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in trained)
    with torch.device("meta"):
        told = torch.empty(1, 77, int(config["cross_attention_dim"]), requires_grad=features)
        noisy, t = torch.empty(1, int(config["in_channels"]), side, side), torch.empty(1)
        added = None
        if config.get("addition_embed_type") == "text_time":
            times = 6 * int(config["addition_time_embed_dim"])
            pooled = int(config["projection_class_embeddings_input_dim"]) - times
            added = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
    with FlopCounterMode(display=False) as counter, _Calls() as calls:  # type: ignore[no-untyped-call]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _Fused(keep):
            found = unet(noisy, t, encoder_hidden_states=told, added_cond_kwargs=added)
        forward = int(counter.get_total_flops())
        getattr(found, "sample", found).sum().backward()
    return Work(forward, int(counter.get_total_flops()) - forward, sum(kept.values()), calls.count)


def speed(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Floating-point operations per second of a matrix product in `dtype` on `device`."""
    size = 1024 if device.type == "cpu" else 4096
    left = torch.randn(size, size, device=device).to(dtype)

    def multiply() -> None:
        torch.matmul(left, left)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    multiply()
    count, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        multiply()
        count += 1
    return 2.0 * size**3 * count / taken
