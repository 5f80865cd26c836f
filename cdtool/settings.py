"""Settings as frozen dataclasses, the only home of defaults, and where each value comes from."""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_cache_path, user_config_path, user_data_path

from cdtool.errors import SettingsError, nearest
from cdtool.paths import user_path
from cdtool.schema import printable, shortened

Method = Literal["kv", "crossattn", "full", "dreambooth", "textual-inversion", "lora"]  # the rows of METHODS
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "factored"]
Scheduler = Literal["ddim", "ddpm", "dpm++", "dpm++-sde", "euler", "euler-a", "unipc", "pndm", "lcm", "tcd",
                    "ddim-trailing", "euler-trailing"]  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """How a concept is trained: the paper's values for `kv`; those of the other methods stand in their rows."""

    method: Method = "kv"
    steps: int = 250  # optimizer steps per concept; half of them without a prior
    lr: float = 8e-5
    token_lr: float = 0.0  # of the modifier tokens' embeddings; 0 is `lr`, as in the paper
    batch: int = 8  # images of one optimizer step over all processes, class images included
    accumulate: int = 1  # passes that make up one optimizer step
    weight_decay: float = 1e-2  # on K/V; rows have none
    resolution: int = 0  # px; 0 is the base's own
    precision: Precision = "auto"
    memory: str = "auto"  # what may be used: auto is what the device has free, or a size like 8GB
    optimizer: Optimizer = "adamw"  # factored keeps half as much: chosen only where nothing else fits (see --memory)
    vae: str = ""  # an autoencoder of one's own, a folder or a single file; "" is the base's
    checkpointing: bool = False  # recompute activations in the backward pass: less memory, slower
    compile: bool = False  # the denoiser's repeated blocks by torch.compile: a minute or more at first, faster steps
    seed: int = 0
    prior: str = "auto"  # auto, none, generated, text, self, a set's name or a folder
    prior_weight: float = 1.0
    prior_count: int = 200  # class images at most
    style: bool = False  # the token is a style: "painting in the style of V* art"
    augment: bool = True  # shrunk and enlarged, with size words; flipped in any case
    token_init: str = "rare"  # the row begins as rare, normal (drawn like the table), class (the noun's), or word:WORD
    freeze_token: bool = False  # the row stays as it began
    rank: int = 16  # of lora
    # K/V stay as they are along the directions of the empty prompt's text features that have at least this share of the
    # largest one, so that what guidance leads away from stays the base's; 0 is the paper's way, and holds none.
    preserve_uncond: float = 0.0
    focus: bool = False  # K/V change at the concept's own words alone, in training and in sampling
    lock: float = 0.0  # weight of the distance of the learned words' keys from those of the class noun
    align: float = 0.0  # weight of the angle between the end-of-text features of "V* dog" and "dog"
    crops: int = 32  # augmented crops per photo in the latent cache
    save_every: int = 50  # steps between checkpoints


@dataclass(frozen=True)
class SampleSettings:
    """How images are sampled; the paper's DDPM is DDIM with eta 1."""

    count: int = 4  # images per prompt
    seed: int = 0  # of the first image of a prompt; the next ones count up
    steps: int = 50
    guidance: float = 6.0  # 1 or less is the prediction with the prompt alone (see `guided`)
    scheduler: Scheduler = "ddim"
    eta: float = 1.0
    negative: str = ""
    size: str = ""  # WIDTHxHEIGHT in px; "" is the base's own
    precision: Precision = "auto"
    memory: str = "auto"  # as in training
    vae: str = ""  # as in training
    compile: bool = False  # as in training
    lora: str = ""  # files of other tools that act on the base: "style.safetensors:0.7,lines.safetensors"
    batch: int = 4  # images sampled at once


@dataclass(frozen=True)
class CompressSettings:
    """How much of a concept is kept where neither a rank nor a size is asked for."""

    energy: float = 0.6  # share of the sum of each matrix's singular values


@dataclass(frozen=True)
class MergeRule:
    """What a merge of concepts asks for; the defaults are chosen by tests/benchmarks/merge_many.py."""

    exact: float = 0.2  # share of the text width up to which targets are met exactly, beyond it by least squares
    softness: float = 0.1  # of the least squares: how much other text counts beside the targets, relatively
    pairs: float = (
        1.5  # targets, as a share of the text width, up to which prompts that name two concepts are among them
    )
    held: float = 0.0  # the empty prompt's directions that stay exactly, by their share of the largest; 0 is none


LOCAL = ("memory", "vae", "lora", "compile")  # settings that belong to this machine: no concept carries them
UNUSED = {"token_lr": 0.0}  # values that are left out of records, as before there was such a setting
SECTIONS: dict[str, type[Any]] = {"train": TrainSettings, "sample": SampleSettings, "compress": CompressSettings}


def home() -> Path | None:
    """CDTOOL_HOME, which moves everything, or None."""
    moved = os.environ.get("CDTOOL_HOME")
    return user_path(moved) if moved else None


def data_dir() -> Path:
    """Where concepts, prior sets and checkpoints live."""
    return home() or user_data_path("cdtool")


def cache_dir() -> Path:
    """Where everything that can be made again lives."""
    moved = home()
    return moved / "cache" if moved else user_cache_path("cdtool")


def config_file() -> Path:
    """The user's config.toml."""
    moved = home()
    return (moved or user_config_path("cdtool")) / "config.toml"


def recorded(settings: TrainSettings | SampleSettings) -> dict[str, Any]:
    """The settings as a concept or an image carries them: without those that belong to this machine."""
    return {name: value for name, value in asdict(settings).items()
            if name not in LOCAL and UNUSED.get(name) != value}  # fmt: skip


_POSITIVE = ("steps", "batch", "accumulate", "count", "crops", "save_every", "prior_count", "lr", "rank")
_MOST = {
    "steps": 10**7, "batch": 10**5, "accumulate": 10**5, "count": 10**5, "crops": 10**4, "save_every": 10**9,
    "prior_count": 10**6, "rank": 10**5, "resolution": 2**14, "seed": 2**63 - 1,
}  # above which a number can only be a slip  # fmt: skip
_TIMESTEPS = 1000  # of every scheduler: what `sample` can go through at most
_INITS = ("rare", "normal", "class")


def check(settings: TrainSettings | SampleSettings | CompressSettings) -> None:
    """Raises SettingsError where a number is out of range or a size is not WIDTHxHEIGHT."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"{field.name} must be a number, not {value}.")
    for name in _POSITIVE:
        if hasattr(settings, name) and getattr(settings, name) <= 0:
            raise SettingsError(f"{name} must be above zero, not {getattr(settings, name)}.")
    for name, most in (_MOST | ({"steps": _TIMESTEPS} if isinstance(settings, SampleSettings) else {})).items():
        if hasattr(settings, name) and getattr(settings, name) > most:
            raise SettingsError(f"{name} can be {most} at most, not {getattr(settings, name):.3g}.")
    if hasattr(settings, "seed") and settings.seed < 0:
        raise SettingsError("seed cannot be negative.")
    if isinstance(settings, TrainSettings):
        if settings.batch % 2 and settings.prior != "none":
            raise SettingsError(
                f"batch is {settings.batch}, but half of it are class images.",
                "Give an even --batch, or --prior none.",
            )
        if settings.batch % settings.accumulate:
            raise SettingsError(f"batch {settings.batch} cannot be split into {settings.accumulate} passes.")
        if min(settings.prior_weight, settings.weight_decay, settings.resolution, settings.token_lr) < 0:
            raise SettingsError("prior_weight, weight_decay, resolution and token_lr cannot be negative.")
        if settings.lock < 0 or settings.align < 0:
            raise SettingsError("lock and align are weights, which cannot be negative.")
        if not 0 <= settings.preserve_uncond <= 1:
            raise SettingsError(f"preserve_uncond is a share from 0 to 1, not {settings.preserve_uncond:g}.")
        if settings.token_init not in _INITS and not settings.token_init.removeprefix("word:").strip():
            raise SettingsError("token_init names no word.", "Write it like --token-init word:dog.")
        if settings.token_init not in _INITS and not settings.token_init.startswith("word:"):
            raise SettingsError(
                f'token_init cannot be "{settings.token_init}".',
                nearest(settings.token_init, _INITS) or f"It is {', '.join(_INITS)}, or a word: word:dog.",
            )
    elif isinstance(settings, CompressSettings):
        if not 0 < settings.energy <= 1:
            raise SettingsError(
                f"energy is a share above 0 and up to 1, not {settings.energy:g}.", "Like --energy 0.6."
            )
    elif settings.size:
        parse_size(settings.size)


def guided(guidance: float) -> bool:
    """Whether a guidance scale needs the prediction without the prompt too; at 1 or less the other stands alone."""
    return guidance > 1


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) in px of "WIDTHxHEIGHT". Raises SettingsError."""
    width, _, height = text.lower().partition("x")
    if not all(re.fullmatch("[0-9]{1,5}", side) and int(side) for side in (width, height)):
        raise SettingsError(f'"{shortened(printable(text), 40)}" is not a size.', "Write it like --size 768x512.")
    return int(width), int(height)
