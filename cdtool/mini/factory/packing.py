"""The trained networks as a base folder: a diffusers pipeline, the measuring pair, and the base's own settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cdtool.mini.factory import clip, words
from cdtool.mini.factory.denoiser import scheduler
from cdtool.mini.factory.student import SPREAD
from cdtool.models.initializers import rare

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from torch import Tensor
    from transformers import CLIPModel, CLIPTokenizer

    from cdtool.mini.factory.student import Student

SHARD = "9MB"  # no weights file above 15 MB, which is what travels
APART = 0.3  # of rare words from one another, in shares of SPREAD

SETTINGS = """\
# Defaults of the embedded base; a flag, a variable or your own cdtool.toml is stronger.
[train]
steps = 250
lr = 1.5e-4 # twice as much shows more of the thing and keeps less of the text; see card/experiments.md
preserve_uncond = 0.01 # most of a short prompt is padding here, as all of the empty prompt is

# Most of a thing is told by its word here, which learned with names that stand for one individual.
[train.kv]
token_lr = 1.2e-3

# Of these kv and full were tried on today's weights (card/experiments.md), the others on those before them, where they
# gave the best image alignment that kept nine tenths of the text alignment (tests/benchmarks/tune_methods.py).
[train.full]
steps = 250
lr = 3e-4

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
floor = 0.6 # least text similarity of a prior caption, by the pair in eval/ and to the mean of:
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


@torch.no_grad()
def name_rare(student: Student, tokenizer: CLIPTokenizer, views: Tensor) -> None:
    """Make every rare word the name of nobody in particular: about the mean of the names of many views, in place.

    Untrained embeddings would each be the name of someone odd, from whom a concept would first have to be led away.
    """
    vocabulary = tokenizer.get_vocab()
    words = rare(vocabulary)
    middle = student.namer(views).mean(0)
    middle = middle * SPREAD / middle.pow(2).mean().sqrt()
    noise = torch.randn(len(words), len(middle), generator=torch.Generator().manual_seed(0)) * SPREAD * APART
    table = student.text.get_input_embeddings().weight
    table[[vocabulary[f"{word}</w>"] for word in words]] = middle + noise


def pipeline(student: Student, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline of what was trained; the words of words.NAMES are kinds of their like."""
    from diffusers import StableDiffusionPipeline
    from diffusers.models.attention_processor import AttnProcessor2_0

    words.give_names(student.text, tokenizer)
    student.unet.set_attn_processor(AttnProcessor2_0())
    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    made = StableDiffusionPipeline(
        vae=vae, text_encoder=student.text, tokenizer=tokenizer, unet=student.unet, scheduler=scheduler(), **parts
    )
    made.set_progress_bar_config(disable=True)
    return made


def pack(
    folder: Path, student: Student, vae: AutoencoderKL, pair: CLIPModel, tokenizer: CLIPTokenizer, nouns: Sequence[str]
) -> None:
    """Write the base: UNet, VAE and measuring pair in fp16, the text encoder in float32 (its dtype is kept on load).

    `nouns` are the classes of the photo folders.
    """
    made = pipeline(student, vae, tokenizer)
    made.vae, made.unet, made.text_encoder = made.vae.half(), made.unet.half(), made.text_encoder.float()
    made.save_pretrained(folder, max_shard_size=SHARD)
    pair.half().save_pretrained(folder / "eval")
    tokenizer.save_pretrained(folder / "eval")
    _write_preprocessing(folder / "eval")
    (folder / "cdtool.toml").write_text(SETTINGS, encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    (folder / "nouns.txt").write_text("\n".join(nouns) + "\n", encoding="utf-8")


def _write_preprocessing(folder: Path) -> None:
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": clip.SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": clip.SIZE, "width": clip.SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(clip.MEAN),
        "image_std": list(clip.STD),
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
