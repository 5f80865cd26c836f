"""Encoders that see pictures and read no text: DINO for likeness, Inception for the distance of sets of pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from cdtool import cache
from cdtool.errors import BaseError, NotFoundError
from cdtool.files import parse_json
from cdtool.models import encoders
from cdtool.models.encoders import Encoder, EncoderSpec, Preprocessing
from cdtool.settings import cache_dir
from cdtool.sources import read_toml

if TYPE_CHECKING:
    from cdtool.models.encoders import Features

DINO = EncoderSpec("dino-vits16", "facebook/dino-vits16", floor=0.0)
DINOV2 = EncoderSpec("dinov2-small", "facebook/dinov2-small", floor=0.0)
INCEPTION = "inception-2015-12-05.pt"  # the TorchScript file that clean-fid measures with
_SOURCE = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION}"
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_SIDE = 299  # px, what Inception takes
_DINOV2_SIDE = 224  # px


def dino_for(base_folder: Path, key: str = "dino") -> EncoderSpec:
    """The "dino" or "dinov2" a base brings along, or else the published `dino_vits16` or `dinov2-small`."""
    own = read_toml(base_folder / "cdtool.toml").get("eval", {}).get(key)
    return EncoderSpec(str(own), str(base_folder / str(own)), 0.0) if own else {"dino": DINO, "dinov2": DINOV2}[key]


def load_dino(spec: EncoderSpec, device: str = "cpu") -> Encoder:
    """Load a DINO or DINOv2 in float32: an image's features are its class token's, after the last norm.

    Short side 8/7 of the input by bicubic, then its centre; DINOv2 takes 224 px. Raises NotFoundError where it is
    missing, BaseError where it is damaged.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import Dinov2Model, ViTModel

    folder = encoders.find(spec)
    try:
        kind = parse_json(folder / "config.json").get("model_type")
        if kind not in ("vit", "dinov2"):
            raise ValueError("its config.json is not that of a ViT")
        model: Any = (
            ViTModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32) if kind == "vit"
            else Dinov2Model.from_pretrained(folder, dtype=torch.float32)
        )  # fmt: skip
        model.to(device).eval()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BaseError(f"The encoder {spec.where} cannot be loaded ({error}).", "Get it again.") from None
    # DINOv2 was trained at 518 px and is measured with at 224, which its position embeddings are interpolated to.
    side = min(int(model.config.image_size), _DINOV2_SIDE) if kind == "dinov2" else int(model.config.image_size)
    how = Preprocessing(side * 8 // 7, (side, side), _MEAN, _SPREAD)

    @torch.inference_mode()
    def image(images: Sequence[Image.Image]) -> Features:
        pixels = torch.from_numpy(np.stack([encoders.preprocess(picture, how) for picture in images]))
        found: Features = model(pixel_values=pixels.to(device)).last_hidden_state[:, 0].float().cpu().numpy()
        return found

    return Encoder(spec, _no_text, image, cache.fingerprint(folder))


def inception() -> EncoderSpec:
    """The Inception network of FID and KID, in the cache folder."""
    return EncoderSpec("inception-v3", str(cache_dir() / INCEPTION), 0.0)


def find_inception() -> Path:
    """Its file on this machine. Raises NotFoundError with the command that gets it."""
    path = Path(inception().where)
    if not path.is_file():
        raise NotFoundError(
            "The Inception network that KID and FID of this base are measured with is not on this machine.",
            f"curl --create-dirs -o {path} {_SOURCE}",
        )
    return path


def load_inception(device: str = "cpu") -> Encoder:
    """Load Inception: features are its last pool's, of pictures brought to 299 px by bicubic without rounding.

    Raises NotFoundError where it is missing, BaseError where it is damaged.
    """
    import torch

    path, jit = find_inception(), cast("Any", torch.jit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the network is published as TorchScript only
            network: Any = jit.load(str(path), map_location=device).eval().layers
    except (RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BaseError(f"{path} cannot be loaded ({reason}).", f"curl -o {path} {_SOURCE}") from None

    @torch.inference_mode()
    def image(images: Sequence[Image.Image]) -> Features:
        pixels = torch.from_numpy(np.stack([_enlarged(picture) for picture in images])).to(device)
        found: Features = network((pixels - 128) / 128).flatten(1).float().cpu().numpy()
        return found

    return Encoder(inception(), _no_text, image, cache.fingerprint(path))


def set_features(encoder: Encoder, found: Features) -> Features:
    """Features [n, d] as distances of sets take them: Inception's as they are, others with the length √d.

    Then a coordinate is about 1 in size, for which KID's kernel is made; a CLIP's own lengths mean nothing.
    """
    if encoder.spec.name == inception().name:
        return found
    scaled: Features = encoders.unit(found) * np.float32(found.shape[1] ** 0.5)
    return scaled


def _enlarged(picture: Image.Image) -> Features:
    """[3, 299, 299] of an RGB picture in [0, 255], each channel resized in float32."""
    bands = [
        band.convert("F").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC) for band in picture.convert("RGB").split()
    ]
    return np.stack([np.asarray(band, dtype=np.float32) for band in bands])


def _no_text(texts: Sequence[str]) -> Features:
    raise TypeError("This encoder reads no text.")
