"""The second edition as a base folder: a diffusers pipeline, with the measuring pair and the settings that ship."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cdtool.mini.factory import words
from cdtool.mini.factory.pack import SHARD
from cdtool.mini.factory.student import SPREAD
from cdtool.mini.factory.unet import scheduler
from cdtool.models.initializers import rare

APART = 0.3  # of rare words from one another, in shares of SPREAD

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from torch import Tensor
    from transformers import CLIPTokenizer

    from cdtool.mini.factory.student import Student


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


def pack(folder: Path, student: Student, vae: AutoencoderKL, tokenizer: CLIPTokenizer, shipped: Path) -> None:
    """Write UNet and VAE in fp16, the text encoder in float32; all else is that of the `shipped` base."""
    made = pipeline(student, vae, tokenizer)
    made.vae, made.unet, made.text_encoder = made.vae.half(), made.unet.half(), made.text_encoder.float()
    made.save_pretrained(folder, max_shard_size=SHARD)
    for path in shipped.iterdir():
        if not (folder / path.name).exists():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
