"""The model card of the embedded base: its scores on pictures and captions it never saw, and sheets to look at."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from cdtool.images.sheets import Row, contact_sheet
from cdtool.mini.factory import cardpage, clip, naming, unet, vae
from cdtool.mini.factory.cardpage import Scores
from cdtool.mini.factory.naming import FORMS, Naming
from cdtool.mini.factory.recipe import Recipe, device
from cdtool.mini.factory.world import draw
from cdtool.models import encoders

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from numpy.typing import NDArray

    from cdtool.models.encoders import Encoder

# Seeds nothing was trained on: of the scored captions, of the VAE's pictures, and of those that choose how to ask.
SINGLES, PAIRS, UNSEEN, CHOOSING = 600_000_000, 610_000_000, 620_000_000, 630_000_000
STEPS, GUIDANCE, ETA = 50, 5.0, 1.0
BATCH = 25
SHOWN = (40, 24)  # samples on the sheet: of one thing, of two
REBUILT = 200  # unseen pictures whose reconstruction is measured
CHOSEN_ON = 500  # world pictures that choose the row of FORMS
BATCHES = {"clip-text": clip.BATCH, "clip-eval": clip.BATCH, "vae": vae.BATCH, "decoder": vae.BATCH,
           "unet": unet.BATCH}  # fmt: skip


class Trial(NamedTuple):
    """Samples of captions and how the pair names them and the world's own pictures of the same captions."""

    captions: list[str]
    nouns: list[tuple[str, ...]]
    images: list[Image.Image]
    drawn: Naming
    real: Naming


def of_base(
    base: Path, recipe: Recipe, cutouts: dict[str, Any], folder: Path, build: Path
) -> Iterator[tuple[str, int]]:
    """Write the card of the base folder `base`, whose trainings lie in `build`, into `folder`."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32).to(device())
    pair = encoders.load(encoders.encoder_for(base), str(device()))
    yield from make(pipe, pair, recipe, cutouts, folder, seen=seen(build))


def make(
    pipe: StableDiffusionPipeline, pair: Encoder, recipe: Recipe, cutouts: dict[str, Any], folder: Path,
    *, singles: int = 500, pairs: int = 200, seen: Mapping[str, int] | None = None,
) -> Iterator[tuple[str, int]]:  # fmt: skip
    """Measure a pipeline with an `eval` pair and write the card into `folder`; yields what was done to how many."""
    folder.mkdir(parents=True, exist_ok=True)
    unseen = np.stack([draw(recipe.seen, cutouts, UNSEEN + at).pixels for at in range(REBUILT)])
    reconstructions(pipe, unseen[:12]).save(folder / "reconstructions.png", optimize=True)
    yield "reconstructions", len(unseen)
    ways = _ways(pair, recipe, cutouts)
    one = yield from _trial(pipe, pair, recipe, cutouts, next(iter(ways)), SINGLES, singles, two=False)
    two = yield from _trial(pipe, pair, recipe, cutouts, next(iter(ways)), PAIRS, pairs, two=True)
    first = replace(recipe, course=recipe.course[:1])
    plain = yield from _trial(pipe, pair, first, cutouts, next(iter(ways)), SINGLES, singles // 2, two=False)
    by_noun, taken_for = naming.confusions(one.drawn.first, [nouns[0] for nouns in one.nouns])
    scores = Scores(
        psnr=vae.psnr(pipe.vae, unseen), plain=singles // 2, plain_named=plain.drawn.among(1),
        plain_ceiling=plain.real.among(1), singles=singles, named=one.drawn.among(1), named_ceiling=one.real.among(1),
        pairs=pairs, both=two.drawn.among(5), both_ceiling=two.real.among(5), nouns=len(recipe.world.names()),
        forms=next(iter(ways)), ways=ways, by_noun=by_noun, taken_for=taken_for, numbers=numbers(pipe), seen=seen or {},
        steps=STEPS, guidance=GUIDANCE, eta=ETA, size=recipe.size,
    )  # fmt: skip
    shown, told = one.images[: SHOWN[0]] + two.images[: SHOWN[1]], one.captions[: SHOWN[0]] + two.captions[: SHOWN[1]]
    captioned(shown, told).save(folder / "samples.png", optimize=True)
    (folder / "scores.json").write_text(json.dumps(asdict(scores), indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(cardpage.page(scores, recipe), encoding="utf-8")
    yield "card", singles + pairs


def _ways(pair: Encoder, recipe: Recipe, cutouts: dict[str, Any]) -> dict[str, float]:
    world = replace(recipe.world, pairs=0.0)
    drawn = [draw(world, cutouts, CHOOSING + at) for at in range(CHOSEN_ON)]
    images = [Image.fromarray(picture.pixels) for picture in drawn]
    return naming.compare_forms(pair, images, world.names(), [picture.nouns for picture in drawn])


def _trial(
    pipe: StableDiffusionPipeline, pair: Encoder, recipe: Recipe, cutouts: dict[str, Any], forms: str,
    first: int, count: int, *, two: bool,
) -> Generator[tuple[str, int], None, Trial]:  # fmt: skip
    """Draw `count` captions of one or two things from seed `first`, sample each once, and name what is there."""
    world = replace(recipe.world, pairs=float(two), rare=0.0)
    drawn = [draw(world, cutouts, seed) for seed in range(first, first + count)]
    captions, nouns = [picture.caption for picture in drawn], [picture.nouns for picture in drawn]
    images: list[Image.Image] = []
    for start in range(0, count, BATCH):
        images += sample(pipe, captions[start : start + BATCH], first + start)
        yield "samples of two" if two else "samples of one", len(images)
    known = naming.noun_features(pair, world.names(), FORMS[forms])
    real = [Image.fromarray(picture.pixels) for picture in drawn]
    named, ceiling = (naming.name(pair, shown, world.names(), known, nouns) for shown in (images, real))
    return Trial(captions, nouns, images, named, ceiling)


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
    for name, batch in BATCHES.items():
        if (path := build / f"{name}.pt").is_file():
            found[name] = batch * int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["update"])
    return found
