"""Make the embedded base: `python -m cdtool.mini.factory.build [STAGE ...]`; every stage goes on where it stopped.

Within a machine a stage goes on from its full state in the build folder. Elsewhere the committed base is all there is:
its tokenizer, text encoder, VAE and measuring pair are kept as they are, and the denoiser goes on from its weights with
fresh Adam and a warm-up. `--anew` ignores the committed base.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cdtool.mini.factory import art, artwork, card, clip, corpus, pack, photosets, unet, vae, words
from cdtool.mini.factory.recipe import Progress, Recipe, device, write
from cdtool.mini.factory.world import draw

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

BUILD = Path("build/mini")
BASE = Path(__file__).parent.parent / "base"
CAPTIONS = 20_000  # captions the tokenizer learns from
NORMALISED_ON = range(10_000_000, 10_001_000)  # seeds of the pictures whose latents set the channels' scale


@dataclass
class Workshop:
    """What the stages have made so far, read from the build folder when first needed."""

    recipe: Recipe
    folder: Path
    minutes: float
    committed: Path | None = BASE  # the base to go on from where the build folder holds nothing

    @cached_property
    def cutouts(self) -> dict[str, Any]:
        """The drawings."""
        return art.load(self.folder / "art.npz")

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer."""
        from transformers import CLIPTokenizer

        own = self.folder / "tokenizer"
        where = own if own.exists() or not self.committed else self.committed / "tokenizer"
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(where)
        return tokenizer

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The trained autoencoder with unit latents, its decoder as far as that has been polished."""
        model = self._packed_vae() if self.has_committed("vae", "vae") else self._own_vae()
        if (self.folder / "decoder.pt").exists():
            vae.decoder_of(model).load_state_dict(self.state("decoder")["model"])
        return model.eval().requires_grad_(False)

    def _packed_vae(self) -> AutoencoderKL:
        from diffusers import AutoencoderKL

        packed: AutoencoderKL = AutoencoderKL.from_pretrained(self.committed, subfolder="vae")
        return packed.float()

    def _own_vae(self) -> AutoencoderKL:
        import numpy as np

        model = vae.new(self.recipe).requires_grad_(False)
        model.load_state_dict(self.state("vae")["model"])
        vae.normalise(model, np.stack([draw(self.recipe.seen, self.cutouts, seed).pixels for seed in NORMALISED_ON]))
        return model

    @cached_property
    def text(self) -> CLIPTextModel:
        """The text encoder the denoiser listens to."""
        from transformers import CLIPTextModel

        if self.has_committed("clip-text", "text_encoder"):
            packed: CLIPTextModel = CLIPTextModel.from_pretrained(self.committed, subfolder="text_encoder")
            return packed.eval().requires_grad_(False)
        return self.pair("clip-text").text_model

    @cached_property
    def judge(self) -> CLIPModel:
        """The pair `eval` measures with."""
        from transformers import CLIPModel

        if self.has_committed("clip-eval", "eval"):
            packed: CLIPModel = CLIPModel.from_pretrained(self.committed, subfolder="eval")
            return packed.float().eval().requires_grad_(False)
        return self.pair("clip-eval")

    def has_committed(self, name: str, part: str) -> bool:
        """Whether a network is only at hand in the committed base."""
        return not (self.folder / f"{name}.pt").exists() and bool(self.committed and (self.committed / part).exists())

    def pair(self, name: str) -> CLIPModel:
        """A CLIP pair trained here."""
        model = clip.new(self.recipe, self.tokenizer).eval().requires_grad_(False)
        model.load_state_dict(self.state(name)["model"])
        words.give_names(model.text_model, self.tokenizer)
        return model

    def state(self, name: str) -> dict[str, Any]:
        """The training state of a network."""
        state: dict[str, Any] = torch.load(self.folder / f"{name}.pt", map_location="cpu", weights_only=True)
        return state


def make_artwork(shop: Workshop) -> Iterator[Progress]:
    """Collect the drawings by package name, unless a file of them was brought along."""
    if not (shop.folder / "art.npz").exists():
        yield from _told(artwork.make(shop.folder))


def make_tokenizer(shop: Workshop) -> Iterator[Progress]:
    """Learn the tokenizer from captions."""
    if (shop.folder / "tokenizer").exists() or (shop.committed and (shop.committed / "tokenizer").exists()):
        return
    captions = (draw(shop.recipe.seen, shop.cutouts, seed).caption for seed in range(CAPTIONS))
    words.build(captions, shop.recipe.merges, shop.recipe.positions, shop.folder / "tokenizer")
    yield Progress("tokenizer", CAPTIONS, 0.0, 0.0)


def make_text(shop: Workshop) -> Iterator[Progress]:
    """Train the pair whose text half the denoiser listens to."""
    if not shop.has_committed("clip-text", "text_encoder"):
        yield from clip.train("clip-text", shop.recipe, shop.tokenizer, shop.cutouts, shop.folder, shop.minutes)


def make_eval(shop: Workshop) -> Iterator[Progress]:
    """Train the pair `eval` measures with."""
    if not shop.has_committed("clip-eval", "eval"):
        yield from clip.train("clip-eval", shop.recipe, shop.tokenizer, shop.cutouts, shop.folder, shop.minutes)


def make_vae(shop: Workshop) -> Iterator[Progress]:
    """Train the autoencoder."""
    if not shop.has_committed("vae", "vae"):
        yield from vae.train(shop.recipe, shop.cutouts, shop.folder, shop.minutes)


def make_decoder(shop: Workshop) -> Iterator[Progress]:
    """Train the decoder further; may run beside or after the denoiser's training."""
    return vae.polish(shop.vae, shop.recipe, shop.cutouts, shop.folder, shop.minutes)


def make_unet(shop: Workshop) -> Iterator[Progress]:
    """Encode banks of pictures and train the denoiser on them."""
    if shop.has_committed("unet", "unet") and shop.committed:
        write(pack.committed(shop.committed, unet.new(shop.recipe)) | {"update": 0}, shop.folder / "unet.pt")
    stored = unet.banks(shop.recipe, shop.vae.to(device()), shop.tokenizer, shop.cutouts, shop.folder)
    text = shop.text.to(device())
    yield from unet.train(shop.recipe, text, shop.tokenizer, stored, shop.folder, shop.minutes)


def make_base(shop: Workshop) -> Iterator[Progress]:
    """Pack what was trained into the base folder."""
    state = shop.state("unet")
    pack.pack(
        BASE, text=shop.text, tokenizer=shop.tokenizer, vae=shop.vae,
        denoiser=pack.averaged(state, unet.new(shop.recipe)), pair=shop.judge, size=shop.recipe.size,
    )  # fmt: skip
    yield Progress("base", int(state["update"]) * unet.BATCH, 0.0, 0.0)


def make_data(shop: Workshop) -> Iterator[Progress]:
    """Draw what ships beside the networks: the corpus and the photo folders."""
    yield from _told(corpus.make(shop.cutouts, BASE))
    yield from _told(photosets.make(shop.cutouts, BASE.parent / "photos"))


def make_card(shop: Workshop) -> Iterator[Progress]:
    """Measure the packed base and write its card."""
    yield from _told(card.of_base(BASE, shop.recipe, shop.cutouts, BASE.parent / "card", shop.folder))


def _told(made: Iterator[tuple[str, int]]) -> Iterator[Progress]:
    return (Progress(name, number, 0.0, 0.0) for name, number in made)


STAGES: dict[str, Callable[[Workshop], Iterator[Progress]]] = {
    "artwork": make_artwork,
    "tokenizer": make_tokenizer,
    "clip-text": make_text,
    "clip-eval": make_eval,
    "vae": make_vae,
    "unet": make_unet,
    "decoder": make_decoder,
    "base": make_base,
    "data": make_data,
    "card": make_card,
}


def main() -> None:
    """Run the stages named on the command line, all of them by default."""
    options = argparse.ArgumentParser(prog="python -m cdtool.mini.factory.build", description=__doc__)
    options.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; all by default")
    options.add_argument("--folder", type=Path, default=BUILD, help="where the work lies")
    options.add_argument("--minutes", type=float, default=float("inf"), help="stop each stage after so long")
    options.add_argument("--threads", type=int, default=0, help="CPU threads to use")
    options.add_argument("--anew", action="store_true", help="do not go on from the committed base")
    chosen = options.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    shop = Workshop(Recipe(), chosen.folder, chosen.minutes, None if chosen.anew else BASE)
    for stage in chosen.stages or STAGES:
        for progress in STAGES[stage](shop):
            print(*progress, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
