"""Make the embedded base: `python -m cdtool.mini.build [STAGE ...]`; every stage goes on where it stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cdtool.mini import art, clip, unet, vae, words
from cdtool.mini.recipe import Progress, Recipe, device
from cdtool.mini.world import draw

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPModel, CLIPTokenizer

BUILD = Path("build/mini")
CAPTIONS = 20_000  # captions the tokenizer learns from
NORMALISED_ON = range(10_000_000, 10_001_000)  # seeds of the pictures whose latents set the channels' scale


@dataclass
class Workshop:
    """What the stages have made so far, read from the build folder when first needed."""

    recipe: Recipe
    folder: Path
    minutes: float

    @cached_property
    def cutouts(self) -> dict[str, Any]:
        return art.load(self.folder / "art.npz")

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        from transformers import CLIPTokenizer

        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(self.folder / "tokenizer")
        return tokenizer

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The trained autoencoder with unit latents."""
        import numpy as np

        model = vae.new(self.recipe).eval().requires_grad_(False)
        model.load_state_dict(self._state("vae")["model"])
        vae.normalise(model, np.stack([draw(self.recipe.seen, self.cutouts, seed).pixels for seed in NORMALISED_ON]))
        return model

    def pair(self, name: str) -> CLIPModel:
        """A trained CLIP pair."""
        model = clip.new(self.recipe, self.tokenizer).eval().requires_grad_(False)
        model.load_state_dict(self._state(name)["model"])
        return model

    def _state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.folder / f"{name}.pt", map_location="cpu", weights_only=True)
        return state


def make_tokenizer(shop: Workshop) -> Iterator[Progress]:
    """Learn the tokenizer from captions."""
    captions = (draw(shop.recipe.seen, shop.cutouts, seed).caption for seed in range(CAPTIONS))
    words.build(captions, shop.recipe.merges, shop.recipe.positions, shop.folder / "tokenizer")
    yield Progress("tokenizer", CAPTIONS, 0.0, 0.0)


def make_text(shop: Workshop) -> Iterator[Progress]:
    """Train the pair whose text half the denoiser listens to."""
    return clip.train("clip-text", shop.recipe, shop.tokenizer, shop.cutouts, shop.folder, shop.minutes)


def make_eval(shop: Workshop) -> Iterator[Progress]:
    """Train the pair `eval` measures with."""
    return clip.train("clip-eval", shop.recipe, shop.tokenizer, shop.cutouts, shop.folder, shop.minutes)


def make_vae(shop: Workshop) -> Iterator[Progress]:
    """Train the autoencoder."""
    return vae.train(shop.recipe, shop.cutouts, shop.folder, shop.minutes)


def make_unet(shop: Workshop) -> Iterator[Progress]:
    """Encode a bank of pictures and train the denoiser on it."""
    stored = unet.bank(shop.recipe, shop.vae.to(device()), shop.tokenizer, shop.cutouts, shop.folder / "bank.pt")
    text = shop.pair("clip-text").text_model.to(device())
    yield from unet.train(shop.recipe, text, shop.tokenizer, stored, shop.folder, shop.minutes)


STAGES: dict[str, Callable[[Workshop], Iterator[Progress]]] = {
    "tokenizer": make_tokenizer,
    "clip-text": make_text,
    "clip-eval": make_eval,
    "vae": make_vae,
    "unet": make_unet,
}


def main() -> None:
    """Run the stages named on the command line, all of them by default."""
    options = argparse.ArgumentParser(prog="python -m cdtool.mini.build", description=__doc__)
    options.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; all by default")
    options.add_argument("--folder", type=Path, default=BUILD, help="where the work lies")
    options.add_argument("--minutes", type=float, default=float("inf"), help="stop each stage after so long")
    options.add_argument("--threads", type=int, default=0, help="CPU threads to use")
    chosen = options.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    shop = Workshop(Recipe(), chosen.folder, chosen.minutes)
    for stage in chosen.stages or STAGES:
        for progress in STAGES[stage](shop):
            print(*progress, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
