"""The CLIP pair that `eval` measures with, trained on pictures and captions of the world."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from cdtool.mini.factory import ahead, clip, words
from cdtool.mini.factory.compiling import compiled
from cdtool.mini.factory.loop import Pace, Report, device, fit, sized
from cdtool.mini.factory.telling import article
from cdtool.mini.factory.vae import pixels
from cdtool.mini.factory.wider import Wide, draw

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPModel, CLIPTokenizer

    from cdtool.mini.factory.drawings import Shelf

FIRST = 1_700_000_000  # seed of the first picture
ASKED = 64  # nouns told apart in each update, beside those in the pictures
WORLD = Wide(named=0.0, hybrids=0.0)
PACE = Pace(pictures=1_500_000, batch=128, rate=1e-3, weight_decay=1e-2, average=0.999)


class Batch(NamedTuple):
    """Pictures [b, 64, 64, 3] uint8, their captions, and the nouns of each."""

    pixels: Any
    captions: list[str]
    nouns: list[tuple[str, ...]]


def pictures(shelf: Shelf, batch: int, update: int) -> Batch:
    """The batch of an update."""
    seeds = range(FIRST + update * batch, FIRST + (update + 1) * batch)
    scenes = [draw(WORLD, shelf, seed) for seed in seeds]
    shown = np.stack([scene.pixels for scene in scenes])
    return Batch(shown, [scene.caption for scene in scenes], [scene.nouns for scene in scenes])


def asked(nouns: list[str], batch: Batch, update: int) -> list[str]:
    """The nouns of the pictures, and some others to be told from."""
    some = np.random.default_rng(update).choice(len(nouns), ASKED, replace=False)
    seen = {noun for found in batch.nouns for noun in found}
    return [*sorted(seen), *(nouns[at] for at in some if nouns[at] not in seen)]


def train(shelf: Shelf, tokenizer: CLIPTokenizer, folder: Path, minutes: float) -> Iterator[Report]:
    """Train the pair into `folder/judge.pt`: CLIP's loss over captions, and naming of each picture's nouns."""
    torch.manual_seed(51)
    model = clip.new(tokenizer).to(device()).train()
    pace, nouns = sized(PACE), list(shelf.nouns)
    look, read = compiled(partial(_seen, model)), compiled(partial(_told, model))
    drawn = ahead.batches(partial(pictures, shelf, pace.batch), ahead.workers())

    def loss(update: int) -> Tensor:
        batch = drawn(update)
        questions = asked(nouns, batch, update)
        texts = [*batch.captions, *(clip.NAMING[update % 3].format(article(noun)) for noun in questions)]
        texts += [""] * (pace.batch + 4 * ASKED - len(texts))  # one length, compiled once
        seen = look(pixels(batch.pixels).to(device(), pace.precision)).float()
        told = read(clip.ids(tokenizer, texts).to(device())).float()
        logits = seen @ told.T * model.logit_scale.float().exp()
        named = logits[:, len(batch.captions) : len(batch.captions) + len(questions)]
        return clip.contrast(logits[:, : len(batch.captions)]) + _naming(named, batch, questions)

    yield from fit("judge", model, loss, folder, pace, minutes)


def trained(tokenizer: CLIPTokenizer, folder: Path) -> CLIPModel:
    """The averaged pair of `folder`, float32."""
    model = clip.new(tokenizer)
    state = torch.load(folder / "judge.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["average"], strict=False)
    words.give_names(model.text_model, tokenizer)
    return model.eval().requires_grad_(False)


def _seen(model: CLIPModel, batch: Tensor) -> Tensor:
    """Unit features [b, d] of pictures [b, 3, h, w]."""
    pooled = model.vision_model(pixel_values=batch).pooler_output
    return F.normalize(model.visual_projection(pooled), dim=-1)


def _told(model: CLIPModel, tokens: Tensor) -> Tensor:
    """Unit features [b, d] of token ids [b, l]."""
    pooled = model.text_model(input_ids=tokens).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


def _naming(logits: Tensor, batch: Batch, questions: list[str]) -> Tensor:
    """Cross-entropy of each picture's nouns among those asked; logits [b, q]."""
    target = torch.zeros_like(logits)
    for row, found in enumerate(batch.nouns):
        for noun in found:
            target[row, questions.index(noun)] += 1 / len(found)
    return F.cross_entropy(logits, target)
