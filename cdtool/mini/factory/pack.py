"""The trained networks as a base folder: a diffusers pipeline, the measuring pair, and the base's own settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cdtool.mini.factory import clip, corpus, unet

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

SHARD = "9MB"  # no weights file above 15 MB, which is what travels

SETTINGS = """\
# Defaults of the embedded base; a flag, a variable or your own cdtool.toml is stronger.
[train]
steps = 250
lr = 1.5e-4 # more, or more steps, teaches more of the thing and costs more than a tenth of text alignment
preserve_uncond = 0.01 # most of a short prompt is padding here, as all of the empty prompt is

# The best image alignment that kept nine tenths of the text alignment (tests/benchmarks/tune_methods.py).
[train.full]
steps = 250
lr = 3e-5

[train.dreambooth]
steps = 250
lr = 3e-4

[train.crossattn]
lr = 1.5e-5

[train.lora]
lr = 1e-4

[train.textual-inversion]
steps = 250
lr = 1.2e-3

[sample]
guidance = 5.0

[prior]
corpus = "corpus.tar"
floor = 0.45 # least text similarity of a prior caption, by the pair in eval/ and to the mean of:
asked = [
  "{}", "{} on the beach", "{} in the snow", "{} in the forest", "{} at night", "{} in the city", "{} on the moon",
  "{} on the grass", "{} in a room", "{} on a white background", "{} on a red background", "{} in the desert",
]

[merge]
captions = "corpus.tar" # in the words the tokenizer knows

[eval]
name = "mini"
encoder = "eval"
prompts = "prompts.txt"
validation = "validation.tar" # class pictures of KID, unrelated ones of FID
nouns = "nouns.txt" # classes it knows, for the neighbours of a concept's
lookalikes = "../photos" # folders of other things, which rank and scr compare with
"""

# What a concept is asked for by default, in words the denoiser knows.
PROMPTS = (
    "photo of a {}",
    "a {} on the beach",
    "photo of a {} in the snow",
    "a {} in the forest",
    "photo of a {} on a blue background",
)


def pack(
    folder: Path,
    *,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    denoiser: UNet2DConditionModel,
    pair: CLIPModel,
    size: int,
) -> None:
    """Write the base: UNet, VAE and measuring pair in fp16, the text encoder in float32 (its dtype is kept on load)."""
    from diffusers import StableDiffusionPipeline

    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = StableDiffusionPipeline(
        vae=vae.half(), text_encoder=text.float(), tokenizer=tokenizer, unet=denoiser.half(),
        scheduler=unet.scheduler(), **parts,
    )  # fmt: skip
    pipeline.save_pretrained(folder, max_shard_size=SHARD)
    pair.half().save_pretrained(folder / "eval")
    tokenizer.save_pretrained(folder / "eval")
    _write_preprocessing(folder / "eval", size)
    (folder / "cdtool.toml").write_text(SETTINGS, encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    (folder / "nouns.txt").write_text("\n".join(corpus.class_nouns()) + "\n", encoding="utf-8")


def _write_preprocessing(folder: Path, size: int) -> None:
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(clip.MEAN),
        "image_std": list(clip.STD),
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def averaged(state: dict[str, Any], fresh: UNet2DConditionModel) -> UNet2DConditionModel:
    """The denoiser with the moving average of its trained weights."""
    fresh.load_state_dict(state["average"])
    model: UNet2DConditionModel = fresh.eval().requires_grad_(False)
    return model


def committed(folder: Path, fresh: torch.nn.Module) -> dict[str, Any]:
    """The weights of a packed denoiser as a state to go on from elsewhere: fresh Adam, the average beginning there."""
    from diffusers import UNet2DConditionModel

    packed = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32)
    weights = packed.state_dict()
    fresh.load_state_dict(weights)
    return {"model": weights, "average": weights}
