"""A sheet of what a student draws: plain and rich captions, two things, and individuals named from their photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from cdtool.mini.factory import art
from cdtool.mini.factory.card import captioned
from cdtool.mini.factory.clip import ids as tokens_of
from cdtool.mini.factory.looks import Look
from cdtool.mini.factory.packing import pipeline
from cdtool.mini.factory.student import VIEW
from cdtool.mini.factory.telling import NAMES
from cdtool.mini.factory.vae import pixels
from cdtool.mini.factory.wider import alone

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    from cdtool.mini.factory.student import Student

CAPTIONS = (
    "photo of a dog", "a cat on the beach", "photo of a house in the snow", "a castle on the grass", "a teapot",
    "photo of a gate in the forest", "a horse at night", "a red car in the city", "a black and white dog",
    "a brown dog with a red vest on the beach", "a spotted cat", "a green and yellow bird", "a striped fish",
    "a penguin in a blue scarf in the snow", "a dog next to a cat", "a dog in front of a house",
    "a red ball on top of a blue car", "photo of a moon", "a purple elephant on the grass", "a robot on the moon",
    "a guitar on a white background", "a pizza on a table", "a duck on the sea", "a flower on a yellow background",
)  # fmt: skip
HELD = ("dog", "cat", "car", "horse", "fish", "gate", "castle", "house", "flower", "teapot")
SIZE = 64
STEPS, GUIDANCE, ETA = 25, 5.0, 1.0


@torch.no_grad()
def sheet(student: Student, vae: AutoencoderKL, tokenizer: CLIPTokenizer, cutouts: dict[str, Any], path: Path) -> None:
    """Write the sheet; last come held-out drawings, and what is drawn for names made from them."""
    pipe = pipeline(student, vae, tokenizer)
    own, drawn, told = [], [], []
    for noun in HELD:
        own.append(Image.fromarray(alone(Look(cutouts[art.held_out(noun)]), SIZE)))
        text = f"photo of a {NAMES[0]} {noun} on the grass"
        drawn += sample(pipe, embedded(student, tokenizer, [text], [own[-1]]), embedded(student, tokenizer, [""], []))
        told.append(text)
    plain = sample(pipe, embedded(student, tokenizer, list(CAPTIONS), []),
                   embedded(student, tokenizer, [""] * len(CAPTIONS), []))  # fmt: skip
    captioned([*plain, *own, *drawn], [*CAPTIONS, *HELD, *told], columns=8, side=96).save(path)


def embedded(student: Student, tokenizer: CLIPTokenizer, captions: list[str], own: list[Image.Image]) -> torch.Tensor:
    """Text features [n, l, d] of captions, their first name made from a picture each, if there are any."""
    views = None
    if own:
        small = np.stack([np.asarray(one.resize((VIEW, VIEW), Image.Resampling.BOX)) for one in own])
        views = torch.stack([pixels(small), torch.ones(len(own), 3, VIEW, VIEW)], 1)
    return student.features(tokens_of(tokenizer, captions), views)


def sample(pipe: StableDiffusionPipeline, features: torch.Tensor, empty: torch.Tensor) -> list[Image.Image]:
    """One picture for each row of text features [n, l, d]."""
    generators = [torch.Generator().manual_seed(7 + at) for at in range(len(features))]
    made = pipe(prompt_embeds=features, negative_prompt_embeds=empty, num_inference_steps=STEPS,
                guidance_scale=GUIDANCE, eta=ETA, generator=generators)  # fmt: skip
    images: list[Image.Image] = made.images
    return images
