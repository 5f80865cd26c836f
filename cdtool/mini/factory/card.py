"""The model card of the embedded base: its scores on pictures and captions it never saw, and sheets to look at."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from cdtool.images.sheets import Row, contact_sheet
from cdtool.mini.factory import cardpage, naming, vae
from cdtool.mini.factory.autoencoder import quality
from cdtool.mini.factory.cardpage import Scores
from cdtool.mini.factory.looks import Dials
from cdtool.mini.factory.loop import device
from cdtool.mini.factory.naming import FORMS, Naming
from cdtool.mini.factory.wider import COMMON, Wide, draw
from cdtool.models import encoders

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from numpy.typing import NDArray

    from cdtool.mini.factory.drawings import Shelf
    from cdtool.mini.factory.wider import Scene
    from cdtool.models.encoders import Encoder

# Seeds nothing was trained on: of the scored captions, of the VAE's pictures, and of those that choose how to ask.
SINGLES, PAIRS, UNSEEN, CHOOSING = 1_620_000_000, 1_630_000_000, 1_640_000_000, 1_650_000_000
ALL = Wide(named=0.0, hybrids=0.0, pairs=0.0)  # one thing, as captions tell it
TWO = replace(ALL, pairs=1.0)
PLAIN = replace(ALL, common=1.0, tinted=0.0, sized=0.0, styles=0.0,
                dials=Dials(recoloured=0.0, marked=0.0, worn=0.0))  # fmt: skip
STEPS, GUIDANCE, ETA = 50, 5.0, 1.0
BATCH = 25
SHOWN = (40, 24)  # samples on the sheet: of one thing, of two
CHOSEN_ON = 500  # world pictures that choose the row of FORMS


@dataclass(frozen=True)
class Counts:
    """How much is measured."""

    plain: int = 250
    singles: int = 500
    pairs: int = 200
    rebuilt: int = 200


class Trial(NamedTuple):
    """Samples of captions and how the pair names them and the world's own pictures of the same captions."""

    scenes: list[Scene]
    images: list[Image.Image]
    drawn: Naming
    real: Naming


class Judge(NamedTuple):
    """The measuring pair, the nouns it ranks and their text features [n, d]."""

    pair: Encoder
    nouns: list[str]
    known: NDArray[np.float32]


def make(
    base: Path, shelf: Shelf, folder: Path, seen: Mapping[str, int], counts: Counts | None = None
) -> Iterator[tuple[str, int]]:
    """Measure the base in `base` and write its card into `folder`; yields what was done to how many."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(base).to(device(), torch.float32)
    pair = encoders.load(encoders.encoder_for(base), str(device()))
    yield from of_pipeline(pipe, pair, shelf, folder, seen, counts or Counts())


def of_pipeline(
    pipe: StableDiffusionPipeline, pair: Encoder, shelf: Shelf, folder: Path, seen: Mapping[str, int], counts: Counts
) -> Iterator[tuple[str, int]]:
    """As `make`, of a pipeline and a pair at hand."""
    folder.mkdir(parents=True, exist_ok=True)
    unseen = np.stack([draw(Wide(), shelf, UNSEEN + at).pixels for at in range(counts.rebuilt)])
    reconstructions(pipe, unseen[:12]).save(folder / "reconstructions.png", optimize=True)
    yield "reconstructions", len(unseen)
    nouns = list(shelf.nouns)
    ways = _ways(pair, shelf, nouns)
    forms = next(iter(ways))
    judge = Judge(pair, nouns, naming.noun_features(pair, nouns, FORMS[forms]))
    plain = yield from _trial(pipe, judge, shelf, PLAIN, range(SINGLES, SINGLES + counts.plain))
    one = yield from _trial(pipe, judge, shelf, ALL, range(SINGLES, SINGLES + counts.singles))
    two = yield from _trial(pipe, judge, shelf, TWO, range(PAIRS, PAIRS + counts.pairs))
    by_noun, taken_for = naming.confusions(plain.drawn.first, [scene.nouns[0] for scene in plain.scenes])
    scores = Scores(
        psnr=float(quality(pipe.vae, unseen).mean()), plain=counts.plain, plain_named=plain.drawn.among(1),
        plain_ceiling=plain.real.among(1), singles=counts.singles, named=one.drawn.among(1),
        named_ceiling=one.real.among(1), pairs=counts.pairs, both=two.drawn.among(5), both_ceiling=two.real.among(5),
        nouns=len(nouns), common=len(COMMON), drawings=len(shelf.drawings), forms=forms, ways=ways, by_noun=by_noun,
        taken_for=taken_for, numbers=numbers(pipe), seen=dict(seen), steps=STEPS, guidance=GUIDANCE, eta=ETA,
        size=unseen.shape[1],
    )  # fmt: skip
    shown = one.images[: SHOWN[0]] + two.images[: SHOWN[1]]
    told = [scene.caption for scene in one.scenes[: SHOWN[0]] + two.scenes[: SHOWN[1]]]
    captioned(shown, told).save(folder / "samples.png", optimize=True)
    (folder / "scores.json").write_text(json.dumps(asdict(scores), indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(cardpage.page(scores), encoding="utf-8")
    yield "card", counts.plain + counts.singles + counts.pairs


def _ways(pair: Encoder, shelf: Shelf, nouns: list[str]) -> dict[str, float]:
    scenes = [draw(ALL, shelf, CHOOSING + at) for at in range(CHOSEN_ON)]
    images = [Image.fromarray(scene.pixels) for scene in scenes]
    return naming.compare_forms(pair, images, nouns, [scene.nouns for scene in scenes])


def _trial(
    pipe: StableDiffusionPipeline, judge: Judge, shelf: Shelf, world: Wide, seeds: range
) -> Generator[tuple[str, int], None, Trial]:
    """Sample the captions of `seeds` once each, and name what is there."""
    scenes = [draw(world, shelf, seed) for seed in seeds]
    captions, nouns = [scene.caption for scene in scenes], [scene.nouns for scene in scenes]
    images: list[Image.Image] = []
    for start in range(0, len(seeds), BATCH):
        images += sample(pipe, captions[start : start + BATCH], seeds.start + start)
        yield "samples of two" if world.pairs else "samples of one", len(images)
    real = [Image.fromarray(scene.pixels) for scene in scenes]
    named, ceiling = (naming.name(judge.pair, shown, judge.nouns, judge.known, nouns) for shown in (images, real))
    return Trial(scenes, images, named, ceiling)


def sample(pipe: StableDiffusionPipeline, captions: Sequence[str], seed: int) -> list[Image.Image]:
    """One sample of each caption by the plain pipeline, seeds counting up from `seed`."""
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed + at) for at in range(len(captions))]
    made = pipe(list(captions), num_inference_steps=STEPS, guidance_scale=GUIDANCE, eta=ETA, generator=generators)
    images: list[Image.Image] = made.images
    return images


@torch.no_grad()
def reconstructions(pipe: StableDiffusionPipeline, pictures: NDArray[np.uint8]) -> Image.Image:
    """Pictures [n, height, width, 3] above what the autoencoder makes of them."""
    batch = vae.pixels(pictures).to(pipe.vae.device, pipe.vae.dtype)
    back = pipe.vae.decode(pipe.vae.encode(batch).latent_dist.mean).sample
    again = back.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = (("pictures never trained on", pictures), ("after encoding and decoding", again))
    return contact_sheet([Row(label, [Image.fromarray(image) for image in images]) for label, images in rows])


def captioned(images: Iterable[Image.Image], captions: Sequence[str], columns: int = 8, side: int = 128) -> Image.Image:
    """Pictures in rows, each with its caption under it on up to three lines."""
    font, gap, line = ImageFont.load_default(11), 8, 13
    high = side + 3 * line + gap
    sheet = Image.new("RGB", (columns * (side + gap) + gap, -(-len(captions) // columns) * high + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = gap + place % columns * (side + gap), gap + place // columns * high
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (left, top))
        for row, text in enumerate(_wrapped(caption, font, side)[:3]):
            pen.text((left, top + side + row * line), text, fill=(40, 40, 40), font=font)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def numbers(pipe: StableDiffusionPipeline) -> dict[str, int]:
    """How many numbers each network of a pipeline holds."""
    parts = {"UNet": pipe.unet, "VAE": pipe.vae, "text encoder": pipe.text_encoder}
    return {name: sum(weights.numel() for weights in part.parameters()) for name, part in parts.items()}


def seen(build: Path) -> dict[str, int]:
    """How many pictures each training whose state lies in `build` has seen."""
    found = {}
    for name in ("vae", "decoder", "student", "judge"):
        if (path := build / f"{name}.pt").is_file():
            found[name] = int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["pictures"])
    return found
