"""Settings as frozen dataclasses, the only home of defaults, and where each value comes from."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_type_hints

from platformdirs import user_cache_path, user_config_path, user_data_path

from cdtool.errors import SettingsError, nearest
from cdtool.files import check_writable, read_regular, replacing
from cdtool.methods import METHODS
from cdtool.paths import user_path
from cdtool.schema import loads_toml, printable, shortened

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
# Names of settings in files of earlier versions, and what they are called now.
RENAMED = {"hold_empty": "preserve_uncond"}
SECTIONS: dict[str, type[Any]] = {"train": TrainSettings, "sample": SampleSettings, "compress": CompressSettings}
S = TypeVar("S", TrainSettings, SampleSettings, CompressSettings)


@dataclass(frozen=True)
class Value:
    """A setting's value and the layer it came from."""

    value: Any
    origin: str


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


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a settings file, {} where there is none; checks every name.

    Raises SettingsError for bad TOML and unknown names.
    """
    try:
        table = loads_toml(read_regular(path, most=1_000_000).decode())
    except FileNotFoundError:
        return {}
    except ValueError as error:  # not UTF-8, or a SchemaError
        raise SettingsError(f"{path} is not valid TOML: {error}.", "Mend the line it names.") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    table = {name: upgraded(content) for name, content in table.items()}
    known = {"base", "vae", "prior", "eval", "merge", *SECTIONS}  # [prior], [eval] and [merge] are what a base offers
    for name, content in table.items():
        if name not in known:
            raise SettingsError(f'{path} has the unknown setting "{name}".', nearest(name, known))
        if name in SECTIONS:
            _check_names(path, name, content)
        elif name not in ("base", "vae") and not isinstance(content, Mapping):
            raise SettingsError(f'{path}: "{name}" is a table.', f"Write [{name}] on a line of its own.")
    return table


def upgraded(table: Any) -> Any:
    """A table of settings, and the tables in it, with the names of today."""
    if not isinstance(table, Mapping):
        return table
    return {RENAMED.get(name, name): upgraded(value) for name, value in table.items()}


def _check_names(path: Path, section: str, content: Any) -> None:
    known = [field.name for field in fields(SECTIONS[section])]
    if not isinstance(content, Mapping):
        raise SettingsError(f'{path}: "{section}" is a table.', f"Write [{section}] on a line of its own.")
    tables = tuple(METHODS) if section == "train" else ()
    own = {f"{section}.{name}": content[name] for name in tables if name in content}
    for name in content:
        if name not in known and name not in tables:
            hint = nearest(name, [*known, *tables])
            raise SettingsError(f'{path} has the unknown setting "{section}.{name}".', hint)
    for name, table in own.items():
        if not isinstance(table, Mapping):
            raise SettingsError(f'{path}: "{name}" is a table of its own.', f"Write [{name}] on a line of its own.")
        for key in table:
            if key not in known or key == "method":
                raise SettingsError(f'{path} has the unknown setting "{name}.{key}".', nearest(key, known))


def layers(base_folder: Path | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    """Settings files, the strongest first, each with the name of its origin."""
    files = [Path("cdtool.toml"), config_file()] + ([base_folder / "cdtool.toml"] if base_folder else [])
    return [(str(path), read_toml(path)) for path in files]


def resolve(
    cls: type[S],
    flags: Mapping[str, Any],
    base_folder: Path | None = None,
    *,
    like: tuple[str, Mapping[str, Any]] | None = None,
) -> tuple[S, dict[str, Value]]:
    """The settings in force and where each came from.

    flag > like (a concept's settings, with their origin) > CDTOOL_* > ./cdtool.toml > user > base's table for the
    method > method > base > default. A file's [train.METHOD] counts above its [train]. A flag that is None was not
    given. Raises SettingsError for a value of the wrong kind.
    """
    section = next(name for name, known in SECTIONS.items() if known is cls)
    _check_environment(section, [field.name for field in fields(cls)])
    files = [(origin, _section(table, section)) for origin, table in layers(base_folder)]
    given = [("flag", flags), *([like] if like else [])]
    found: dict[str, Value] = {}
    if cls is TrainSettings:
        found["method"] = _pick(cls, section, "method", given, files)
        files = _for_method(str(found["method"].value), files, with_base=base_folder is not None)
    for field in fields(cls):
        found[field.name] = _pick(cls, section, field.name, given, files)
    settings = cls(**{name: value.value for name, value in found.items()})
    check(settings)
    return settings, found


def recorded(settings: TrainSettings | SampleSettings) -> dict[str, Any]:
    """The settings as a concept or an image carries them: without those that belong to this machine."""
    return {name: value for name, value in asdict(settings).items() if name not in LOCAL}


def _section(table: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """A file's table of settings; the `vae` beside its `base` counts for training and sampling."""
    both = {"vae": table["vae"]} if "vae" in table and section != "compress" else {}
    return {**both, **table.get(section, {})}


def check_flags(cls: type[Any], flags: Mapping[str, Any]) -> None:
    """Raises TypeError for a flag that is no setting, as Python does for an unknown argument."""
    known = [field.name for field in fields(cls)]
    for name in flags:
        if name not in known:
            raise TypeError(f'There is no option "{name}". {nearest(name, known)}'.strip())


_Layers = list[tuple[str, Mapping[str, Any]]]


def _pick(cls: type[Any], section: str, name: str, given: _Layers, files: _Layers) -> Value:
    """The strongest layer's value of a setting, converted."""
    variable = f"CDTOOL_{section}_{name}".upper()
    candidates = [(origin, table.get(name)) for origin, table in given]
    before = [f"CDTOOL_{section}_{old}".upper() for old, new in RENAMED.items() if new == name]
    candidates += [
        *((own, os.environ.get(own)) for own in (variable, *before)),
        *((origin, table.get(name)) for origin, table in files),
    ]
    default = next(field.default for field in fields(cls) if field.name == name)
    origin, raw = next(((o, v) for o, v in candidates if v is not None), ("default", default))
    return Value(_convert(raw, get_type_hints(cls)[name], f"{section}.{name}", origin), origin)


def _for_method(method: str, files: _Layers, *, with_base: bool) -> _Layers:
    """Layers of files with their tables for a method, and the method's own row, where they count."""
    own = [[(f"{origin} [train.{method}]", table.get(method, {})), (origin, table)] for origin, table in files]
    row = (f"method {method}", METHODS[method].defaults)
    if not with_base:
        return [layer for pair in own for layer in pair] + [row]
    special, general = own.pop()
    return [layer for pair in own for layer in pair] + [special, row, general]


def _check_environment(section: str, known: list[str]) -> None:
    prefix = f"CDTOOL_{section}_".upper()
    names = [prefix + name.upper() for name in (*known, *RENAMED)]
    for name in os.environ:
        if name.startswith(prefix) and name not in names:
            raise SettingsError(f"There is no setting {name}.", nearest(name, names) or "See: cdtool config")


def base_name(flag: str | None = None) -> Value:
    """The base in force: flag > CDTOOL_BASE > ./cdtool.toml > user > mini."""
    candidates = [("flag", flag), ("CDTOOL_BASE", os.environ.get("CDTOOL_BASE"))]
    candidates += [(origin, table.get("base")) for origin, table in layers()]
    return next((Value(str(value), origin) for origin, value in candidates if value), Value("mini", "default"))


def write_base(name: str, vae: str = "") -> Path:
    """Make `name` the user's base, with an autoencoder of their own: lines of config.toml, the rest of which stays.

    Returns the file.
    """
    path = config_file()
    read_toml(path)  # a file that is broken already is not touched
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    line, top = f"base = {json.dumps(name, ensure_ascii=False)}\n", re.split(r"(?m)^(?=\s*\[)", text, maxsplit=1)
    top[0] = re.sub(r"(?m)^\s*vae\s*=.*\n?", "", top[0])
    line += f"vae = {json.dumps(vae, ensure_ascii=False)}\n" if vae else ""
    old = re.compile(r"(?m)^\s*base\s*=.*\n?")
    top[0] = old.sub(lambda _: line, top[0], count=1) if old.search(top[0]) else line + top[0]
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("".join(top), encoding="utf-8")
    return path


def _convert(raw: Any, hint: Any, name: str, origin: str) -> Any:
    told = shortened(printable(str(raw)), 80)
    allowed = get_args(hint)
    if allowed:
        if raw not in allowed:
            close = nearest(told, allowed) or f"It is one of {', '.join(allowed)}."
            raise SettingsError(f'{name} (from {origin}) cannot be "{told}".', close)
        return raw
    try:
        if hint is bool:
            return raw if isinstance(raw, bool) else _BOOLS[str(raw).lower()]
        if (
            isinstance(raw, bool)
            or not isinstance(raw, str | int | float)
            or (hint is str and not isinstance(raw, str))
        ):
            raise TypeError
        value = cast("Any", hint)(raw)
        if hint is int and isinstance(raw, float) and value != raw:
            raise ValueError
        return value
    except (ValueError, TypeError, KeyError, OverflowError):
        raise SettingsError(f'{name} (from {origin}) must be {_KINDS[hint]}, not "{told}".') from None


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOOLS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
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
        if settings.prior_weight < 0 or settings.weight_decay < 0 or settings.resolution < 0:
            raise SettingsError("prior_weight, weight_decay and resolution cannot be negative.")
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
