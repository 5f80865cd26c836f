"""The stages that make the embedded base, each going on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cdtool.mini.factory import (
    art,
    artwork,
    autoencoder,
    bank,
    card,
    corpus,
    denoiser,
    drawings,
    judge,
    keeping,
    lookalikes,
    packing,
    photosets,
    proofs,
    telling,
    words,
)
from cdtool.mini.factory.loop import Report
from cdtool.mini.factory.wider import Wide, draw

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CAPTIONS = range(1_000_000_000, 1_000_020_000)  # seeds of the captions the tokenizer learns from
MERGES = 1500
POSITIONS = 24
RARE = 240  # words for modifier tokens to begin as


@dataclass
class Workshop:
    """Where the work lies, and what earlier stages made."""

    folder: Path
    minutes: float = float("inf")
    shards: int = 50
    name: str = "student"  # of the denoiser's training, for experiments
    shape: denoiser.Shape = field(default_factory=denoiser.Shape)
    world: Wide = field(default_factory=Wide)

    @cached_property
    def shelf(self) -> drawings.Shelf:
        """The drawings that may be learned."""
        return drawings.shelf(art.load(self.folder / "drawings.npz"))

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer."""
        from transformers import CLIPTokenizer

        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(self.folder / "tokenizer")
        return tokenizer

    @property
    def training(self) -> Path:
        """The state of the denoiser's training."""
        return self.folder / f"{self.name}.pt"


def make_drawings(shop: Workshop) -> Iterator[Report]:
    """Collect all drawings of the three sets, and those held out, unless files of them were brought along."""
    sets = None
    for name, collect in (("drawings", drawings.collect), ("art", art.collect)):
        path = shop.folder / f"{name}.npz"
        if not path.exists():
            sets = sets or artwork.sets(shop.folder)
            art.save(collect(*sets), path)
            yield Report(name, 0, 0.0, 0.0)


def make_tokenizer(shop: Workshop) -> Iterator[Report]:
    """Learn the tokenizer from captions."""
    if not (shop.folder / "tokenizer").exists():
        captions = (draw(shop.world, shop.shelf, seed).caption for seed in CAPTIONS)
        merges = words.learn_merges(captions, MERGES)
        rare = [*telling.NAMES, *words.rare_words(merges, RARE)]
        words.save(words.with_rare(merges, rare), POSITIONS, shop.folder / "tokenizer")
        yield Report("tokenizer", len(CAPTIONS), 0.0, 0.0)


def make_vae(shop: Workshop) -> Iterator[Report]:
    """Train the autoencoder."""
    keeping.restore(shop.folder, "vae")
    yield from autoencoder.train(autoencoder.new(), shop.shelf, shop.folder, shop.minutes)


def make_decoder(shop: Workshop) -> Iterator[Report]:
    """Train the decoder further; may run beside or after the denoiser's training."""
    vae = autoencoder.trained(shop.folder, shop.shelf)
    yield from autoencoder.polish(vae, shop.shelf, shop.folder, shop.minutes)


def make_bank(shop: Workshop) -> Iterator[Report]:
    """Draw and encode the pictures the denoiser learns from, and those it is checked on."""
    vae = autoencoder.trained(shop.folder, shop.shelf)
    numbers = [bank.CHECKED, *range(shop.shards)]
    yield from bank.fill(shop.world, shop.shelf, vae, shop.tokenizer, shop.folder, numbers)


def make_student(shop: Workshop) -> Iterator[Report]:
    """Train the denoiser and its text encoder."""
    keeping.restore(shop.folder, shop.name)
    return denoiser.train(shop.shape, shop.tokenizer, shop.folder, shop.minutes, shop.name)


def make_judge(shop: Workshop) -> Iterator[Report]:
    """Train the pair that `eval` measures with."""
    keeping.restore(shop.folder, "judge")
    return judge.train(shop.shelf, shop.tokenizer, shop.folder, shop.minutes)


def make_kept(shop: Workshop) -> Iterator[Report]:
    """Write what was trained so far in files that travel: in `kept`, with tokenizer and the latents' scale beside."""
    for name in (*keeping.AVERAGED, shop.name):
        if (shop.folder / f"{name}.pt").exists():
            made = keeping.keep(shop.folder, name)
            yield Report(f"kept {name}", sum(path.stat().st_size for path in made), 0.0, 0.0)


def make_proofs(shop: Workshop) -> Iterator[Report]:
    """Draw a sheet of samples from what has been trained so far."""
    student = denoiser.averaged(shop.shape, shop.tokenizer, shop.training)
    vae = autoencoder.trained(shop.folder, shop.shelf)
    path = shop.folder / f"{shop.name}.png"
    proofs.sheet(student, vae, shop.tokenizer, art.load(shop.folder / "art.npz"), path)
    yield Report(str(path), 0, 0.0, 0.0)


def make_base(shop: Workshop) -> Iterator[Report]:
    """Pack what was trained into `base` in the folder; the base that ships stays until it is replaced by hand."""
    student = denoiser.averaged(shop.shape, shop.tokenizer, shop.training)
    views = bank.read(shop.folder, bank.CHECKED).views[:512, 0].float() / 127.5 - 1
    packing.name_rare(student, shop.tokenizer, views)
    vae, pair = autoencoder.trained(shop.folder, shop.shelf), judge.trained(shop.tokenizer, shop.folder)
    nouns = [noun for noun in corpus.class_nouns() if noun in shop.shelf.nouns]
    packing.pack(shop.folder / "base", student, vae, pair, shop.tokenizer, nouns)
    yield Report("base", card.seen(shop.folder)[shop.name], 0.0, 0.0)


def make_photos(shop: Workshop) -> Iterator[Report]:
    """Take the photos of all held-out concepts, near and far, into `photos` in the folder."""
    return _told(photosets.make(art.load(shop.folder / "art.npz"), shop.shelf, shop.folder / "photos"))


def make_corpora(shop: Workshop) -> Iterator[Report]:
    """Draw the class images and the validation pictures into `base` in the folder."""
    return _told(corpus.make(shop.shelf, shop.folder / "base"))


def make_lookalikes(shop: Workshop) -> Iterator[Report]:
    """Draw the look-alikes that learnability ranks against."""
    return _told(lookalikes.make(art.load(shop.folder / "art.npz"), shop.shelf, shop.folder / "lookalikes"))


def make_things(shop: Workshop) -> Iterator[Report]:
    """Write the held-out things themselves, which are the most that learnability can find."""
    return _told(lookalikes.make_things(art.load(shop.folder / "art.npz"), shop.shelf, shop.folder / "things"))


def make_card(shop: Workshop) -> Iterator[Report]:
    """Measure the packed base and write its page into `card` in the folder."""
    return _told(card.make(shop.folder / "base", shop.shelf, shop.folder / "card", card.seen(shop.folder)))


def _told(made: Iterator[tuple[str, int]]) -> Iterator[Report]:
    return (Report(name, number, 0.0, 0.0) for name, number in made)


STAGES: dict[str, Callable[[Workshop], Iterator[Report]]] = {
    "drawings": make_drawings,
    "tokenizer": make_tokenizer,
    "vae": make_vae,
    "bank": make_bank,
    "student": make_student,
    "decoder": make_decoder,
    "judge": make_judge,
    "keep": make_kept,
    "proofs": make_proofs,
    "photos": make_photos,
    "lookalikes": make_lookalikes,
    "things": make_things,
    "base": make_base,
    "corpora": make_corpora,
    "card": make_card,
}
