"""Base models: how one is loaded, part by part, and freed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from cdtool.errors import BaseError, SettingsError
from cdtool.models import clip, denoiser, lora
from cdtool.store import bases, families, loras
from cdtool.store.families import Family

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPTokenizer

    from cdtool.settings import Precision, SampleSettings
    from cdtool.store.registry import Concept

Part = Literal["unet", "vae", "text", "tokenizers"]  # text: encoders and tokenizers
READ_TOGETHER = 100  # tensors of a denoiser
MAX_POSITIONS = 10_000  # tokens that any text encoder of ours could read
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Base:
    """A loaded base; parts that were not asked for are None or empty."""

    name: str
    folder: Path
    family: Family
    device: torch.device
    dtype: torch.dtype  # compute precision
    scheduler_config: dict[str, Any]
    unet_config: dict[str, Any]
    unet: Any = None  # UNet2DConditionModel; diffusers is untyped
    vae: Any = None  # AutoencoderKL
    text_encoders: tuple[clip.TextEncoder, ...] = ()
    tokenizers: tuple[CLIPTokenizer, ...] = ()
    kv: dict[str, Tensor] = field(default_factory=dict)  # module -> W0 [o, d] as stored
    fingerprint: str = ""
    offload: bool = False  # the denoiser is freed while the autoencoder decodes, and loaded again for the next batch
    own_vae: Path | None = None  # the folder of an autoencoder in place of the base's
    loras: tuple[lora.Changes, ...] = ()  # of other tools' files, added to what is loaded
    lora_sha256: str = ""  # of those files' content
    sparing: bool = False  # parts are loaded when they are needed and freed when their work is done (`need`, `done`)

    @property
    def prediction(self) -> str:
        """What the denoiser predicts: "epsilon" or "v_prediction"."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    @property
    def zero_snr(self) -> bool:
        """Whether the last timestep of training is pure noise (zero terminal SNR)."""
        return bool(self.scheduler_config.get("rescale_betas_zero_snr", False))

    @property
    def latent_channels(self) -> int:
        """Channels c of a latent, which an inpainting denoiser takes more of than it makes."""
        return int(self.unet_config.get("out_channels", 4))

    @property
    def inpainting(self) -> bool:
        """Whether the denoiser also takes a mask and the latents of the masked image."""
        return int(self.unet_config.get("in_channels", 4)) != self.latent_channels

    @property
    def zero_unprompted(self) -> bool:
        """Whether an empty negative prompt stands for zeros, as SDXL was trained."""
        index = families.read_json(self.folder / "model_index.json")
        return self.family.conditioned and bool(index.get("force_zeros_for_empty_prompt", True))

    @property
    def vae_folder(self) -> Path:
        """The folder of the autoencoder."""
        return self.own_vae or self.folder / "vae"

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell."""
        return families.shrinking(families.read_json(self.vae_folder / "config.json"))

    @property
    def resolution(self) -> int:
        """The side of the pictures it was trained on, px."""
        return families.resolution(self.unet_config, self.latent_factor)


def pick_device(wanted: str = "auto") -> torch.device:
    """The device to compute on. Raises SettingsError for one this machine lacks."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f'No device "{wanted}" here ({str(error).splitlines()[0]}).', "Use --device cpu.") from None
    return device


def pick_dtype(precision: Precision, device: torch.device) -> tuple[torch.dtype, str]:
    """The compute precision on `device` and why. Raises SettingsError for fp16 on a CPU."""
    if precision == "fp16" and device.type == "cpu":
        raise SettingsError("fp16 does not train or sample on a CPU.", "Use --precision bf16 or fp32.")
    if precision != "auto":
        return DTYPES[precision], "asked for"
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, "the GPU has bf16") if has else (torch.float16, "the GPU has no bf16")
    if device.type == "cpu":
        able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        if able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"):
            return torch.bfloat16, "the CPU has bf16"
        return torch.float32, "the CPU has no bf16"
    return torch.float32, f"{device.type} computes in fp32"


def check_base(entry: Concept, base: Base, *, force: bool = False) -> None:
    """Raises BaseError where a concept was trained on another base; `force` lets equal shapes pass."""
    assert entry.manifest is not None
    if entry.manifest.base.fingerprint != base.fingerprint and not force:
        raise BaseError(
            f'"{entry.name}" was trained on {entry.manifest.base.name}; the weights of {base.name} are others.',
            f"Use --base {entry.manifest.base.name}, or --force if {base.name} is derived from it.",
        )
    if any(len(token.ids) != len(base.family.encoders) for token in entry.manifest.tokens if token.modifier):
        raise BaseError(f'"{entry.name}" was trained on a base with other text encoders than {base.name}.')


def parameters(base: Base, names: Iterable[str]) -> dict[str, Tensor]:
    """The named parameters of a base's denoiser as stored, with what LoRA files add. Raises BaseError."""
    found = denoiser.read_parameters(base.folder, names)
    for changes in base.loras:
        layers = {name.removesuffix(".weight"): value for name, value in found.items()}
        changed = lora.added(layers, changes.get("unet", {}))
        found = {name: changed[name.removesuffix(".weight")] for name in found}
    return found


def load(
    name: str,
    *,
    precision: Precision = "auto",
    device: str = "auto",
    parts: tuple[Part, ...] = ("unet", "vae", "text"),
    sparing: bool = False,
    vae: str = "",
    lora_files: str = "",
) -> Base:
    """Load a base: frozen weights in the compute precision, text encoders in float32, K/V also as stored.

    A `sparing` one has tokenizers and K/V only; `need` loads the rest. `vae` is an autoencoder of one's own, a folder
    or a single file, `lora_files` names files of other tools that act on it. Raises NotFoundError when it is not on
    this machine and BaseError when it cannot be used.
    """
    folder = bases.locate(name)
    family, unet_config, schedule = families.read(folder)
    where = pick_device(device)
    dtype, _ = pick_dtype(precision, where)
    base = Base(name, folder, family, where, dtype, schedule, unet_config, sparing=sparing)
    base.own_vae = bases.locate_vae(vae, folder) if vae else None
    with _loadable(name):
        base.kv = denoiser.read_kv(folder, denoiser.kv_names(unet_config))
        base.fingerprint = denoiser.fingerprint(base.kv)
    if sparing:
        forget_pages(base)
    base.loras, base.lora_sha256 = tuple(_read_loras(base, lora_files)), loras.digest(lora_files)
    for changes in base.loras:
        base.kv = lora.added(base.kv, changes.get("unet", {}))
    need(base, *(("tokenizers",) if sparing else parts))
    return base


def for_sampling(name: str, settings: SampleSettings, device: str = "auto", *, sparing: bool = False) -> Base:
    """Load a base as sampling settings say. Raises what `load` raises."""
    return load(name, precision=settings.precision, device=device, sparing=sparing, vae=settings.vae,
                lora_files=settings.lora)  # fmt: skip


def _read_loras(base: Base, text: str) -> Iterator[lora.Changes]:
    """The changes of the LoRA files that `text` names. Raises NotFoundError, SettingsError and InputError."""
    files = loras.parse(text)
    if not files:
        return
    modules = {"unet": lora.layers_of(denoiser.empty_unet(base.unet_config))}
    modules |= {part: lora.layers_of(clip.empty(base.folder / part)) for part in base.family.encoders}
    layers = base.unet_config.get("layers_per_block", 2)
    for file in files:
        yield lora.read(file.path, file.weight, modules, layers if isinstance(layers, int) else int(layers[0]))


def need(base: Base, *parts: Part) -> None:
    """Load those of the parts that are not in memory. Raises BaseError for one that cannot be used."""
    folder, where = base.folder, base.device
    with _loadable(base.name):
        if "unet" in parts and base.unet is None:
            base.unet = _unet(folder, base.unet_config, base.dtype, where)
            _add_loras(base, {"unet": base.unet})
        if "vae" in parts and base.vae is None:
            base.vae = _vae(base.vae_folder, base.dtype).to(where)
        if "text" in parts and not base.text_encoders:
            base.text_encoders = tuple(_text_encoder(folder / part).to(where) for part in base.family.encoders)
            _add_loras(base, dict(zip(base.family.encoders, base.text_encoders, strict=True)))
        if ("text" in parts or "tokenizers" in parts) and not base.tokenizers:
            base.tokenizers = load_tokenizers(folder)


def _add_loras(base: Base, parts: Mapping[str, Any]) -> None:
    for changes in base.loras:
        for part, model in parts.items():
            lora.add(model, changes.get(part, {}))


def done(base: Base, *parts: Part) -> None:
    """Free parts of a sparing base; `need` loads them again."""
    if base.sparing:
        free(base, *parts)


def free(base: Base, *parts: Part) -> None:
    """Free parts of a base; `need` loads them again."""
    if "unet" in parts:
        base.unet = None
    if "vae" in parts:
        base.vae = None
    if "text" in parts:
        base.text_encoders = ()
    release_memory(base.device)


def forget_pages(base: Base) -> None:
    """Map the stored K/V anew: what was read of their file so far no longer counts as this process's memory."""
    base.kv = denoiser.read_kv(base.folder, base.kv)


def release_memory(device: torch.device) -> None:
    """Give what was freed back to the device and to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed blocks below larger ones otherwise


@contextlib.contextmanager
def _loadable(name: str) -> Iterator[None]:
    """Raises BaseError for a base whose files cannot be read."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BaseError(f'The base "{name}" cannot be loaded: {error}.', "Fetch or copy it again.") from None


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, ...]:
    """The tokenizers of a base folder. Raises BaseError for what we cannot use."""
    family = families.read(folder).family
    try:
        return tuple(_tokenizer(folder / part) for part in family.tokenizers)
    except (OSError, ValueError) as error:
        raise BaseError(f"The tokenizer in {folder} cannot be read: {error}.", "Fetch or copy it again.") from None


def _variant(folder: Path) -> str | None:
    """ "fp16" where a component holds nothing but that variant."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def _unet(folder: Path, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """The denoiser, read some tensors at a time: the whole file is never in memory beside what is made of it."""
    unet = denoiser.empty_unet(config)
    with denoiser.readable(folder / "unet"):
        names = list(unet.state_dict())
        for start in range(0, len(names), READ_TOGETHER):
            found = denoiser.read_parameters(folder, names[start : start + READ_TOGETHER])
            made = {name: tensor.to(device, dtype) for name, tensor in found.items()}
            unet.load_state_dict(made, strict=False, assign=True)
    return unet.requires_grad_(False).eval()


def _vae(folder: Path, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL

    return _frozen(AutoencoderKL, folder, vae_dtype(folder, dtype))


def vae_dtype(folder: Path, dtype: torch.dtype) -> torch.dtype:
    """The precision that the autoencoder in `folder` computes in: most overflow in fp16."""
    config = families.read_json(folder / "config.json")
    return torch.float32 if dtype == torch.float16 and config.get("force_upcast", True) else dtype


def _frozen(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    with denoiser.readable(folder):
        model = cls.from_pretrained(folder, torch_dtype=dtype, variant=_variant(folder), local_files_only=True)
    return model.requires_grad_(False).eval()


def _text_encoder(folder: Path) -> clip.TextEncoder:
    with denoiser.readable(folder):
        return clip.load(folder).requires_grad_(False).eval()


def _tokenizer(folder: Path) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    with denoiser.readable(folder):
        tokenizer = cast("CLIPTokenizer", CLIPTokenizer.from_pretrained(folder, local_files_only=True))
    if tokenizer.model_max_length > MAX_POSITIONS:  # what transformers sets where the configuration names no length
        raise BaseError(
            f"{folder} names no model_max_length of at most {MAX_POSITIONS} tokens.",
            "Fetch or copy the base again; CLIP reads 77.",
        )
    return tokenizer
