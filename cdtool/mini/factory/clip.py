"""The CLIP-like pair of the embedded base: one trained for its denoiser's text, another for `eval`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from cdtool.mini.factory.recipe import Progress, Recipe, device, fit
from cdtool.mini.factory.vae import pixels
from cdtool.mini.factory.world import JUDGED, WIDE, Picture, World, article, draw

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPModel, CLIPTokenizer

BATCH = 128
NAMING = ("{}", "photo of {}", "a photo of {}")


class Pair(NamedTuple):
    """What sets a pair apart: seed, its world, first picture, pictures, and the weight of naming nouns in its loss."""

    seed: int
    world: World
    first: int
    pictures: int
    naming: float


PAIRS = {
    "clip-text": Pair(1, WIDE, 40_000_000, 124_000, naming=0.0),
    "clip-eval": Pair(2, JUDGED, 80_000_000, 500_000, naming=1.0),
}
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


def new(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained pair of the recipe's size for the tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    text = {"vocab_size": len(tokenizer), "hidden_size": recipe.text_width, "num_hidden_layers": recipe.text_layers,
            "num_attention_heads": recipe.heads, "intermediate_size": 4 * recipe.text_width,
            "max_position_embeddings": recipe.positions, "projection_dim": recipe.projection, **ends}  # fmt: skip
    vision = {"hidden_size": recipe.vision_width, "num_hidden_layers": recipe.vision_layers,
              "num_attention_heads": recipe.heads, "intermediate_size": 4 * recipe.vision_width,
              "image_size": recipe.size, "patch_size": recipe.patch,
              "projection_dim": recipe.projection}  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=recipe.projection)
    config._attn_implementation = "eager"  # the fused kernel's backward is slow on CPUs at these sizes
    return CLIPModel(config)


def ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids [b, l], padded and cut to the tokenizer's positions."""
    made = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    tokens: Tensor = made["input_ids"]
    return tokens


def train(
    name: str, recipe: Recipe, tokenizer: CLIPTokenizer, cutouts: dict[str, Any], folder: Path, minutes: float
) -> Iterator[Progress]:
    """Train the pair `name` of `PAIRS` on its own pictures into `folder/name.pt`.

    The loss is CLIP's over a batch of captions, plus how well plain captions name each picture's nouns.
    """
    pair = PAIRS[name]
    torch.manual_seed(pair.seed)
    model = new(recipe, tokenizer).to(device()).train()
    nouns = pair.world.names()

    def loss(update: int) -> Tensor:
        start = pair.first + update * BATCH
        drawn = [draw(pair.world, cutouts, at) for at in range(start, start + BATCH)]
        captions = [picture.caption for picture in drawn]
        if pair.naming:
            captions += [NAMING[update % len(NAMING)].format(article(noun)) for noun in nouns]
        logits = _logits(model, drawn, ids(tokenizer, captions))
        named = _naming(logits[:, BATCH:], drawn, nouns) if pair.naming else 0.0
        return _contrast(logits[:, :BATCH]) + pair.naming * named

    yield from fit(name, model, loss, folder=folder, pictures=pair.pictures, batch=BATCH, rate=8e-4, minutes=minutes)


def _logits(model: CLIPModel, drawn: list[Picture], tokens: Tensor) -> Tensor:
    """Scaled cosines [pictures, texts]."""
    batch = pixels(np.stack([picture.pixels for picture in drawn])).to(device())
    with torch.autocast(device().type, torch.bfloat16):
        logits: Tensor = model(input_ids=tokens.to(device()), pixel_values=batch).logits_per_image
    return logits.float()


def _contrast(logits: Tensor) -> Tensor:
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _naming(logits: Tensor, drawn: list[Picture], nouns: list[str]) -> Tensor:
    target = torch.zeros_like(logits)
    for row, picture in enumerate(drawn):
        for noun in picture.nouns:
            target[row, nouns.index(noun)] = 1 / len(picture.nouns)
    return F.cross_entropy(logits, target)


@torch.no_grad()
def retrieval(model: CLIPModel, tokenizer: CLIPTokenizer, drawn: list[Any]) -> float:
    """Share of pictures whose own caption is the nearest of all their captions."""
    tokens = ids(tokenizer, [picture.caption for picture in drawn]).to(model.device)
    batch = pixels(np.stack([picture.pixels for picture in drawn])).to(model.device)
    logits = model(input_ids=tokens, pixel_values=batch).logits_per_image
    return float((logits.argmax(1).cpu() == torch.arange(len(drawn))).float().mean())
