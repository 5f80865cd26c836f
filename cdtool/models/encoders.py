"""Features of texts and pictures in a shared space, for finding similar captions and for measuring."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cdtool import cache
from cdtool.errors import BaseError, NotFoundError
from cdtool.files import parse_json
from cdtool.paths import is_dir
from cdtool.sources import read_toml

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Features = NDArray[np.float32]

BATCH = 64


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder: its name, its folder or hub id, and the least text similarity of a prior caption in its space.

    `asked` are the ways a class is asked for when captions are searched, as one text whose features are their mean.
    """

    name: str
    where: str
    floor: float
    asked: tuple[str, ...] = ("{}",)


ENCODERS = {"clip-vit-b32": EncoderSpec("clip-vit-b32", "openai/clip-vit-base-patch32", floor=0.85)}


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder: functions from texts and from RGB pictures to features [n, d] of any length.

    Features of pictures are kept under the encoder's fingerprint; without one they are not kept.
    """

    spec: EncoderSpec
    text: Callable[[Sequence[str]], Features]
    image: Callable[[Sequence[Image.Image]], Features]
    fingerprint: str = ""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an encoder's input: short side and crop in px, channel mean and spread in [0, 1]."""

    side: int
    crop: tuple[int, int]  # height, width
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = int(Image.Resampling.BICUBIC)


def encoder_for(base_folder: Path | None) -> EncoderSpec:
    """The encoder a base brings along, or else CLIP ViT-B/32.

    Raises BaseError for a base whose encoder is missing.
    """
    table = read_toml(base_folder / "cdtool.toml") if base_folder else {}
    given = table.get("eval", {})
    own = given.get("encoder")
    if base_folder is None or own is None:
        return ENCODERS["clip-vit-b32"]
    folder = base_folder / str(own)
    if not (folder / "config.json").is_file():
        raise BaseError(f"The base {base_folder} has no encoder {own}, which it names.", "Get the base again.")
    prior = table.get("prior", {})
    floor = float(prior.get("floor", ENCODERS["clip-vit-b32"].floor))
    asked = tuple(str(way) for way in prior.get("asked", EncoderSpec.asked))
    return EncoderSpec(str(given.get("name", own)), str(folder), floor, asked)


def find(spec: EncoderSpec) -> Path:
    """The folder of an encoder on this machine. Raises NotFoundError with the command that gets it."""
    if is_dir(spec.where):
        return Path(spec.where)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.where, local_files_only=True))
    except LocalEntryNotFoundError:
        raise NotFoundError(
            f"The encoder {spec.where} that measures pictures is not on this machine.", f"hf download {spec.where}"
        ) from None


def load(spec: EncoderSpec, device: str = "cpu") -> Encoder:
    """Load an encoder in float32. Raises NotFoundError where it is missing, BaseError where it is damaged."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoTokenizer, CLIPModel

    folder = find(spec)
    try:
        model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32)
        model.to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        preprocessing = read_preprocessing(folder / "preprocessor_config.json")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BaseError(f"The encoder {spec.where} cannot be loaded ({error}).", "Get it again.") from None
    length = model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def text(texts: Sequence[str]) -> Features:
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return _numbers(model.get_text_features(**tokens.to(device)))

    @torch.inference_mode()
    def image(images: Sequence[Image.Image]) -> Features:
        pixels = np.stack([preprocess(picture, preprocessing) for picture in images])
        return _numbers(model.get_image_features(pixel_values=torch.from_numpy(pixels).to(device)))

    return Encoder(spec, text, image, cache.fingerprint(folder))


def lazy(spec: EncoderSpec) -> Encoder:
    """The same, loaded when something is asked that is not in the cache. Raises NotFoundError where it is missing."""
    loaded = functools.cache(lambda: load(spec))
    return Encoder(spec, lambda texts: loaded().text(texts), lambda images: loaded().image(images),
                   cache.fingerprint(find(spec)))  # fmt: skip


def _numbers(made: Any) -> Features:
    tensor = getattr(made, "pooler_output", made)  # newer transformers wrap the features
    numbers: Features = tensor.float().cpu().numpy()
    return numbers


def text_features(encoder: Encoder, texts: Sequence[str]) -> Features:
    """Features [n, d] of texts: float32 of unit length; texts are cut at the encoder's own length.

    Those of the same texts together are kept in the cache under the encoder's fingerprint.
    """
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)

    def encode() -> Features:
        return np.concatenate([encoder.text(batch) for batch in _batches(texts)])

    return unit(cache.text_rows(texts, encode, encoder.fingerprint) if encoder.fingerprint else encode())


def image_features(encoder: Encoder, images: Iterable[Image.Image]) -> Features:
    """Features [n, d] of RGB pictures of any sizes: float32 of unit length."""
    return unit(raw_image_features(encoder, images))


def raw_image_features(encoder: Encoder, images: Iterable[Image.Image]) -> Features:
    """Features [n, d] of RGB pictures of any sizes as the encoder gives them; a few pictures are held at a time."""
    if encoder.fingerprint:
        return cache.rows(images, encoder.image, encoder.fingerprint, batch=BATCH)
    parts = [encoder.image(batch) for batch in cache.batches(images, BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def unit(features: Features) -> Features:
    """Rows [n, d] brought to unit length; a zero row stays zero."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    rows: Features = (features / np.maximum(lengths, 1e-12)).astype(np.float32)
    return rows


def read_preprocessing(path: Path) -> Preprocessing:
    """What a preprocessor_config.json says. Raises ValueError or KeyError where it is not one."""
    table = parse_json(path)
    side, crop = table["size"], table.get("crop_size", table["size"])
    side = side if isinstance(side, int) else side.get("shortest_edge", side.get("height"))
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    height, width = (crop.get(name, crop.get("shortest_edge")) for name in ("height", "width"))
    return Preprocessing(
        int(side), (int(height), int(width)), tuple(table["image_mean"]), tuple(table["image_std"]),
        int(table.get("resample", Image.Resampling.BICUBIC)),
    )  # fmt: skip


def preprocess(image: Image.Image, how: Preprocessing) -> Features:
    """A picture as an encoder takes it, [3, height, width]: short side resized, centre cropped, normalised."""
    short, (width, height) = min(image.size), image.size
    resized = image.convert("RGB").resize((how.side * width // short, how.side * height // short), how.resample)
    top, left = (resized.height - how.crop[0]) // 2, (resized.width - how.crop[1]) // 2
    cropped = resized.crop((left, top, left + how.crop[1], top + how.crop[0]))
    pixels = np.asarray(cropped, dtype=np.float32) / 255
    normal = (pixels - np.array(how.mean)) / np.array(how.std)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), dtype=np.float32)
